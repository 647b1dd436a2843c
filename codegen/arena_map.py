"""The arena as a picture: addresses across, steps down."""

from __future__ import annotations

from collections.abc import Iterator

from occ.ir import ARENA_KINDS, BufferKind, Plan
from occ.units import format_bytes

COLUMNS = 80
ROWS = 40
LEGEND = "# resident weights   = streamed weights   - being loaded   o activations   s state   . free"


def arena_map(plan: Plan) -> list[str]:
    """Lines of at most 100 characters: what most of the bytes of each 1/80 of the arena hold, at each of up
    to 40 steps spread over the run."""
    steps = len(plan.program.steps)
    arena = plan.budget.arena
    if not steps or not arena:
        return ["the arena is empty"]
    shown = sorted({row * steps // ROWS for row in range(ROWS)})
    spans = list(_spans(plan))
    lines = [
        f"{'step':>6}  0x0 {'addresses of the arena':^{COLUMNS - 9}} 0x{arena:x}",
        *(f"{step:>6}  {_row(spans, step, arena)}" for step in shown),
        "",
        LEGEND,
        f"one column is {format_bytes(-(-arena // COLUMNS))}",
    ]
    return [line.rstrip() for line in lines]


def _row(spans: list[tuple[str, int, int, int, int]], step: int, arena: int) -> str:
    filled = [0] * COLUMNS
    row = ["."] * COLUMNS
    for mark, first, last, begin, end in spans:
        if first <= step < last:
            for column in range(begin * COLUMNS // arena, -(-end * COLUMNS // arena)):
                low, high = column * arena // COLUMNS, (column + 1) * arena // COLUMNS
                covered = min(end, high) - max(begin, low)
                if covered > filled[column]:
                    filled[column] = covered
                    row[column] = mark
    return "".join(row)


def _spans(plan: Plan) -> Iterator[tuple[str, int, int, int, int]]:
    """(mark, first step, step after the last, first byte, byte after the last)."""
    program, sizing = plan.program, plan.sizing
    count = len(program.steps)
    for id in sizing.resident:
        begin = plan.tile_offsets[id]
        yield "#", 0, count, begin, begin + sizing.tiles[id].nbytes
    for load in sizing.loads:
        begin = plan.tile_offsets[load.tile]
        end = begin + sizing.tiles[load.tile].nbytes
        if load.wraps:
            yield "-", load.issue, count, begin, end
            yield "-", 0, load.deadline, begin, end
        else:
            yield "-", load.issue, load.deadline, begin, end
        yield "=", load.deadline, load.last_use + 1, begin, end

    touched: dict[int, tuple[int, int]] = {}
    for index, step in enumerate(program.steps):
        for id in (*step.reads, *step.writes):
            buffer = program.values[id].buffer
            if program.buffers[buffer].kind in ARENA_KINDS:
                touched[buffer] = (touched.get(buffer, (index, 0))[0], index + 1)
    offsets = dict(plan.buffer_offsets)
    for id, (first, last) in touched.items():
        buffer_of = program.buffers[id]
        if buffer_of.kind is BufferKind.STATE:
            yield "s", 0, count, offsets[id], offsets[id] + buffer_of.nbytes
        else:
            yield "o", first, last, offsets[id], offsets[id] + buffer_of.nbytes
