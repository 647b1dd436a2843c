"""The arena as text: addresses across, time down."""

from __future__ import annotations

from collections.abc import Iterator

from occ.errors import UsageError
from occ.ir import Plan
from occ.report.spans import ArenaPicture, Span, SpanKind, picture
from occ.units import format_bytes

MARKS = {
    SpanKind.RESIDENT: "#",
    SpanKind.STREAMED: "=",
    SpanKind.ACTIVATION: "o",
    SpanKind.STATE: "s",
    SpanKind.SCRATCH: "x",
}
LOADING, FREE = "-", "."
LEGEND = "# resident weights  = streamed  - being loaded  o activations  x scratch  s state  . free"
LEAST_WIDTH, LEAST_HEIGHT = 60, 8
STEP_WIDTH, BYTES_WIDTH, MODULE_SHARE = 6, 8, 5


def ascii_map(plan: Plan, width: int = 120, height: int = 48) -> str:
    """The memory map in `height` lines of at most `width` characters.

    Every line shows one step, that with most bytes in use among an equal share of the steps: what most of
    the bytes of each column hold, how many bytes are in use, the step's module; `<` marks the fullest of all.
    Raises UsageError below 60 x 8 characters.
    """
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        raise UsageError(
            f"a map of {width} x {height} characters is too small; ask for at least"
            f" {LEAST_WIDTH} x {LEAST_HEIGHT}"
        )
    drawn, arena = picture(plan), plan.budget.arena
    if not drawn.steps or not arena:
        return "the arena is empty"
    module_width = width // MODULE_SHARE
    columns = width - STEP_WIDTH - BYTES_WIDTH - module_width - 6
    total = drawn.occupancy().total
    peak = max(range(drawn.steps), key=total.__getitem__)
    end = format_bytes(arena)
    scale = f"{f'{format_bytes(-(-arena // columns))} a column':^{columns - len(end) - 1}}"
    lines = [f"{'step':>{STEP_WIDTH}}  0{scale}{end}  {'in use':>{BYTES_WIDTH}}  module"]
    for step in _shown_steps(total, height - 2):
        row = _row(drawn, step, arena, columns)
        in_use = f"{format_bytes(total[step]):>{BYTES_WIDTH}}{'<' if step == peak else ' '}"
        module = _tail(plan.program.steps[step].module, module_width)
        lines.append(f"{step:>{STEP_WIDTH}}  {row}  {in_use} {module}")
    lines.append(" " * (STEP_WIDTH + 2) + LEGEND)
    return "\n".join(line[:width].rstrip() for line in lines)


def _shown_steps(total: tuple[int, ...], rows: int) -> Iterator[int]:
    """The fullest step of each of `rows` equal shares of the steps, or every step where there are fewer."""
    rows = min(rows, len(total))
    for row in range(rows):
        share = range(row * len(total) // rows, (row + 1) * len(total) // rows)
        yield max(share, key=total.__getitem__)


def _row(drawn: ArenaPicture, step: int, arena: int, columns: int) -> str:
    """One mark a column: what holds most of its bytes."""
    most = [0] * columns
    row = [FREE] * columns
    for span in drawn.spans:
        if span.first <= step < span.last:
            mark = _mark(drawn, span, step)
            for column in range(span.offset * columns // arena, -(-span.end * columns // arena)):
                low, high = column * arena // columns, (column + 1) * arena // columns
                covered = min(span.end, high) - max(span.offset, low)
                if covered > most[column]:
                    most[column], row[column] = covered, mark
    return "".join(row)


def _tail(module: str, width: int) -> str:
    """As many of the last parts of a dotted name as fit."""
    while len(module) > width and "." in module:
        module = module.partition(".")[2]
    return module[:width]


def _mark(drawn: ArenaPicture, span: Span, step: int) -> str:
    return LOADING if step < span.ready else MARKS[drawn.owners[span.owner].kind]
