"""The search over Choices: the fastest plan that fits a budget, and the smallest budget that any plan fits.

For one set of Choices the way is straight: rewrite, measure, liveness, sizing, placement. Only two things
send a plan back: a step that does not fit (it is split finer) and fragmentation (the pool shrinks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, prod
from typing import Protocol

from occ.errors import BudgetError
from occ.feed import Feed, host_nbytes
from occ.footprint import process_nbytes
from occ.gathers import LOOKUPS, gather_pays
from occ.ir import (
    Budget,
    BufferKind,
    Choices,
    Footprint,
    Machine,
    Placement,
    Plan,
    Program,
    Reader,
    Sizing,
    StepCost,
    refs_of,
)
from occ.ladder import Demand, Ladder, Sized, rungs_between
from occ.levels import Levels
from occ.passes.items import items_of, placed_buffers
from occ.passes.liveness import Liveness, liveness
from occ.passes.placement.portfolio import place
from occ.passes.sizing import Refinement, explain_peak, size, smallest_pool
from occ.passes.splitting import finer, split_for
from occ.passes.tiling import tile, tile_uses
from occ.passes.timing import predict
from occ.rewrite import rewritten
from occ.units import PAGE, format_bytes, round_down, round_up

TILE_TARGETS = (256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20)
"""Bytes of weights that a part of a split step reads, candidates: a request below 256 KiB costs an SSD more
time than its bytes do, and above 16 MiB there is nothing left to gain from larger ones."""

TRIED = 3
"""Drafts that are sized for one budget."""

LEAST_WINDOW = 4
"""Tiles that a pool should have room for, so that one is computed with while others arrive."""

ROOMY = 4
"""A pool so many times what the fullest step needs has nothing to gain from bands."""

QUICKEST = 0.8
"""Ratio of computing that no other draft goes below."""

BANDED = 2
"""Drafts with the smallest floors that are cut into bands for the smallest budget."""

EFFORT = 0.1
"""Share of the placement's usual effort for the plan that is kept: about two seconds where it is hard."""

CRC_NBYTES = 4

Progress = Callable[[str], None]
RESIDENT_SPIN = "default"
"""How the threads of a program wait that loads nothing: as OpenMP has it."""


class Measure(Protocol):
    """Cost of every step of a rewritten program on the target, where OpenMP's threads wait by the policy
    `spin`. What weights leave in the caches counts where they are `resident`."""

    def __call__(self, program: Program, spin: str, resident: bool = False) -> Sequence[StepCost]: ...


@dataclass(frozen=True)
class PlanningTarget:
    """What planning needs to know of the target."""

    measure: Measure
    reader: Reader
    machine: Machine
    streaming_spin: str
    footprint: Footprint = field(default_factory=Footprint)
    feed: Feed = field(default_factory=Feed)
    context_nbytes: int = 0

    @property
    def has_own_memory(self) -> bool:
        """Whether the budget is that of a device, beside the host's memory."""
        return self.machine.device != "cpu"


@dataclass(frozen=True)
class Draft:
    """A rewritten program with everything that does not depend on the budget; `costs` are those of threads
    that wait by the policy `spin`, and `reader` is the target's with the slowdown of these steps."""

    choices: Choices
    program: Program
    origins: tuple[int, ...]
    """For every step the one of the unsplit program that it comes from."""
    spin: str
    costs: tuple[StepCost, ...]
    reader: Reader
    liveness: Liveness
    loader_nbytes: int
    needs: tuple[int, ...]
    """Bytes of the arena each step needs by itself: live buffers and the tiles it reads."""

    @cached_property
    def compute(self) -> float:
        """Seconds."""
        return sum(cost.seconds for cost in self.costs)

    @cached_property
    def floor_nbytes(self) -> int:
        return max(self.needs, default=0)

    @cached_property
    def workspace(self) -> int:
        return max((cost.workspace for cost in self.costs), default=0)

    @cached_property
    def outside_nbytes(self) -> int:
        """Bytes of the budget that the arena cannot have."""
        return self.program.outputs_nbytes + self.loader_nbytes + self.workspace


class Planner:
    """Plans of one unsplit program for one target at any budgets; what they share is made once."""

    def __init__(self, source: Program, target: PlanningTarget) -> None:
        self._source = source
        self._target = target
        self._drafts = Drafts(source, target)
        self._whole = self._drafts.of(Choices())

    @cached_property
    def unlimited(self) -> Plan:
        """All weights resident in the least arena for that."""
        return _unlimited(self._source, self._whole, self._target)

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
        draft = self._drafts.largest
        seconds = tuple(QUICKEST * cost.seconds for cost in draft.costs)
        return replace(Demand.of(draft), base_nbytes=0, seconds=seconds)

    def plan(self, limit: int | None, progress: Progress = lambda line: None) -> Plan:
        """The fastest plan for `limit` bytes; without one, all weights resident in the least arena for that.

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
    weights_nbytes = sum(t.nbytes for t in tile(whole.program))
    return round_up(whole.liveness.peak_nbytes + weights_nbytes + whole.outside_nbytes, PAGE)


def _least_resident_budget(whole: Draft) -> int:
    """A budget below which not all weights of an unsplit program are resident, whatever its workspace is."""
    return _resident_budget(whole) - whole.workspace - 2 * PAGE


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


class Drafts:
    """The drafts of one source program, each made once."""

    def __init__(self, source: Program, target: PlanningTarget) -> None:
        self.source = source
        self.target = target
        self.gathers = gatherable(source)
        self._made: dict[Choices, Draft] = {}
        self._levels: dict[Choices, Levels] = {}
        self._unrefined = [
            (tile_nbytes, Choices(split_for(source, tile_nbytes), self.gathers))
            for tile_nbytes in sorted(TILE_TARGETS, reverse=True)
        ]

    @property
    def largest(self) -> Draft:
        """The draft with the largest tiles."""
        return self.of(self._unrefined[0][1])

    def of(self, choices: Choices) -> Draft:
        """The draft of these choices; the same object every time."""
        if choices not in self._made:
            self._made[choices] = _draft(self.source, choices, self.target)
        return self._made[choices]

    def at(self, limit: int) -> list[Draft]:
        """Drafts worth trying at a budget, those with the largest tiles first: fewer parts compute faster,
        smaller tiles hide better. Each is there as it is, if it fits, and in bands that leave more of the
        pool to weights."""
        found: dict[Choices, None] = {}
        for tile_nbytes, choices in self._unrefined:
            draft = self._refined(choices, limit)
            if draft is not None:
                pool = max(limit - draft.outside_nbytes, LEAST_WINDOW * min(TILE_TARGETS))
                if tile_nbytes * LEAST_WINDOW <= pool:
                    found.setdefault(draft.choices)
        drafts: dict[Choices, Draft] = {}
        for choices in list(found)[:TRIED]:
            draft = self.of(choices)
            for banded in (draft, self._banded(draft, limit, ROOMY)):
                if banded.floor_nbytes <= round_down(limit - banded.outside_nbytes, PAGE):
                    drafts.setdefault(banded.choices, banded)
        return list(drafts.values())

    def least(self, draft: Draft) -> Draft:
        """The draft in the bands with which its fullest step needs least."""
        return self.of(self._levels_of(draft).least)

    def _refined(self, choices: Choices, limit: int) -> Draft | None:
        """The draft of these choices with the weights of whatever does not fit the budget split finer, until
        it does, or does in bands."""
        while True:
            draft = self.of(choices)
            pool = round_down(limit - draft.outside_nbytes, PAGE)
            if draft.floor_nbytes <= pool:
                return draft
            refined = choices
            live = draft.liveness.live_nbytes
            tight = [i for i, need in enumerate(draft.needs) if need > pool >= live[i]]
            for step in sorted({draft.origins[index] for index in tight}):
                refined = finer(self.source, refined, step) or refined
            if refined == choices:
                banded = self._banded(draft, limit, 1)
                return draft if banded.floor_nbytes <= pool else None
            choices = refined

    def _banded(self, draft: Draft, limit: int, share: int) -> Draft:
        """The draft in as few bands as it takes for its fullest step to need at most 1/`share` of the pool;
        in those with which it needs least where none is enough."""
        levels = self._levels_of(draft)
        pool = limit - draft.outside_nbytes
        return self.of(levels.within(pool // share) or levels.least)

    def _levels_of(self, draft: Draft) -> Levels:
        if draft.choices not in self._levels:
            beside = [0] * len(self.source.steps)
            for index, origin in enumerate(draft.origins):
                tiles = draft.needs[index] - draft.liveness.live_nbytes[index]
                beside[origin] = max(beside[origin], tiles)
            self._levels[draft.choices] = Levels(self.source, draft.choices, beside)
        return self._levels[draft.choices]


def _draft(source: Program, choices: Choices, target: PlanningTarget) -> Draft:
    made = rewritten(source, choices)
    program = made.program
    live = liveness(program)
    costs = tuple(target.measure(program, target.streaming_spin))
    return Draft(
        choices=choices,
        program=program,
        origins=made.origins,
        spin=target.streaming_spin,
        costs=costs,
        reader=replace(target.reader, slowdown=slowdown_of(costs, target.reader)),
        liveness=live,
        loader_nbytes=0 if target.has_own_memory else _checksums_nbytes(program),
        needs=tuple(step_needs(program, live)),
    )


def slowdown_of(costs: Sequence[StepCost], reader: Reader) -> float:
    """How many times longer steps take, all in all, while weights are read."""
    alone = sum(cost.seconds for cost in costs)
    beside = sum(cost.seconds * (cost.slowdown or reader.slowdown) for cost in costs)
    return round(beside / alone, 4) if alone else reader.slowdown


def _checksums_nbytes(program: Program) -> int:
    """Bytes the loader holds for tables that stay in the file: a CRC-32 for each of their pages."""
    tables = {program.values[value].buffer for step in program.steps for value in step.stored}
    pages = sum(-(-program.buffers[table].nbytes // PAGE) + 1 for table in tables)
    return round_up(pages * CRC_NBYTES, PAGE)


def gatherable(source: Program) -> tuple[int, ...]:
    """Lookups that read far fewer bytes of their table than it has: those that a gather serves better."""
    found = []
    for index, step in enumerate(source.steps):
        if step.kernel not in LOOKUPS:
            continue
        refs = (ref for name in ("weight", "indices") for ref in refs_of(dict(step.args)[name]))
        table, rows = (source.values[ref.value] for ref in refs)
        buffer = source.buffers[table.buffer]
        row_nbytes = table.shape[1] * table.itemsize
        if (
            buffer.kind is BufferKind.WEIGHT
            and table.strides[-1] == 1
            and gather_pays(prod(rows.shape), row_nbytes, buffer.nbytes)
        ):
            found.append(index)
    return tuple(found)


def step_needs(program: Program, live: Liveness) -> list[int]:
    """Bytes of the arena each step needs by itself: live buffers and the tiles it reads."""
    tiles = tile(program)
    uses = tile_uses(program, tiles)
    return [
        base + sum(tiles[t].nbytes for t in read)
        for base, read in zip(live.live_nbytes, uses.of_step, strict=True)
    ]


def _unlimited(source: Program, draft: Draft, target: PlanningTarget) -> Plan:
    everything = sum(buffer.nbytes for buffer in source.buffers) + draft.liveness.peak_nbytes
    roomy = 2 * everything + len(source.grains) * PAGE
    sizing = size(draft.program, draft.liveness, draft.costs, draft.reader, roomy)
    assert not isinstance(sizing, Refinement)
    assert not sizing.loads
    draft = _waiting_best(draft, target)
    return _plan(draft, sizing, _place_low(draft, sizing), None, target)


def _waiting_best(draft: Draft, target: PlanningTarget) -> Draft:
    """The draft with the spin policy that serves it best when nothing is loaded beside it, and all weights
    are where they were the run before."""
    costs = tuple(target.measure(draft.program, RESIDENT_SPIN, resident=True))
    if sum(cost.seconds for cost in costs) < draft.compute:
        return replace(draft, spin=RESIDENT_SPIN, costs=costs)
    return draft


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
