"""Fusion: a loop that reads what another loop writes becomes one loop with it.

Steps are visited in order, and each takes up the loops that its operands come from, as long as every element
is still computed once (see `frames`), the steps in between allow one of the two to move to the other, the
loop has few enough tensors, it does no more work than the two did, and no more bytes are live than were. What
others read too stays a result of the loop. Copies into other layouts take part as loops that compute nothing.

A result that only loops read, in parts or several times, can also go away altogether: each reader computes
what it needs of it, if all of them do no more work than before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from occ.codegen.loops.ir import Load, parse
from occ.ir import BufferKind
from occ.lower.combining import LoopStep, computing_itself, loop_step, together
from occ.lower.draft import Draft, StepDraft, Traced, spanned_nbytes
from occ.lower.elementwise import cast_text, computed, with_rank

WINDOW = 400
"""Steps that may lie between two loops that become one."""

MOST_READERS = 512
"""Loops that may each compute by themselves what another would hand them."""


def copies_to_loops(draft: Draft) -> None:
    """Copies within the program as loops; those onto states and inputs stay what they are."""
    own = (BufferKind.ACTIVATION, BufferKind.OUTPUT)
    for step in draft.steps:
        if step.kernel != "copy":
            continue
        source, out = step.args["source"], step.outs[0]
        root, _ = draft.root(out.buffer)
        if (
            draft.buffers[root].kind in own
            and computed(source.meta.dtype)
            and computed(out.meta.dtype)
            and out.meta.numel()
        ):
            text = cast_text("x0", source.meta.dtype, out.meta.dtype)
            step.kernel = "loop"
            step.args = {"x0": with_rank(source, out.meta.dim()), "body": f"y0 = {text}", "row": 0}


def fuse(draft: Draft) -> None:
    """Fuse the loops of a draft, in place."""
    copies_to_loops(draft)
    work = _Fusion(draft)
    work.take_up_all()
    work.hand_down_all()
    work.take_up_all()
    draft.steps[:] = [step for step in work.steps if step is not None]
    _loops_to_copies(draft)


def _loops_to_copies(draft: Draft) -> None:
    """Loops that only move elements, as copies: torch turns layouts around well."""
    for step in draft.steps:
        if step.kernel != "loop" or len(step.outs) != 1:
            continue
        [statement] = parse(step.args["body"]).statements[-1:]
        source = step.args["x0"]
        if statement.value == Load(0) and source.meta.dtype == step.outs[0].meta.dtype:
            step.kernel, step.args = "copy", {"source": source}


@dataclass(frozen=True, slots=True)
class _Access:
    """Bytes [first, last) of a root buffer that the step at `position` reads or writes."""

    position: int
    first: int
    last: int
    writes: bool


_Extent = tuple[int, int, int]
"""Root buffer, first byte, end."""


@dataclass
class _Fusion:
    """The steps by position (None where one was taken up), who touches which bytes, and how many are live."""

    draft: Draft
    steps: list[StepDraft | None] = field(init=False)
    accesses: dict[int, list[_Access]] = field(init=False, default_factory=dict)
    live: list[int] = field(init=False)
    shared: frozenset[int] = field(init=False)
    """Buffers that others are part of."""
    versions: list[int] = field(init=False)
    """How often the step at each position was replaced."""
    tried: set[tuple[int, int, int, int]] = field(init=False, default_factory=set)
    """Pairs of positions, with their versions, that were to be fused already."""

    def __post_init__(self) -> None:
        self.steps = list(self.draft.steps)
        self.shared = frozenset(b.part_of for b in self.draft.buffers if b.part_of is not None)
        for position, step in enumerate(self.draft.steps):
            self._enter(position, step)
        self.live = [0] * len(self.steps)
        self.versions = [0] * len(self.steps)
        for root in self.accesses:
            for position in self._lifetime(root):
                self.live[position] += self.draft.buffers[root].nbytes

    # A loop takes up those that its operands come from

    def take_up_all(self) -> None:
        for position in range(len(self.steps)):
            at: int | None = position
            while at is not None:
                reader = loop_step(self.steps[at])
                producers = [] if reader is None else self._producers(at, reader)
                at = next((new for one in producers if (new := self._fused(one, at)) is not None), None)

    def _producers(self, position: int, reader: LoopStep) -> list[int]:
        """Positions of the loops that write whole buffers that this one reads, the last first."""
        found: set[int] = set()
        for operand in reader.operands:
            if self._is_whole(operand.buffer):
                writing = {a.position for a in self.accesses[operand.buffer] if a.writes}
                found.update(p for p in writing if len(writing) == 1 and 0 < position - p <= WINDOW)
        return sorted((one for one in found if loop_step(self.steps[one]) is not None), reverse=True)

    def _fused(self, first: int, second: int) -> int | None:
        """Fuse the loops at two positions; where the result stands, None where they stay two."""
        pair = (first, self.versions[first], second, self.versions[second])
        if pair in self.tried:
            return None
        self.tried.add(pair)
        one, other = loop_step(self.steps[first]), loop_step(self.steps[second])
        assert one is not None
        assert other is not None
        between = range(first + 1, second)
        places = [at for at, moving in ((second, one), (first, other)) if self._may_move(moving, between)]
        if not places or self._touches_parts(one, other):
            return None
        made = together(one, other, self._kept(one, first, second))
        if made is None:
            return None
        for at in places:
            gone = first if at == second else second
            if self._replaced({at: made, gone: None}):
                return at
        return None

    def _kept(self, one: LoopStep, first: int, second: int) -> frozenset[int]:
        """Results of the first loop that somebody beside the second needs."""
        return frozenset(
            number
            for number, out in enumerate(one.outs)
            if not self._is_whole(out.buffer)
            or any(a.position not in (first, second) for a in self.accesses[out.buffer])
        )

    def _touches_parts(self, one: LoopStep, other: LoopStep) -> bool:
        """Whether the second loop meets the first's bytes otherwise than by reading a whole result."""
        written = {self.draft.root(out.buffer)[0] for out in one.outs}
        whole = {out.buffer for out in one.outs}
        reads = [operand for operand in other.operands if self.draft.root(operand.buffer)[0] in written]
        if any(operand.buffer not in whole for operand in reads):
            return True
        mine = {self.draft.root(tensor.buffer)[0] for tensor in (*one.operands, *one.outs)}
        return any(self.draft.root(out.buffer)[0] in mine for out in other.outs)

    # A loop is computed by those that read its result, each the part that it needs

    def hand_down_all(self) -> None:
        for position in reversed(range(len(self.steps))):
            self._hand_down(position)

    def _hand_down(self, position: int) -> None:
        """Let all that read the result of the loop at `position` compute it by themselves."""
        one = loop_step(self.steps[position])
        if one is None or one.loop.row or len(one.outs) != 1 or not self._is_whole(one.outs[0].buffer):
            return
        readers = sorted({a.position for a in self.accesses[one.outs[0].buffer] if not a.writes})
        if not 0 < len(readers) <= MOST_READERS or readers[0] <= position:
            return
        made: dict[int, StepDraft | None] = {position: None}
        work = one.bound.work
        for reader in readers:
            other = loop_step(self.steps[reader])
            if other is None or self._touches_parts(one, other):
                return
            alone = computing_itself(one, other)
            if alone is None or not self._may_read(one, range(position + 1, reader)):
                return
            work += other.bound.work - alone.bound.work
            made[reader] = alone.step
        if work >= 0:
            self._replaced(made)

    # What the steps in between allow

    def _may_move(self, loop: LoopStep, between: range) -> bool:
        """Whether a loop may move past the steps at these positions."""
        written = (self._extent(out) for out in loop.outs)
        return self._may_read(loop, between) and not any(
            self._meets(extent, between, writes_only=False) for extent in written
        )

    def _may_read(self, loop: LoopStep, between: range) -> bool:
        """Whether a loop's operands are not changed at these positions."""
        read = (self._extent(operand) for operand in loop.operands)
        return not any(self._meets(extent, between, writes_only=True) for extent in read)

    def _meets(self, extent: _Extent, positions: range, writes_only: bool) -> bool:
        root, first, last = extent
        return any(
            access.position in positions and first < access.last and access.first < last
            for access in self.accesses.get(root, ())
            if access.writes or not writes_only
        )

    def _is_whole(self, buffer: int) -> bool:
        """Whether nobody but the program's steps sees a buffer, and all of it is one tensor's."""
        draft = self.draft.buffers[buffer]
        return draft.kind is BufferKind.ACTIVATION and draft.part_of is None and buffer not in self.shared

    # Bookkeeping

    def _replaced(self, made: dict[int, StepDraft | None]) -> bool:
        """Put other steps (None: none) at these positions, if no more bytes are live at any time between them
        than are now at the worst; whether they are there."""
        steps = [*(self.steps[position] for position in made), *made.values()]
        roots = {
            self.draft.root(tensor.buffer)[0]
            for step in steps
            if step is not None
            for tensor in (*step.operands(), *step.outs)
        }
        span = range(min(made), max(made) + 1)
        before = {root: self.accesses.get(root, []) for root in roots}
        change = dict.fromkeys(span, 0)
        self._count(change, roots, -1)
        for root in roots:
            self.accesses[root] = [access for access in before[root] if access.position not in made]
        for position, step in made.items():
            if step is not None:
                self._enter(position, step)
        self._count(change, roots, 1)
        most = max(self.live[position] for position in span if self.steps[position] is not None)
        left = [p for p in span if (made[p] if p in made else self.steps[p]) is not None]
        if max((self.live[position] + change[position] for position in left), default=0) > most:
            self.accesses.update(before)
            return False
        for position, nbytes in change.items():
            self.live[position] += nbytes
        for position, step in made.items():
            self.steps[position] = step
            self.versions[position] += 1
        return True

    def _count(self, change: dict[int, int], roots: set[int], sign: int) -> None:
        """Add the bytes of some buffers, or take them away, at the positions where they are live."""
        for root in roots:
            for position in self._lifetime(root):
                if position in change:
                    change[position] += sign * self.draft.buffers[root].nbytes

    def _enter(self, position: int, step: StepDraft) -> None:
        for writes, tensors in ((False, step.operands()), (True, (*step.outs, *step.scratch))):
            for tensor in tensors:
                root, first, last = self._extent(tensor)
                self.accesses.setdefault(root, []).append(_Access(position, first, last, writes))

    def _extent(self, tensor: Traced) -> _Extent:
        root, offset = self.draft.root(tensor.buffer)
        first = offset + tensor.offset
        return root, first, first + spanned_nbytes(tensor.meta)

    def _lifetime(self, root: int) -> range:
        """The positions at which an activation's bytes are taken; none for other buffers."""
        positions = [access.position for access in self.accesses[root]]
        if not positions or self.draft.buffers[root].kind is not BufferKind.ACTIVATION:
            return range(0)
        return range(min(positions), max(positions) + 1)
