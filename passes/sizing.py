"""Stage 2, pool sizing: which tiles stay in memory, and when each of the others is loaded.

Steps take the bytes of their live buffers; a tile takes its bytes from the issue of its load until after its
last use, a resident one always. At every step the sum is within the pool. Latencies are those of the time
model; placement may need a few more bytes than the sums, for fragmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from occ.errors import InternalError
from occ.ir import Program, Reader, Sizing, StepCost, Tile
from occ.passes.liveness import Liveness
from occ.passes.prefetch import Problem, Schedule, delay, loads_of, make_problem, time_model
from occ.passes.residency import SAME, Variant, choose_residents, variants
from occ.passes.tiling import Tiling, tiling
from occ.passes.timing import simulate
from occ.units import ALIGNMENT, round_up

SPARE_READS = 2
"""Reads (of the largest tile) by which a load is submitted before the loader has to begin it."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """Why no plan fits: `step` needs `need_nbytes` of the pool's `pool_nbytes`, of which its weights take
    `weights_nbytes`. Splitting it finer is what helps, if anything does."""

    step: int
    need_nbytes: int
    weights_nbytes: int
    pool_nbytes: int


@dataclass(frozen=True, slots=True)
class SmallestPool:
    """The least bytes that can work with a program's tiles, and the step that needs them."""

    nbytes: int
    step: int
    weights_nbytes: int


@dataclass(frozen=True, slots=True)
class LiveTensor:
    """Bytes that are in the arena at a step."""

    name: str
    nbytes: int


def size(
    program: Program,
    liveness: Liveness,
    costs: Sequence[StepCost],
    reader: Reader,
    pool_nbytes: int,
) -> Sizing | Refinement:
    """Choose residents and loads for a pool of `pool_nbytes` bytes, with the least predicted latency and,
    for that, the fewest streamed bytes.

    `program` is rewritten, with its `liveness` and one cost per step. The answer is deterministic. A
    Refinement names the step that does not fit even if nothing is loaded ahead.

    Raises InternalError where program, liveness and costs do not belong together.
    """
    return Sizer(program, liveness, costs, reader).size(pool_nbytes)


class Sizer:
    """Sizings of one rewritten program for pools of any size; what they share is made once."""

    def __init__(
        self, program: Program, liveness: Liveness, costs: Sequence[StepCost], reader: Reader
    ) -> None:
        """The arguments are those of `size`, and so are the errors raised."""
        if not len(program.steps) == len(liveness.live_nbytes) == len(costs):
            raise InternalError(
                f"{len(program.steps)} steps, live bytes of {len(liveness.live_nbytes)} and costs of"
                f" {len(costs)}"
            )
        self._tiling = tiling(program)
        self._floor = _floor(liveness, self._tiling)
        self._all_nbytes = liveness.peak_nbytes + sum(t.nbytes for t in self._tiling.tiles)
        self._durations = [cost.seconds for cost in costs]
        self._reader = reader
        self._live_nbytes = liveness.live_nbytes

    def size(self, pool_nbytes: int) -> Sizing | Refinement:
        """What `size` answers for a pool of so many bytes."""
        floor, tiles = self._floor, self._tiling.tiles
        if floor.nbytes > pool_nbytes:
            return Refinement(floor.step, floor.nbytes, floor.weights_nbytes, pool_nbytes)
        if self._all_nbytes <= pool_nbytes:
            return Sizing(tiles, tuple(range(len(tiles))), (), pool_nbytes)
        problem = replace(self._problem, pool_nbytes=pool_nbytes)
        schedule = choose_residents(problem, self._variants)
        if schedule is None:
            raise InternalError(f"no schedule in a pool of {pool_nbytes} bytes, though no step needs more")
        schedule = _relax(problem, schedule, self._durations, self._reader)
        return Sizing(
            tiles=tiles,
            resident=tuple(np.flatnonzero(schedule.resident).tolist()),
            loads=loads_of(schedule, problem.steps),
            pool_nbytes=pool_nbytes,
        )

    @cached_property
    def _problem(self) -> Problem:
        """The problem of the smallest pool."""
        tiles, uses = self._tiling.tiles, self._tiling.uses
        return make_problem(tiles, uses, self._live_nbytes, self._durations, self._reader, self._floor.nbytes)

    @cached_property
    def _variants(self) -> tuple[Variant, ...]:
        return variants(self._problem)


def smallest_pool(program: Program, liveness: Liveness) -> SmallestPool:
    """The largest sum, over all steps, of live bytes and the tiles that the step reads: without loading
    ahead, that much is enough. It is a bound; placement may need a little more. The first such step is
    reported."""
    return _floor(liveness, tiling(program))


def explain_peak(program: Program, liveness: Liveness, step: int) -> tuple[LiveTensor, ...]:
    """What is in the arena at `step` at least, largest first: live buffers (rounded to the alignment) and
    the tiles it reads, each named after its first weight and the number of others in it."""
    cut = tiling(program)
    found = [
        LiveTensor(buffer.name, round_up(buffer.nbytes, ALIGNMENT))
        for buffer, live in zip(program.buffers, liveness.ranges, strict=True)
        if live is not None and live.first <= step < live.last
    ]
    for tile_id in cut.uses.of_step[step]:
        held = cut.tiles[tile_id]
        found.append(LiveTensor(_tile_name(program, held), held.nbytes))
    return tuple(sorted(found, key=lambda tensor: (-tensor.nbytes, tensor.name)))


def _tile_name(program: Program, held: Tile) -> str:
    grains = program.grains[held.first_grain : held.last_grain]
    weights = list(dict.fromkeys(grain.weight for grain in grains))
    name = program.buffers[weights[0]].name
    if len(weights) > 1:
        return f"{name} and {len(weights) - 1} more"
    if grains[-1].end - grains[0].first < program.buffers[weights[0]].nbytes:
        return f"{name}[bytes {grains[0].first}:{grains[-1].end}]"
    return name


def _floor(liveness: Liveness, cut: Tiling) -> SmallestPool:
    worst = SmallestPool(0, 0, 0)
    for step, (live_nbytes, read) in enumerate(zip(liveness.live_nbytes, cut.uses.of_step, strict=True)):
        weights_nbytes = sum(cut.tiles[t].nbytes for t in read)
        if live_nbytes + weights_nbytes > worst.nbytes:
            worst = SmallestPool(live_nbytes + weights_nbytes, step, weights_nbytes)
    return worst


def _relax(problem: Problem, schedule: Schedule, durations: list[float], reader: Reader) -> Schedule:
    """Submit loads later where that costs nothing: shorter ranges are easier to place."""
    if not len(schedule.tile):
        return schedule
    timeline = simulate(durations, problem.tiles, loads_of(schedule, problem.steps), reader)
    latency = time_model(problem, schedule).settle()
    spare = SPARE_READS * float(problem.reads[schedule.tile].max())
    while spare < timeline.latency:
        later = delay(problem, schedule, timeline, spare)
        if time_model(problem, later).settle() <= latency * (1.0 + SAME):
            return later
        spare *= 2.0
    return schedule
