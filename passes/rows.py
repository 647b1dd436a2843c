"""What a step does to the rows of its buffers when it is cut along one of its axes.

A buffer has rows where a value has a dimension that is outermost in it: every row takes `pitch` bytes, and
the value's other dimensions stay within one row. Rows of two accesses are compared by the bytes at which
they begin and end; accesses without rows are whole.

Where rows are done from the last to the first, rows and bytes are counted from the end: row 0 is the last
one, and byte 0 the buffer's last.
"""

from __future__ import annotations

from dataclasses import dataclass

from occ.ir import Program, SplitAxis, Step, Value, Window, refs_of


@dataclass(frozen=True, slots=True)
class RowView:
    """A value as rows: row r of it lies in bytes [(first + r) * pitch + start, (first + r) * pitch + end) of
    the buffer, for `count` rows."""

    pitch: int
    first: int
    count: int
    start: int
    end: int

    def end_byte(self, rows: int) -> int:
        """Where the first `rows` > 0 rows end."""
        return (self.first + rows - 1) * self.pitch + self.end


@dataclass(frozen=True, slots=True)
class Access:
    """One operand, result or scratch value of a step, in a cut of that step.

    `dim` is the dimension that is sliced and `count` its rows, None and 0 where every part takes all of it;
    `view` are the rows in memory, None where they are interleaved. `window` says which rows a row of the
    result needs, itself where None.
    """

    value: int
    buffer: int
    writes: bool
    dim: int | None
    count: int
    view: RowView | None
    window: Window | None
    span: tuple[int, int]
    """Bytes of the buffer, half-open."""

    def begin(self, rows: int) -> int:
        """The first row that is accessed once `rows` rows of the step's axis are done."""
        return rows if self.window is None else self.window.first(rows)

    def end(self, rows: int) -> int:
        """The end of the rows accessed by the first `rows` rows of the step's axis."""
        if rows == 0:
            return 0
        return rows if self.window is None else self.window.end(rows)

    def rows_until(self, row: int) -> int:
        """The fewest rows of the axis after which no row before `row` is accessed any more."""
        if self.window is None:
            return row
        return -(-(row + self.window.before) * self.window.rate // self.window.stride)


def rows_of(value: Value, dim: int) -> RowView | None:
    """The value as rows along `dim`; None where its rows are interleaved with each other."""
    pitch = value.strides[dim] * value.itemsize
    sizes = zip(value.shape, value.strides, strict=True)
    reach = sum((size - 1) * stride for d, (size, stride) in enumerate(sizes) if d != dim and size > 1)
    if pitch <= 0 or 0 in value.shape:
        return None
    start = value.offset % pitch
    end = start + (reach + 1) * value.itemsize
    return RowView(pitch, value.offset // pitch, value.shape[dim], start, end) if end <= pitch else None


def _mirrored(view: RowView, nbytes: int) -> RowView | None:
    """The rows of a buffer of `nbytes` bytes counted from its end; None where it is not whole rows."""
    if nbytes % view.pitch:
        return None
    first = nbytes // view.pitch - view.first - view.count
    return RowView(view.pitch, first, view.count, view.pitch - view.end, view.pitch - view.start)


def accesses(
    program: Program, step: Step, axis: SplitAxis | None, descending: bool = False
) -> tuple[Access, ...]:
    """What a step touches when it is cut along `axis`, or is run whole; what it reads from the file is left
    out. Reads come before writes. `descending`: rows and their bytes count from the end."""
    dims = {} if axis is None else dict(axis.operands)
    found: dict[Access, None] = {}
    for name, arg in step.args:
        for ref in refs_of(arg):
            if ref.value not in step.stored:
                window = None if axis is None else axis.window(name)
                found.setdefault(_access(program, ref.value, False, dims.get(name), window, descending))
    for place, value in enumerate(step.outs):
        cut = axis.outputs[place] if axis is not None and place < len(axis.outputs) else None
        found.setdefault(_access(program, value, True, cut, None, descending))
    for place, value in enumerate(step.scratch):
        cut = axis.scratch[place] if axis is not None and axis.scratch else None
        found.setdefault(_access(program, value, True, cut, None, descending))
    return tuple(found)


def _access(
    program: Program, value_id: int, writes: bool, dim: int | None, window: Window | None, descending: bool
) -> Access:
    value = program.values[value_id]
    if dim is None:
        return Access(value_id, value.buffer, writes, None, 0, None, None, value.extent)
    view = rows_of(value, dim)
    if descending and view is not None:
        view = _mirrored(view, program.buffers[value.buffer].nbytes)
    return Access(value_id, value.buffer, writes, dim, value.shape[dim], view, window, value.extent)


def rows_to_finish(earlier: Access, later: Access, rows_later: int, extent: int) -> int:
    """How many of its `extent` rows a step must have done before a later one does its first `rows_later`
    rows, for what the two accesses share.

    The earlier step's remaining rows then touch nothing that those rows of the later one touch.
    """
    if rows_later == 0 or not (earlier.writes or later.writes) or earlier.buffer != later.buffer:
        return 0
    if earlier.span[1] <= later.span[0] or later.span[1] <= earlier.span[0]:
        return 0
    one, other = earlier.view, later.view
    if one is None or other is None:
        return extent
    if one.pitch == other.pitch and (one.end <= other.start or other.end <= one.start):
        return 0
    touched = min(later.end(rows_later), other.count)
    if touched <= 0:
        return 0
    row = -(-other.end_byte(touched) // one.pitch) - one.first
    return min(extent, max(0, earlier.rows_until(row))) if row > 0 else 0
