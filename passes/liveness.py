"""Stage 1: when the bytes of every buffer are in use, and what every step reads, kills and may overwrite."""

from __future__ import annotations

from dataclasses import dataclass

from occ.errors import InternalError
from occ.ir import ARENA_KINDS, BufferKind, LiveRange, Program, Value
from occ.units import ALIGNMENT, round_up


@dataclass(frozen=True, slots=True)
class WeightUse:
    """Bytes [first, last) of weight buffer `buffer`, which a step reads in memory."""

    buffer: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Liveness:
    """What the steps of one program do to its buffers.

    `ranges` has one entry per buffer: from the first step that writes any part of it until after the last
    step that touches any part, the whole program for STATE; None for buffers outside the arena and for
    those that no step touches. The other tuples have one entry per step: `weight_uses` by buffer and first
    byte; `dies`, the values in the arena that the step is the last to touch; `overwritable`, the
    buffers it reads that end at it and that the program owns (no input, weight or state), so that the step
    or one after it may have their bytes; `live_nbytes`, the bytes of all buffers in the arena that are live
    during it, each rounded up to the alignment, tiles not counted.
    """

    ranges: tuple[LiveRange | None, ...]
    weight_uses: tuple[tuple[WeightUse, ...], ...]
    dies: tuple[tuple[int, ...], ...]
    overwritable: tuple[tuple[int, ...], ...]
    live_nbytes: tuple[int, ...]

    @property
    def peak_nbytes(self) -> int:
        """The largest of `live_nbytes`: what the arena takes at least without a single weight in it."""
        return max(self.live_nbytes, default=0)


def liveness(program: Program) -> Liveness:
    """Find live ranges by one walk over the steps, in time linear in their operands.

    Raises InternalError where a step reads bytes of the program's own that no earlier step wrote.
    """
    _check_written_before_read(program)
    ranges = _ranges(program)
    return Liveness(
        ranges=ranges,
        weight_uses=_weight_uses(program),
        dies=_dies(program),
        overwritable=tuple(
            tuple(
                dict.fromkeys(
                    buffer
                    for buffer in (program.values[value].buffer for value in step.reads)
                    if _ends_after(ranges[buffer], index)
                    and program.buffers[buffer].kind is not BufferKind.STATE
                )
            )
            for index, step in enumerate(program.steps)
        ),
        live_nbytes=_live_nbytes(program, ranges),
    )


def _ends_after(live: LiveRange | None, index: int) -> bool:
    return live is not None and live.last == index + 1


def _ranges(program: Program) -> tuple[LiveRange | None, ...]:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        for value in step.reads + step.writes:
            touched = program.values[value].buffer
            first.setdefault(touched, index)
            last[touched] = index + 1
    found: list[LiveRange | None] = []
    for buffer in program.buffers:
        if buffer.kind is BufferKind.STATE:
            found.append(LiveRange(0, len(program.steps)))
        elif buffer.kind in ARENA_KINDS and buffer.id in first:
            found.append(LiveRange(first[buffer.id], last[buffer.id]))
        else:
            found.append(None)
    return tuple(found)


def _weight_uses(program: Program) -> tuple[tuple[WeightUse, ...], ...]:
    uses = []
    for step in program.steps:
        values = (program.values[value] for value in step.reads)
        weights = (v for v in values if program.buffers[v.buffer].kind is BufferKind.WEIGHT)
        extents = {(v.buffer, *v.extent) for v in weights}
        uses.append(tuple(WeightUse(*extent) for extent in sorted(extents) if extent[1] < extent[2]))
    return tuple(uses)


def _dies(program: Program) -> tuple[tuple[int, ...], ...]:
    last: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        for value in step.reads + step.writes:
            if program.buffers[program.values[value].buffer].kind in ARENA_KINDS - {BufferKind.STATE}:
                last[value] = index
    dying: list[list[int]] = [[] for _ in program.steps]
    for value, index in last.items():
        dying[index].append(value)
    return tuple(tuple(sorted(values)) for values in dying)


def _live_nbytes(program: Program, ranges: tuple[LiveRange | None, ...]) -> tuple[int, ...]:
    change = [0] * (len(program.steps) + 1)
    for buffer, live in zip(program.buffers, ranges, strict=True):
        if live is not None:
            nbytes = round_up(buffer.nbytes, ALIGNMENT)
            change[live.first] += nbytes
            change[live.last] -= nbytes
    live_nbytes = []
    total = 0
    for delta in change[:-1]:
        total += delta
        live_nbytes.append(total)
    return tuple(live_nbytes)


def _check_written_before_read(program: Program) -> None:
    written: dict[int, list[tuple[int, int]]] = {}
    given = (BufferKind.INPUT, BufferKind.WEIGHT, BufferKind.STATE)
    for index, step in enumerate(program.steps):
        for read in step.reads:
            value = program.values[read]
            first, last = value.extent
            buffer = program.buffers[value.buffer]
            if buffer.kind not in given and not _touches(value, written.get(buffer.id, [])):
                raise InternalError(
                    f"step {index} ({step.name}) reads {value.name} (bytes {first}-{last} "
                    f"of buffer {buffer.name}), which no earlier step writes"
                )
        for write in step.writes:
            value = program.values[write]
            extents = written.setdefault(value.buffer, [])
            if value.extent not in extents[-1:]:
                extents.append(value.extent)


def _touches(value: Value, extents: list[tuple[int, int]]) -> bool:
    first, last = value.extent
    return first == last or any(start < last and first < end for start, end in extents)
