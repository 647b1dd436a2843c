"""What plans are made of: the program rewritten by a set of Choices, with what its steps cost and need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Protocol

from occ.feed import Feed
from occ.gathers import GROUPED_PRODUCT, LOOKUPS, STORED_PRODUCT, gather_pays, operand
from occ.ir import BufferKind, Choices, Footprint, Machine, Program, Reader, StepCost, refs_of
from occ.levels import Levels
from occ.passes.liveness import Liveness, liveness
from occ.passes.splitting import finer, split_for
from occ.passes.tiling import tile, tile_uses
from occ.rewrite import rewritten
from occ.units import PAGE, round_down, round_up

TILE_TARGETS = (256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20)
"""Bytes of weights that a part of a split step reads, candidates: a request below 256 KiB costs an SSD more
time than its bytes do, and above 16 MiB there is nothing left to gain from larger ones."""

TRIED = 3
"""Drafts that are sized for one budget."""

LEAST_WINDOW = 4
"""Tiles that a pool should have room for, so that one is computed with while others arrive."""

ROOMY = 4
"""A pool so many times what the fullest step needs has nothing to gain from bands."""

CRC_NBYTES = 4

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

    @cached_property
    def beside_weights_nbytes(self) -> int:
        """Bytes of the budget that are no weights, where placement loses none."""
        return self.liveness.peak_nbytes + self.outside_nbytes

    @cached_property
    def resident_nbytes(self) -> int:
        """Bytes of the budget where all weights are resident, and placement loses none."""
        return self.beside_weights_nbytes + sum(each.nbytes for each in tile(self.program))


class Drafts:
    """The drafts of one source program, each made once."""

    def __init__(self, source: Program, target: PlanningTarget) -> None:
        self.source = source
        self.target = target
        self._lookups = gatherable(source)
        # A device's memory gets rows of tables by way of the host's, which is small.
        self._experts = {} if target.has_own_memory else expert_tables(source)
        self._made: dict[tuple[Choices, bool], Draft] = {}
        self._levels: dict[Choices, Levels] = {}
        self._splits = [
            (tile_nbytes, split_for(source, tile_nbytes))
            for tile_nbytes in sorted(TILE_TARGETS, reverse=True)
        ]

    @property
    def gathers(self) -> tuple[int, ...]:
        """All steps that can read the rows they need from the file."""
        return tuple(sorted((*self._lookups, *self._experts)))

    @property
    def largest(self) -> Draft:
        """The draft with the largest tiles, of those that leave in the file what they can."""
        return self.of(Choices(self._splits[0][1], self.gathers))

    @property
    def least_seconds(self) -> tuple[float, ...]:
        """What steps of `largest` compute; nothing where experts are read, which others have in memory."""
        draft = self.largest
        return tuple(
            0.0 if step.kernel == STORED_PRODUCT else cost.seconds
            for step, cost in zip(draft.program.steps, draft.costs, strict=True)
        )

    def of(self, choices: Choices) -> Draft:
        """The draft of these choices; the same object every time."""
        return self._draft(choices, resident=False)

    def resident(self, choices: Choices) -> Draft:
        """The same for a program that loads nothing: all weights are where they were the run before, and its
        threads wait as OpenMP has it."""
        return self._draft(choices, resident=True)

    def _draft(self, choices: Choices, resident: bool) -> Draft:
        if (choices, resident) not in self._made:
            self._made[choices, resident] = _rewritten(self.source, choices, self.target, resident)
        return self._made[choices, resident]

    def at(self, limit: int) -> list[Draft]:
        """Drafts worth trying at a budget, those with the largest tiles first: fewer parts compute faster,
        smaller tiles hide better. Each is there as it is, if it fits, and in bands that leave more of the
        pool to weights."""
        found: dict[Choices, None] = {}
        gathers = self._gathers_within(limit)
        for tile_nbytes, splits in self._splits:
            draft = self._refined(Choices(splits, gathers), limit)
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
        return self.of(self._levels_of(draft).least.choices)

    def _gathers_within(self, limit: int) -> tuple[int, ...]:
        """What stays in the file at a budget: of the experts those that do not fit it beside everything else.
        Of a table in memory nothing is read; what a run reads of one in the file nothing hides."""
        room = limit - self.largest.resident_nbytes if self._experts else 0
        found = set(self._lookups)
        for step, nbytes in self._experts.items():
            if nbytes <= room:
                room -= nbytes
            else:
                found.add(step)
        return tuple(sorted(found))

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
        return self.of((levels.within(pool // share) or levels.least).choices)

    def _levels_of(self, draft: Draft) -> Levels:
        if draft.choices not in self._levels:
            beside = [0] * len(self.source.steps)
            for index, origin in enumerate(draft.origins):
                tiles = draft.needs[index] - draft.liveness.live_nbytes[index]
                beside[origin] = max(beside[origin], tiles)
            self._levels[draft.choices] = Levels(self.source, draft.choices, beside)
        return self._levels[draft.choices]


def _rewritten(source: Program, choices: Choices, target: PlanningTarget, resident: bool) -> Draft:
    made = rewritten(source, choices)
    program = made.program
    live = liveness(program)
    spin = RESIDENT_SPIN if resident else target.streaming_spin
    costs = tuple(target.measure(program, spin, resident=resident))
    return Draft(
        choices=choices,
        program=program,
        origins=made.origins,
        spin=spin,
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


def expert_tables(source: Program) -> dict[int, int]:
    """Steps that multiply with matrices that data chooses, with the bytes of all of these."""
    found = {}
    for index, step in enumerate(source.steps):
        if step.kernel != GROUPED_PRODUCT:
            continue
        matrices = operand(source, step, "weight")
        buffer = source.buffers[matrices.buffer]
        first, last = matrices.extent
        by_matrix = matrices.strides[0] * matrices.itemsize * matrices.shape[0] == last - first
        if buffer.kind is BufferKind.WEIGHT and by_matrix:
            found[index] = last - first
    return found


def step_needs(program: Program, live: Liveness) -> list[int]:
    """Bytes of the arena each step needs by itself: live buffers and the tiles it reads."""
    tiles = tile(program)
    uses = tile_uses(program, tiles)
    return [
        base + sum(tiles[t].nbytes for t in read)
        for base, read in zip(live.live_nbytes, uses.of_step, strict=True)
    ]
