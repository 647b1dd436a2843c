"""The latency that no schedule beats: against all schedules of tiny programs, and worked out by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from schedules import least_latency as least_of_all_schedules
from schedules import problems
from weight_programs import seconds, weight_program

from occ.errors import InternalError
from occ.ir import Program, Reader, Sizing
from occ.passes.fluid import least_latency
from occ.passes.liveness import liveness
from occ.passes.prefetch import Problem, make_problem
from occ.passes.sizing import size, smallest_pool
from occ.passes.tiling import tile, tile_uses
from occ.passes.timing import predict
from occ.units import PAGE


def problem_of(program: Program, durations: list[float], reader: Reader, pool_nbytes: int) -> Problem:
    tiles = tile(program)
    live = liveness(program).live_nbytes
    return make_problem(tiles, tile_uses(program, tiles), live, durations, reader, pool_nbytes)


def bound(program: Program, durations: list[float], reader: Reader, pool_nbytes: int) -> float:
    return least_latency(problem_of(program, durations, reader, pool_nbytes))


def chain(weights: int) -> Program:
    """Step i reads weight i of one page."""
    return weight_program([PAGE] * weights, [[w] for w in range(weights)])


def test_computing_bounds_where_everything_fits() -> None:
    assert bound(chain(4), [1.0] * 4, Reader(PAGE), 4 * PAGE) == pytest.approx(4.0, rel=1e-5)


def test_reading_bounds_where_nothing_can_stay() -> None:
    # One page of memory: while a step computes, no byte of the next tile can come.
    assert bound(chain(4), [1.0] * 4, Reader(PAGE), PAGE) == pytest.approx(8.0, rel=1e-5)
    assert bound(chain(4), [0.25] * 4, Reader(PAGE), 2 * PAGE) == pytest.approx(3.0, rel=1e-5)


def test_reading_slows_computing() -> None:
    # Two of four tiles stay, one is computed with and one is on its way.
    assert bound(chain(4), [1.0] * 4, Reader(4 * PAGE, 0.0, 1.25), 4 * PAGE - 1) > 4.0


def test_a_full_pool_holds_reading_back_before_memory_is_free() -> None:
    # The first step takes all memory but its own tile's; the tiles of the others come while it is over.
    program = weight_program([PAGE] * 3, [[0], [1], [2]], scratch=[2 * PAGE, 0, 0])
    durations = [10.0, 0.0, 0.0]
    assert bound(program, durations, Reader(PAGE), 3 * PAGE) == pytest.approx(12.0, rel=1e-5)
    assert bound(program, durations, Reader(PAGE), 5 * PAGE) == pytest.approx(10.0, rel=1e-5)


@given(problems())
@settings(max_examples=150, deadline=None)
def test_no_plan_beats_it(case: tuple[Program, list[float], Reader, int]) -> None:
    program, durations, reader, pool_nbytes = case
    found = size(program, liveness(program), seconds(durations), reader, pool_nbytes)
    assert isinstance(found, Sizing)
    latency = predict(found, seconds(durations), reader, max_runs=200).latency
    assert bound(program, durations, reader, pool_nbytes) <= latency * (1 + 1e-5) + 1e-6


def test_nothing_bounds_a_pool_that_holds_no_step() -> None:
    with pytest.raises(InternalError, match=str(PAGE - 1)):
        bound(chain(4), [1.0] * 4, Reader(PAGE), PAGE - 1)


def test_no_schedule_of_tiny_programs_beats_it_and_the_best_come_close() -> None:
    rng = random.Random(1)
    shares = []
    for _ in range(40):
        weights = [PAGE * rng.randint(1, 4) for _ in range(rng.randint(2, 4))]
        order = [[w] for w in range(len(weights))]
        order.insert(rng.randint(0, len(order)), rng.choice([[], [rng.randrange(len(weights))]]))
        scratch = [rng.choice([0, 0, PAGE, 3 * PAGE]) for _ in order]
        program = weight_program(weights, order, scratch)
        durations = [float(rng.randint(0, 6)) for _ in order]
        smallest = smallest_pool(program, liveness(program)).nbytes
        pool_nbytes = rng.randint(smallest, max(smallest, sum(weights) + max(scratch)))
        reader = Reader(
            PAGE * rng.choice([1.0, 2.0]),
            rng.choice([0.0, 0.5]),
            rng.choice([1.0, 1.25]),
            rng.choice([0.0, 0.25]),
            rng.choice([0.0, 0.5]),
        )
        uses = tile_uses(program, tile(program))
        best = least_of_all_schedules(program, durations, reader, pool_nbytes, uses)
        least = bound(program, durations, reader, pool_nbytes)
        assert least <= best * (1 + 1e-5) + 1e-6
        shares.append(least / best if best else 1.0)
    # Tiles of these programs are a third of the pool; fluid ones have no such size.
    print(f"of the best of all schedules: {sum(shares) / len(shares):.3f}")
    assert sum(shares) / len(shares) > 0.8
