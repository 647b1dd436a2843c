"""Random problems of sizing, and the best of all schedules of a tiny one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from hypothesis import strategies as st
from weight_programs import taken, weight_program

from occ.ir import Load, Program, Reader
from occ.passes.liveness import liveness
from occ.passes.sizing import smallest_pool
from occ.passes.tiling import TileUses, tile
from occ.passes.timing import simulate
from occ.units import PAGE


@st.composite
def problems(draw: st.DrawFn) -> tuple[Program, list[float], Reader, int]:
    """A random program whose weights may be shared, and a pool of at least the smallest size."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=10))
    reads = st.lists(st.integers(0, len(sizes) - 1), max_size=2, unique=True)
    steps = draw(st.lists(reads, min_size=1, max_size=14))
    scratch = draw(st.lists(st.integers(0, 4 * PAGE), min_size=len(steps), max_size=len(steps)))
    program = weight_program([s * PAGE for s in sizes], steps, scratch)
    durations = draw(st.lists(st.integers(0, 6).map(float), min_size=len(steps), max_size=len(steps)))
    reader = Reader(
        PAGE * draw(st.sampled_from([0.5, 1.0, 4.0])),
        draw(st.sampled_from([0.0, 0.5])),
        draw(st.sampled_from([1.0, 1.25])),
        draw(st.sampled_from([0.0, 0.25])),
        draw(st.sampled_from([0.0, 0.5])),
    )
    smallest = smallest_pool(program, liveness(program)).nbytes
    return program, durations, reader, smallest + draw(st.integers(0, 12 * PAGE))


def joinings(used: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """All ways to cut ascending use steps into stays (first, last)."""
    for cuts in product([False, True], repeat=len(used) - 1):
        stays = [[used[0], used[0]]]
        for step, cut in zip(used[1:], cuts, strict=True):
            if cut:
                stays.append([step, step])
            else:
                stays[-1][1] = step
        yield [(first, last) for first, last in stays]


def schedules_of_tile(t: int, used: Sequence[int], steps: int) -> Iterator[tuple[Load, ...]]:
    """Every way to load a streamed tile."""
    for stays in joinings(used):
        after = [stays[-1][1] - steps, *(last for _, last in stays[:-1])]
        choices = [
            [Load(t, issue % steps, first, last, wraps=issue < 0) for issue in range(previous + 1, first + 1)]
            for (first, last), previous in zip(stays, after, strict=True)
        ]
        yield from product(*choices)


def least_latency(
    program: Program, durations: list[float], reader: Reader, pool_nbytes: int, uses: TileUses
) -> float:
    """The least latency of all residencies, joinings and issue steps, loads in order of their deadlines."""
    tiles, live, steps = tile(program), liveness(program), len(program.steps)
    options = [[None, *schedules_of_tile(t, used, steps)] for t, used in enumerate(uses.of_tile)]
    best = float("inf")
    for chosen in product(*options):
        resident = [t for t, option in enumerate(chosen) if option is None]
        loads = [load for option in chosen if option is not None for load in option]
        loads.sort(key=lambda load: (load.issue, load.wraps, load.deadline, load.tile))
        if max(taken(live, tiles, resident, loads)) <= pool_nbytes:
            best = min(best, simulate(durations, tiles, loads, reader, max_runs=12).latency)
    return best
