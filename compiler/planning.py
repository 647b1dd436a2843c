"""The search over Choices: the fastest plan that fits a budget, and the smallest budget that any plan fits.

For one set of Choices the way is straight: rewrite, measure, liveness, sizing, placement. Only two things
send a plan back: a step that does not fit (it is split finer) and fragmentation (the pool shrinks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from occ.errors import BudgetError
from occ.ir import (
    Budget,
    BufferKind,
    Choices,
    Machine,
    Placement,
    Plan,
    Program,
    Sizing,
    StepCost,
)
from occ.passes.items import items_of, placed_buffers
from occ.passes.liveness import Liveness, liveness
from occ.passes.placement.portfolio import place
from occ.passes.sizing import Refinement, explain_peak, size, smallest_pool
from occ.passes.splitting import finer, origins, split_for
from occ.passes.tiling import tile, tile_uses
from occ.passes.timing import Reader, predict
from occ.rewrite import rewrite
from occ.units import PAGE, format_bytes, format_seconds, round_down, round_up

TILE_TARGETS = (256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20)
"""Bytes of weights that a part of a split step reads, candidates: a request below 256 KiB costs an SSD more
time than its bytes do, and above 16 MiB there is nothing left to gain from larger ones."""

LEAST_WINDOW = 4
"""Tiles that a pool should have room for, so that one is computed with while others arrive."""

EFFORT = 0.1
"""Share of the placement's usual effort for the plan that is kept: about two seconds where it is hard."""

WORTH_POLISHING = 0.01
"""Share of the latency spent waiting below which a larger pool cannot help."""

CRC_NBYTES = 4
PLACEMENT_ROUNDS = 6

Progress = Callable[[str], None]
Measure = Callable[[Program], Sequence[StepCost]]
"""Cost of every step of a rewritten program on the target."""


@dataclass(frozen=True)
class PlanningTarget:
    """What planning needs to know of the target."""

    measure: Measure
    reader: Reader
    machine: Machine
    streaming_spin: str


@dataclass(frozen=True)
class Draft:
    """A rewritten program with everything that does not depend on the budget."""

    choices: Choices
    program: Program
    costs: tuple[StepCost, ...]
    liveness: Liveness
    loader_nbytes: int

    @property
    def workspace(self) -> int:
        return max((cost.workspace for cost in self.costs), default=0)

    @property
    def outside_nbytes(self) -> int:
        """Bytes of the budget that the arena cannot have."""
        return self.program.outputs_nbytes + self.loader_nbytes + self.workspace


def plan(
    source: Program, limit: int | None, target: PlanningTarget, progress: Progress = lambda line: None
) -> Plan:
    """The fastest plan for `limit` bytes; without one, all weights resident in the least arena for that.

    Raises BudgetError, with the smallest feasible budget, where `limit` is below that.
    """
    whole = _draft(source, Choices(), target)
    if limit is None:
        return _unlimited(source, whole, target)
    if (unsplit := _fit(whole, limit, target, only_resident=True)) is not None:
        return unsplit
    smallest = _smallest(source, target)
    if limit < smallest.budget.total:
        raise BudgetError(_explain(smallest, limit), smallest.budget.total)
    progress(f"smallest feasible budget {format_bytes(smallest.budget.total)}")
    best = replace(smallest, budget=replace(smallest.budget, limit=limit))
    for choices in _candidates(source, limit - whole.outside_nbytes):
        fitted = _refined(source, choices, limit, target)
        if fitted is not None:
            progress(
                f"{len(choices.splits)} operators split: predicted latency"
                f" {format_seconds(fitted.prediction.latency)}"
            )
        if fitted is not None and fitted.prediction.latency < best.prediction.latency:
            best = fitted
    return _polished(best, limit, source, target)


def _polished(best: Plan, limit: int, source: Program, target: PlanningTarget) -> Plan:
    """The plan's choices again with more effort in the placement: a larger pool may fit."""
    if best.prediction.stall_share < WORTH_POLISHING:
        return best
    draft = _draft(source, best.choices, target)
    again = _fit(draft, limit, target, EFFORT)
    return again if again is not None and again.prediction.latency < best.prediction.latency else best


def smallest_budget(source: Program, target: PlanningTarget) -> int:
    """The smallest budget, in bytes, at which a plan exists that this search finds."""
    return _smallest(source, target).budget.total


def _draft(source: Program, choices: Choices, target: PlanningTarget) -> Draft:
    program = rewrite(source, choices)
    return Draft(
        choices=choices,
        program=program,
        costs=tuple(target.measure(program)),
        liveness=liveness(program),
        loader_nbytes=_checksums_nbytes(program),
    )


def _checksums_nbytes(program: Program) -> int:
    """Bytes the loader holds for tables that stay in the file: a CRC-32 for each of their pages."""
    tables = {program.values[value].buffer for step in program.steps for value in step.stored}
    pages = sum(-(-program.buffers[table].nbytes // PAGE) + 1 for table in tables)
    return round_up(pages * CRC_NBYTES, PAGE)


def _candidates(source: Program, pool_nbytes: int) -> list[Choices]:
    """Choices worth trying for a pool, largest tiles first: fewer parts compute faster, smaller tiles hide
    better."""
    gathers = gatherable(source)
    found: dict[Choices, None] = {}
    for tile_nbytes in sorted(TILE_TARGETS, reverse=True):
        if tile_nbytes * LEAST_WINDOW <= max(pool_nbytes, LEAST_WINDOW * min(TILE_TARGETS)):
            found.setdefault(Choices(split_for(source, tile_nbytes), gathers))
    return list(found)[:3]


def gatherable(source: Program) -> tuple[int, ...]:
    """Lookups that read far fewer bytes of their table than it has: those that a gather serves better."""
    found = []
    for index, step in enumerate(source.steps):
        if step.kernel != "embedding":
            continue
        table, rows = (source.values[value] for value in step.reads)
        is_weight = source.buffers[table.buffer].kind is BufferKind.WEIGHT
        count = 1
        for extent in rows.shape:
            count *= extent
        row_pages = round_up(table.shape[1] * table.itemsize, PAGE) + PAGE
        if (
            is_weight
            and table.strides[-1] == 1
            and 2 * count * row_pages < source.buffers[table.buffer].nbytes
        ):
            found.append(index)
    return tuple(found)


def _refined(source: Program, choices: Choices, limit: int, target: PlanningTarget) -> Plan | None:
    """The plan for these choices, with whatever does not fit split finer until it does."""
    while True:
        draft = _draft(source, choices, target)
        pool = round_down(limit - draft.outside_nbytes, PAGE)
        too_large = _steps_above(draft, pool)
        refined = choices
        came_from = origins(source, draft.program.steps, choices)
        for step in sorted({came_from[index] for index in too_large}):
            refined = finer(source, refined, step) or refined
        if refined == choices:
            return None if too_large else _fit(draft, limit, target)
        choices = refined


def _steps_above(draft: Draft, pool: int) -> list[int]:
    """Steps whose own needs are larger than the pool."""
    found = smallest_pool(draft.program, draft.liveness)
    if found.nbytes <= pool:
        return []
    needs = step_needs(draft.program, draft.liveness)
    return [index for index, need in enumerate(needs) if need > pool]


def step_needs(program: Program, live: Liveness) -> list[int]:
    """Bytes of the arena each step needs by itself: live buffers and the tiles it reads."""
    tiles = tile(program)
    uses = tile_uses(program, tiles)
    return [
        base + sum(tiles[t].nbytes for t in read)
        for base, read in zip(live.live_nbytes, uses.of_step, strict=True)
    ]


def _fit(
    draft: Draft, limit: int, target: PlanningTarget, effort: float = 0, *, only_resident: bool = False
) -> Plan | None:
    """Size and place within the limit, with a smaller pool where fragmentation asks for it."""
    most = round_down(limit - draft.outside_nbytes, PAGE)
    pool = most
    for _ in range(PLACEMENT_ROUNDS):
        sizing = size(draft.program, draft.liveness, draft.costs, target.reader, pool)
        if isinstance(sizing, Refinement) or (only_resident and sizing.loads):
            return None
        items = items_of(draft.program, draft.liveness, sizing)
        placement = place(items, height_limit=most, effort=effort)
        if placement.height <= most:
            return _plan(draft, sizing, placement, limit, target)
        pool = round_down(pool - max(placement.height - most, PAGE), PAGE)
    return None


def _unlimited(source: Program, draft: Draft, target: PlanningTarget) -> Plan:
    everything = sum(buffer.nbytes for buffer in source.buffers) + draft.liveness.peak_nbytes
    roomy = 2 * everything + len(source.grains) * PAGE
    sizing = size(draft.program, draft.liveness, draft.costs, target.reader, roomy)
    assert not isinstance(sizing, Refinement)
    assert not sizing.loads
    return _plan(draft, sizing, _place_low(draft, sizing), None, target)


def _smallest(source: Program, target: PlanningTarget) -> Plan:
    """The plan with the smallest budget: weights in small parts or whole, nothing loaded ahead."""
    gathers = gatherable(source)
    drafts: dict[Choices, Draft] = {}
    for tile_nbytes in (*TILE_TARGETS, PAGE):
        choices = Choices(split_for(source, tile_nbytes), gathers)
        if choices not in drafts:
            drafts[choices] = _draft(source, choices, target)
    floors = [(smallest_pool(draft.program, draft.liveness).nbytes, draft) for draft in drafts.values()]
    best: Plan | None = None
    for pool, draft in sorted(floors, key=lambda floor: floor[0] + floor[1].outside_nbytes):
        if best is not None and best.budget.total <= pool + draft.outside_nbytes:
            break
        sizing = size(draft.program, draft.liveness, draft.costs, target.reader, pool)
        assert not isinstance(sizing, Refinement)
        found = _plan(draft, sizing, _place_low(draft, sizing), None, target)
        if best is None or found.budget.total < best.budget.total:
            best = found
    assert best is not None
    return best


def _place_low(draft: Draft, sizing: Sizing) -> Placement:
    """The lowest placement found; whole pages are what counts."""
    items = items_of(draft.program, draft.liveness, sizing)
    placement = place(items, effort=0)
    lowest = round_up(placement.bound, PAGE)
    return placement if placement.height <= lowest else place(items, height_limit=lowest, effort=EFFORT)


def _plan(
    draft: Draft, sizing: Sizing, placement: Placement, limit: int | None, target: PlanningTarget
) -> Plan:
    buffers = placed_buffers(draft.program, draft.liveness)
    offsets = placement.offsets
    streams = bool(sizing.loads)
    arena = round_up(placement.height, PAGE)
    if arena == round_up(placement.bound, PAGE):
        # The arena is whole pages; none smaller holds the bound.
        placement = replace(placement, optimal=True)
    packs = any(value.packing is not None for value in draft.program.values)
    return Plan(
        program=draft.program,
        choices=draft.choices,
        sizing=sizing,
        buffer_offsets=tuple(zip(buffers, offsets[: len(buffers)], strict=True)),
        tile_offsets=tuple(offsets[len(buffers) :]),
        placement=placement,
        costs=draft.costs,
        budget=Budget(
            limit=limit,
            arena=arena,
            outputs=draft.program.outputs_nbytes,
            loader=draft.loader_nbytes,
            workspace=draft.workspace,
        ),
        prediction=predict(sizing, draft.costs, target.reader),
        machine=replace(
            target.machine,
            spin=target.streaming_spin if streams else "default",
            packing=target.machine.packing if packs else "",
        ),
    )


def _explain(smallest: Plan, limit: int) -> str:
    program = smallest.program
    live = liveness(program)
    floor = smallest_pool(program, live)
    step = program.steps[floor.step]
    held = explain_peak(program, live, floor.step)
    named = ", ".join(f"{tensor.name} {format_bytes(tensor.nbytes)}" for tensor in held[:4])
    rest = f" and {len(held) - 4} more" if len(held) > 4 else ""
    where = f" in {step.module}" if step.module else ""
    budget = smallest.budget
    return (
        f"a budget of {limit} bytes ({format_bytes(limit)}) is too small for {program.name}: the smallest"
        f" that works is {budget.total} ({format_bytes(budget.total)}); step {floor.step}"
        f" ({step.name}{where}) needs {format_bytes(floor.nbytes)} at once: {named}{rest}; outputs take"
        f" {format_bytes(budget.outputs)}, workspace {format_bytes(budget.workspace)}"
    )
