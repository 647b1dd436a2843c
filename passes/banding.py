"""Bands: a run of steps done part by part, so that what lies between them never exists in full.

In every part each step of a band computes some of its rows: those that the parts of later steps need, and no
row twice. Where a step needs rows around its own (a convolution), what it will need again is kept from part
to part. Fused-layer accelerators (Alwani et al., MICRO 2016) and patch-based inference on microcontrollers
(Lin et al., MCUNetV2, NeurIPS 2021) do the same; keeping rows instead of computing them again is the line
buffer of the former.

A step that goes from row to row by itself, such as a recurrence, is cut in that order, and every part begins
with the state that the one before left. Where that order is from the last row to the first, all steps of the
band are done so: rows are counted from the end, and turned round when all is decided.

The last step is cut evenly. How far an earlier one must have come follows from what the two share: its rows
still to be done must touch nothing that those rows of the later step touch which are done by then. That one
rule covers results that are read, operands that are overwritten and results in place, so every run of steps
is a valid band. One that cannot be cut is done whole in the first part that needs it, and everything before
it; whether a band is of any use its peak says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from types import MappingProxyType

from occ.errors import InternalError
from occ.ir import BufferKind, Program, SplitAxis, Step
from occ.passes.rows import Access, accesses, rows_to_finish


@dataclass(frozen=True, slots=True)
class Uses:
    """Which steps touch each buffer, and the buffers that do not live and die within a run: inputs, weights,
    outputs, states."""

    of_buffer: Mapping[int, frozenset[int]]
    kept: frozenset[int]

    @staticmethod
    def of(program: Program) -> Uses:
        found: dict[int, set[int]] = {}
        for index, step in enumerate(program.steps):
            for value in step.reads + step.writes:
                found.setdefault(program.values[value].buffer, set()).add(index)
        temporary = (BufferKind.ACTIVATION, BufferKind.SCRATCH)
        return Uses(
            {buffer: frozenset(steps) for buffer, steps in found.items()},
            frozenset(b.id for b in program.buffers if b.kind not in temporary),
        )


@dataclass(frozen=True, slots=True)
class Cut:
    """One step of a band: in part p it does rows [progress[p], progress[p + 1]) of `axis`, counted from the
    end where `descending`. A step without an axis has a single row."""

    step: int
    axis: SplitAxis | None
    extent: int
    progress: tuple[int, ...]
    accesses: tuple[Access, ...]
    descending: bool = False

    def rows(self, part: int) -> tuple[int, int]:
        """The rows of a part, half-open, counted from the first."""
        first, end = self.progress[part], self.progress[part + 1]
        return (self.extent - end, self.extent - first) if self.descending else (first, end)

    @property
    def suits(self) -> bool:
        """Whether no part has more rows than parts of the axis should have."""
        most = max(end - first for first, end in pairwise(self.progress))
        largest = 0 if self.axis is None else self.axis.largest
        return not largest or most <= largest or most == self.extent


@dataclass(frozen=True, slots=True)
class Rolling:
    """A buffer of which only some rows exist at a time.

    In part p it is rows [spans[p][0], spans[p][1]) of `pitch` bytes, in memory of its own (None where no step
    touches it then); rows below 0 and from `count` on are full of `fill`. After part p, rows
    [keeps[p][0], keeps[p][1]) are kept for the next part that has a span. A step may see each row as several.
    """

    buffer: int
    pitch: int
    count: int
    fill: float
    spans: tuple[tuple[int, int] | None, ...]
    keeps: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """The steps of a band in order, how they are cut into `parts`, and the buffers that roll through it."""

    parts: int
    cuts: tuple[Cut, ...]
    rolling: Mapping[int, Rolling]


def part_rows(axis: SplitAxis, parts: int) -> tuple[tuple[int, int], ...]:
    """Half-open row ranges of `parts` parts: they begin at multiples of the granule, and their numbers of
    granules differ by one at most."""
    granules = -(-axis.extent // axis.granule)
    starts = [part * granules // parts * axis.granule for part in range(parts)]
    return tuple(zip(starts, [*starts[1:], axis.extent], strict=True))


def band_of(
    program: Program,
    uses: Uses,
    steps: Sequence[int],
    axis_name: str,
    parts: int,
    splits: Mapping[int, str] = MappingProxyType({}),
) -> Band:
    """The band of `steps` (indices into `program`, in the order in which they run), whose last step is cut
    along the axis named into `parts` parts, or fewer where granules of other steps allow no more. `splits`
    names axes of steps that are cut otherwise.

    Raises InternalError where the last step has no such axis, or not as many rows.
    """
    last = program.steps[steps[-1]]
    axis = next((each for each in last.splits if each.name == axis_name and not each.staged), None)
    if axis is None or not 2 <= parts <= -(-axis.extent // axis.granule):
        offered = ", ".join(f"{a.name} of {a.extent}" for a in last.splits if not a.staged) or "none"
        raise InternalError(
            f"step {last.name} cannot end a band of {parts} parts along {axis_name}; it offers: {offered}"
        )
    # Parts that suit every step of as many rows need no rows beyond their own.
    suited = (a for step in steps for a in program.steps[step].splits if a.name == axis_name)
    granule = max(a.granule for a in suited if a.extent == axis.extent)
    even = replace(axis, granule=granule)
    parts = min(parts, -(-axis.extent // granule))
    descending = _descends(program, steps, axis)
    members = frozenset(steps)
    inner = {
        buffer
        for step in steps
        for buffer in _touched(program, step)
        if buffer not in uses.kept and uses.of_buffer[buffer] <= members
    }
    cuts: list[Cut] = []
    later: dict[int, list[tuple[Cut, Access]]] = {}
    for step in reversed(steps):
        if cuts:
            axes = _followed(program.steps[step].splits, axis_name, splits.get(step))
            cuts.append(_cut(program, step, axes, cuts[0], later, inner))
        else:
            progress = (0, *(end for _, end in part_rows(even, parts)))
            touched = accesses(program, last, axis, descending)
            cuts.append(Cut(step, axis, axis.extent, progress, touched, descending))
        cut = cuts[-1]
        for access in cut.accesses:
            later.setdefault(access.buffer, []).append((cut, access))
    cuts.reverse()
    rolling = {}
    for buffer in sorted(inner):
        rolled = _rolling(buffer, parts, later[buffer])
        if rolled is not None:
            rolling[buffer] = _turned(rolled) if descending else rolled
    return Band(parts, tuple(cuts), rolling)


def _touched(program: Program, step: int) -> set[int]:
    node = program.steps[step]
    return {program.values[value].buffer for value in node.reads + node.writes}


def _descends(program: Program, steps: Sequence[int], last: SplitAxis) -> bool:
    """Whether a band does its rows from the last to the first: as its last step has to, or where that can go
    either way, as another one has to."""
    if last.carries:
        return last.descending
    wanted = any(axis.descending for step in steps for axis in program.steps[step].splits)
    return wanted and _may_descend(program, program.steps[steps[-1]], last)


def _may_descend(program: Program, step: Step, axis: SplitAxis) -> bool:
    """Whether rows along the axis may be done from the last to the first: not where each needs rows around
    its own, nor rows of weights, which lie in grains that are counted from the first."""
    sliced = (access.buffer for access in accesses(program, step, axis) if access.dim is not None)
    return not axis.windows and all(program.buffers[b].kind is not BufferKind.WEIGHT for b in sliced)


def _cut(
    program: Program,
    index: int,
    axes: Sequence[SplitAxis],
    last: Cut,
    later: Mapping[int, Sequence[tuple[Cut, Access]]],
    inner: set[int],
) -> Cut:
    step, descending = program.steps[index], last.descending
    fitting = (
        each
        for finer in (False, True)
        for each in axes
        if _fits(program, step, each, later, descending, finer)
    )
    axis = next(fitting, None)
    extent = 1 if axis is None else axis.extent
    granule = 1 if axis is None else axis.granule
    touched = accesses(program, step, axis, descending)
    gives = any(access.writes and access.buffer not in inner for access in touched)
    shared = [
        (access, cut, other)
        for access in touched
        for cut, other in later.get(access.buffer, ())
        if access.writes or other.writes
    ]
    progress = [0]
    for part, done in enumerate(last.progress[1:], 1):
        # What outlasts the band keeps pace with its last step.
        rows = -(-extent * done // last.extent) if gives else 0
        for mine, cut, other in shared:
            rows = max(rows, rows_to_finish(mine, other, cut.progress[part], extent))
        progress.append(min(extent, -(-rows // granule) * granule))
    return Cut(index, axis, extent, tuple(progress), touched, descending)


def _followed(axes: Sequence[SplitAxis], name: str, split: str | None) -> list[SplitAxis]:
    """Axes that a band along `name` can follow, those called so first."""
    found = [axis for axis in axes if not axis.staged and axis.name != split]
    return sorted(found, key=lambda axis: axis.name != name)


def _fits(
    program: Program,
    step: Step,
    axis: SplitAxis,
    later: Mapping[int, Sequence[tuple[Cut, Access]]],
    descending: bool,
    finer: bool,
) -> bool:
    """Whether the step can be cut along the axis in this order, the results have rows along it, and where
    later steps cut them, rows of those, or with `finer` such as make up theirs."""
    if axis.carries and axis.descending != descending:
        return False
    if descending and not _may_descend(program, step, axis):
        return False
    for access in accesses(program, step, axis, descending):
        if not access.writes or access.dim is None:
            continue
        if access.view is None:
            return False
        for _, other in later.get(access.buffer, ()):
            if other.view is None or access.view.pitch % other.view.pitch == 0:
                continue
            if not finer or other.view.pitch % access.view.pitch:
                return False
    return True


def _rolling(buffer: int, parts: int, touches: Sequence[tuple[Cut, Access]]) -> Rolling | None:
    """The buffer as one that rolls; None where it has to exist in full."""
    views = [access.view for _, access in touches if access.view is not None]
    pitch = max((view.pitch for view in views), default=0)
    nbytes = {view.count * view.pitch for view in views}
    if len(views) < len(touches) or len(nbytes) != 1 or any(v.first or pitch % v.pitch for v in views):
        return None
    updating = {cut.step for cut, access in touches if not access.writes}
    first_writes = [(cut, a) for cut, a in touches if a.writes and cut.step not in updating]
    if len({cut.progress for cut, _ in first_writes}) > 1:
        # A row might be kept of which only one of them has written its part.
        return None
    count = nbytes.pop() // pitch
    fills = set()
    lows: list[int | None] = []
    highs: list[int] = []
    for part in range(parts):
        begins, ends = [], []
        for cut, access in touches:
            done, will_be_done = cut.progress[part], cut.progress[part + 1]
            if done == will_be_done:
                continue
            scale = pitch // _pitch(access)
            begins.append(access.begin(done) // scale)
            ends.append(-(-access.end(will_be_done) // scale))
            if access.window is not None and (begins[-1] < 0 or ends[-1] > count):
                fills.add(access.window.fill)
        lows.append(min(begins, default=None))
        highs.append(max(ends, default=0))
    if len(fills) > 1 or all(low is None for low in lows):
        return None
    needed: list[int] = [count] * (parts + 1)
    for part in reversed(range(parts)):
        low = lows[part]
        needed[part] = needed[part + 1] if low is None else min(low, needed[part + 1])
    spans: list[tuple[int, int] | None] = []
    keeps: list[tuple[int, int] | None] = []
    present = needed[0]
    writers = [(cut, pitch // _pitch(access)) for cut, access in touches if access.writes]
    for part in range(parts):
        if lows[part] is None:
            spans.append(None)
            keeps.append(keeps[-1] if keeps else None)
            continue
        written = max((-(-cut.progress[part + 1] // scale) for cut, scale in writers), default=0)
        spans.append((needed[part], max(highs[part], present)))
        present = max(present, written, highs[part] if highs[part] > count else 0)
        more = any(low is not None for low in lows[part + 1 :])
        keeps.append((needed[part + 1], present) if more and needed[part + 1] < present else None)
    return Rolling(buffer, pitch, count, fills.pop() if fills else 0.0, tuple(spans), tuple(keeps))


def _turned(rolling: Rolling) -> Rolling:
    """The same with rows counted from the other end."""

    def turned(rows: tuple[int, int] | None) -> tuple[int, int] | None:
        return None if rows is None else (rolling.count - rows[1], rolling.count - rows[0])

    spans, keeps = (tuple(map(turned, each)) for each in (rolling.spans, rolling.keeps))
    return replace(rolling, spans=spans, keeps=keeps)


def _pitch(access: Access) -> int:
    assert access.view is not None
    return access.view.pitch


# What runs, in order -------------------------------------------------------------------------------------


class Verb(Enum):
    """What an operation does with rows of a buffer."""

    RUN = "run"
    FILL = "fill"
    LOAD = "load"
    KEEP = "keep"
    STAGE = "stage"


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a band does in a part.

    RUN computes a step's rows. FILL writes rows beyond the edge of a rolling buffer; KEEP copies rows of it
    that a later part needs into memory of their own, LOAD copies them back into the next span. STAGE makes a
    copy, with the rows beyond the edge, of rows of an operand that exists in full.
    """

    verb: Verb
    part: int
    cut: Cut
    access: Access | None
    rows: tuple[int, int]


def operations(band: Band) -> tuple[Operation, ...]:
    """Everything that a band does, in order."""
    found: list[Operation] = []
    for part in range(band.parts):
        busy = [cut for cut in band.cuts if cut.progress[part] < cut.progress[part + 1]]
        last = {access.buffer: place for place, cut in enumerate(busy) for access in cut.accesses}
        begun: set[int] = set()
        for place, cut in enumerate(busy):
            for access in cut.accesses:
                if access.buffer in begun:
                    continue
                begun.add(access.buffer)
                if (rolling := band.rolling.get(access.buffer)) is not None:
                    found += _entering(rolling, part, cut, access)
            staged = {a.value: a for a in cut.accesses if _beyond_edge(a, cut, part, band.rolling)}
            for access in staged.values():
                rows = cut.rows(part)
                found.append(
                    Operation(Verb.STAGE, part, cut, access, (access.begin(rows[0]), access.end(rows[1])))
                )
            found.append(Operation(Verb.RUN, part, cut, None, cut.rows(part)))
            for access in {a.buffer: a for a in cut.accesses}.values():
                rolled = band.rolling.get(access.buffer)
                kept = None if rolled is None else rolled.keeps[part]
                if kept is not None and last[access.buffer] == place:
                    found.append(Operation(Verb.KEEP, part, cut, access, kept))
    return tuple(found)


def _entering(rolling: Rolling, part: int, cut: Cut, access: Access) -> list[Operation]:
    """How the rows of a span come to be that no step of the part computes."""
    span = rolling.spans[part]
    assert span is not None
    found = []
    kept = rolling.keeps[part - 1] if part else None
    present = span[0]
    if kept is not None:
        found.append(Operation(Verb.LOAD, part, cut, access, kept))
        present = kept[1]
    for first, end in ((present, min(0, span[1])), (max(present, rolling.count), span[1])):
        if first < end:
            found.append(Operation(Verb.FILL, part, cut, access, (first, end)))
    return found


def _beyond_edge(access: Access, cut: Cut, part: int, rolling: Mapping[int, Rolling]) -> bool:
    if access.window is None or access.buffer in rolling:
        return False
    first, end = cut.rows(part)
    if (first, end) == (0, cut.extent):
        return False
    return access.begin(first) < 0 or access.end(end) > access.count
