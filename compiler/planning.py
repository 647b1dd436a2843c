"""The search over Choices: the fastest plan that fits a budget, and the smallest budget that any plan fits.

For one set of Choices the way is straight: rewrite, measure, liveness, sizing, placement. Only two things
send a plan back: a step that does not fit (it is split finer) and fragmentation (the pool shrinks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from math import inf

from occ.drafts import TILE_TARGETS, Draft, Drafts, PlanningTarget
from occ.errors import BudgetError
from occ.feed import host_nbytes
from occ.footprint import process_nbytes
from occ.ir import Budget, Choices, Placement, Plan, Program, Sizing
from occ.ladder import Demand, Ladder, Sized, rungs_between
from occ.passes.items import items_of, placed_buffers
from occ.passes.liveness import liveness
from occ.passes.placement.portfolio import place
from occ.passes.sizing import Refinement, explain_peak, size, smallest_pool
from occ.passes.splitting import split_for
from occ.passes.timing import predict
from occ.units import PAGE, format_bytes, round_down, round_up
from occ.unlimited import resident_draft

QUICKEST = 0.8
"""Ratio of computing that no other draft goes below."""

BANDED = 2
"""Drafts with the smallest floors that are cut into bands for the smallest budget."""

EFFORT = 0.1
"""Share of the placement's usual effort for the plan that is kept: about two seconds where it is hard."""

Progress = Callable[[str], None]


class Planner:
    """Plans of one unsplit program for one target at any budgets; what they share is made once."""

    def __init__(self, source: Program, target: PlanningTarget) -> None:
        self._source = source
        self._target = target
        self._drafts = Drafts(source, target)
        self._whole = self._drafts.of(Choices())

    @cached_property
    def unlimited(self) -> Plan:
        """All weights resident, in the least arena in which that is as fast."""
        return _unlimited(self._source, resident_draft(self._drafts), self._target)

    @cached_property
    def smallest(self) -> Plan:
        """The plan with the smallest budget that this search finds."""
        found = _smallest(self._drafts)
        return self._resident(found.budget.total) or found

    @cached_property
    def _ladder(self) -> Ladder[Draft]:
        # Rungs too small for any plan cost nothing, and to know the smallest that is not would cost much.
        least = round_up(self._whole.program.outputs_nbytes, PAGE) + PAGE
        rungs = rungs_between(least, max(least, _resident_budget(self._whole)))
        return Ladder(rungs, self._drafts.at, self._least_latency)

    def _resident(self, limit: int) -> Plan | None:
        """The plan with all weights resident, where that fits; it is made only where it might."""
        if limit < _least_resident_budget(self._whole):
            return None
        return self.unlimited if limit >= self.unlimited.budget.total else None

    def _least_latency(self, budget: int) -> float:
        """Seconds that no draft beats in a budget: it reads what cannot stay, and computes about as long as
        the draft of largest tiles."""
        return self._least_demand.least_latency(budget, replace(self._target.reader, slowdown=1.0))

    @cached_property
    def _least_demand(self) -> Demand:
        seconds = tuple(QUICKEST * seconds for seconds in self._drafts.least_seconds)
        return replace(Demand.of(self._drafts.largest), base_nbytes=0, seconds=seconds)

    def plan(self, limit: int | None, progress: Progress = lambda line: None) -> Plan:
        """The fastest plan for `limit` bytes; without one, `unlimited`.

        Raises BudgetError, with the smallest feasible budget, where `limit` is below that.
        """
        if limit is None:
            return self.unlimited
        resident = self._resident(limit)
        rival = inf if resident is None else resident.prediction.latency
        for sized in self._ladder.fastest_first(limit, rival):
            placed = _placed(sized, limit, self._target)
            if placed is not None:
                return placed
        if resident is not None:
            return _limited(resident, limit)
        smallest = self.smallest
        if limit < smallest.budget.total:
            raise BudgetError(_explain(smallest, limit), smallest.budget.total)
        progress(f"smallest feasible budget {format_bytes(smallest.budget.total)}")
        return _limited(smallest, limit)


def _limited(plan: Plan, limit: int) -> Plan:
    return replace(plan, budget=replace(plan.budget, limit=limit))


def plan(
    source: Program, limit: int | None, target: PlanningTarget, progress: Progress = lambda line: None
) -> Plan:
    """The plan of an unsplit program for `limit` bytes; see Planner.plan."""
    return Planner(source, target).plan(limit, progress)


def _resident_budget(whole: Draft) -> int:
    """The budget at which all weights of an unsplit program are resident, but for fragmentation."""
    return round_up(whole.resident_nbytes, PAGE)


def _least_resident_budget(whole: Draft) -> int:
    """A budget below which not all weights of a program are resident, whatever bands and workspace it has."""
    return _resident_budget(whole) - whole.liveness.peak_nbytes - whole.workspace - 2 * PAGE


def _placed(sized: Sized[Draft], limit: int, target: PlanningTarget) -> Plan | None:
    """The plan of a sizing, where it can be placed within the limit."""
    draft = sized.draft
    most = round_down(limit - draft.outside_nbytes, PAGE)
    items = items_of(draft.program, draft.liveness, sized.sizing)
    placement = place(items, height_limit=most, effort=0)
    return _plan(draft, sized.sizing, placement, limit, target) if placement.height <= most else None


def smallest_budget(source: Program, target: PlanningTarget) -> int:
    """The smallest budget, in bytes, at which a plan exists that this search finds."""
    return Planner(source, target).smallest.budget.total


def _unlimited(source: Program, draft: Draft, target: PlanningTarget) -> Plan:
    everything = sum(buffer.nbytes for buffer in source.buffers) + draft.liveness.peak_nbytes
    roomy = 2 * everything + len(source.grains) * PAGE
    sizing = size(draft.program, draft.liveness, draft.costs, draft.reader, roomy)
    assert not isinstance(sizing, Refinement)
    assert not sizing.loads
    return _plan(draft, sizing, _place_low(draft, sizing), None, target)


def _smallest(drafts: Drafts) -> Plan:
    """The plan with the smallest budget: weights in small parts or whole, activations in bands or whole,
    nothing loaded ahead."""
    source, target = drafts.source, drafts.target
    choices = dict.fromkeys(
        Choices(split_for(source, tile_nbytes), drafts.gathers) for tile_nbytes in (*TILE_TARGETS, PAGE)
    )
    whole = sorted(map(drafts.of, choices), key=lambda draft: draft.floor_nbytes + draft.outside_nbytes)
    banded = [drafts.least(draft) for draft in whole[:BANDED]]
    tried = {draft.choices: draft for draft in (*whole, *banded)}
    floors = [(draft.floor_nbytes, draft) for draft in tried.values()]
    best: Plan | None = None
    for pool, draft in sorted(floors, key=lambda floor: floor[0] + floor[1].outside_nbytes):
        if best is not None and best.budget.total <= pool + draft.outside_nbytes:
            break
        sizing = size(draft.program, draft.liveness, draft.costs, draft.reader, pool)
        assert not isinstance(sizing, Refinement)
        for variant in (sizing, _without_prefetch(sizing)):
            found = _plan(draft, variant, _place_low(draft, variant), None, target)
            if best is None or found.budget.total < best.budget.total:
                best = found
            if found.placement.optimal:
                break
    assert best is not None
    return best


def _without_prefetch(sizing: Sizing) -> Sizing:
    """Every load just before the step that needs it: the shortest ranges, which are the easiest to place."""
    loads = [replace(load, issue=load.deadline, wraps=False) for load in sizing.loads]
    return replace(sizing, loads=tuple(sorted(loads, key=lambda load: load.deadline)))


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
            process=process_nbytes(draft.program, target.footprint),
            host=host_nbytes(draft.program, sizing, target.machine) if target.has_own_memory else 0,
            host_limit=target.feed.host_limit,
            context=target.context_nbytes,
        ),
        prediction=predict(sizing, draft.costs, draft.reader),
        machine=replace(
            target.machine,
            spin=draft.spin,
            packing=target.machine.packing if packs else "",
        ),
        reader=draft.reader,
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
