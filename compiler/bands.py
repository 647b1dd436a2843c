"""The steps of a band: what `occ.passes.banding` decides, as kernel calls over new values and buffers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from occ.errors import InternalError
from occ.ir import Arg, BufferKind, Program, Ref, Step, refs_of
from occ.parts import Key, Memory, dense_strides, with_values
from occ.passes.banding import Band, Cut, Operation, Verb, operations
from occ.passes.rows import Access

Args = tuple[tuple[str, Arg], ...]

Whole = Callable[[int, Step], list[Step]]
"""What else is chosen for a step: its index in the unsplit program and the step -> the steps it becomes."""


def band_steps(memory: Memory, program: Program, band: Band, finish: Whole) -> list[tuple[int, Step]]:
    """The steps of a band in order, each with the step of `program` that it comes from. What they need is
    appended to `memory`; `finish` is asked about every part and may cut it further along another axis."""
    writer = _Writer(memory, program, band)
    found: list[tuple[int, Step]] = []
    for operation in operations(band):
        steps = writer.steps(operation)
        if operation.verb is Verb.RUN:
            steps = [made for step in steps for made in finish(operation.cut.step, step)]
        found += [(operation.cut.step, step) for step in steps]
    return found


class _Writer:
    def __init__(self, memory: Memory, program: Program, band: Band) -> None:
        self._memory = memory
        self._program = program
        self._band = band
        self._spans: dict[tuple[int, int], int] = {}
        """Buffers by rolling buffer and part."""
        self._kept: dict[int, tuple[int, int]] = {}
        """The buffer that holds a rolling buffer's kept rows, and the first of them."""
        self._staged: dict[int, int] = {}
        """Values with the rows beyond the edge, for the step that comes next."""
        self._made: dict[tuple[int, int, int, int], int] = {}
        """Values of slices by whole value, part, first row and end."""

    def steps(self, operation: Operation) -> list[Step]:
        """The kernel calls of one operation."""
        access = operation.access
        if operation.verb is Verb.RUN:
            return [self._run(operation.cut, operation.part)]
        assert access is not None
        if operation.verb is Verb.STAGE:
            return self._stage(operation, access)
        if operation.verb is Verb.FILL:
            rows = self._whole_rows(access, operation.part, *operation.rows)
            fill = self._band.rolling[access.buffer].fill
            return [self._fill(self._name(operation, "edge of", access), operation.cut, rows, fill)]
        return [self._keep(operation, access)]

    # The step's own rows

    def _run(self, cut: Cut, part: int) -> Step:
        step = self._program.steps[cut.step]
        first, end = cut.rows(part)
        whole = (first, end) == (0, cut.extent)
        if whole and not any(access.buffer in self._band.rolling for access in cut.accesses):
            return step
        reads = {a.value: a for a in cut.accesses if not a.writes}
        slices: dict[Key, int] = {}
        for name, arg in step.args:
            for ref in refs_of(arg):
                access = reads.get(ref.value)
                if access is not None:
                    slices[name, ref.value] = self._read(cut, access, part)
        writes = {a.value: a for a in cut.accesses if a.writes}
        return replace(
            step,
            name=step.name if whole else f"{step.name}[{part + 1}/{self._band.parts}]",
            args=self._part_args(cut, with_values(step.args, slices), part),
            outs=tuple(self._slice(writes[out], part, first, end) for out in step.outs),
            scratch=tuple(self._slice(writes[each], part, first, end) for each in step.scratch),
            splits=(),
        )

    def _part_args(self, cut: Cut, args: Args, part: int) -> Args:
        axis, (first, _) = cut.axis, cut.rows(part)
        if axis is None or self._keeps_edge(cut, part):
            return args
        instead = dict(axis.part_args)
        if cut.progress[part]:
            outs = self._program.steps[cut.step].outs
            instead |= {name: Ref(outs[result]) for name, result in axis.carries}
        found = []
        for name, arg in args:
            arg = instead.get(name, arg)
            if name == axis.position:
                if not isinstance(arg, int):
                    raise InternalError(f"operand {name}, which counts rows, is {arg!r} and no number")
                arg += first
            found.append((name, arg))
        return tuple(found)

    def _keeps_edge(self, cut: Cut, part: int) -> bool:
        """Whether a step does all its rows at once, and its windowed operands end where they always did."""
        rolling = self._band.rolling
        return cut.rows(part) == (0, cut.extent) and not any(
            access.window is not None and access.buffer in rolling for access in cut.accesses
        )

    def _read(self, cut: Cut, access: Access, part: int) -> int:
        staged = self._staged.pop(access.value, None)
        if staged is not None:
            return staged
        if access.window is not None and self._keeps_edge(cut, part):
            return access.value
        first, end = cut.rows(part)
        return self._slice(access, part, access.begin(first), access.end(end))

    def _slice(self, access: Access, part: int, first: int, end: int) -> int:
        """The value of rows [first, end) of an access, in the span or in the whole buffer."""
        if access.dim is None:
            return access.value
        if access.buffer in self._band.rolling:
            return self._span_rows(access, part, first, end)
        if (first, end) == (0, access.count):
            return access.value
        key = (access.value, -1, first, end)
        if key not in self._made:
            self._made[key] = self._memory.rows(access.value, access.dim, first, end)
        return self._made[key]

    # Rolling buffers

    def _span_rows(self, access: Access, part: int, first: int, end: int) -> int:
        """The value of rows [first, end) of a rolling buffer, seen as the access sees it."""
        assert access.dim is not None
        key = (access.value, part, first, end)
        if key not in self._made:
            value = self._memory.values[access.value]
            rolling = self._band.rolling[access.buffer]
            span = rolling.spans[part]
            assert span is not None
            pitch = self._pitch(access)
            offset = value.offset + first * pitch - span[0] * rolling.pitch
            assert offset >= value.offset
            assert end * pitch <= span[1] * rolling.pitch
            buffer = self._span(access.buffer, part)
            self._made[key] = self._memory.value(
                _title(value.name, first, end),
                buffer,
                offset,
                value.dtype,
                (*value.shape[: access.dim], end - first, *value.shape[access.dim + 1 :]),
                value.strides,
            )
        return self._made[key]

    def _pitch(self, access: Access) -> int:
        assert access.view is not None
        return access.view.pitch

    def _span(self, buffer: int, part: int) -> int:
        key = (buffer, part)
        if key not in self._spans:
            rolling = self._band.rolling[buffer]
            span = rolling.spans[part]
            assert span is not None
            whole = self._program.buffers[buffer]
            nbytes = (span[1] - span[0]) * rolling.pitch
            self._spans[key] = self._memory.buffer(_title(whole.name, *span), whole.kind, nbytes)
        return self._spans[key]

    def _keep(self, operation: Operation, access: Access) -> Step:
        """Rows from the span to where they are kept, or back."""
        (first, end), memory = operation.rows, self._memory
        inside = self._whole_rows(access, operation.part, first, end)
        rows = memory.values[inside]
        title = f"{rows.name} kept"
        if operation.verb is Verb.KEEP:
            nbytes = (end - first) * self._band.rolling[access.buffer].pitch
            self._kept[access.buffer] = (memory.buffer(title, BufferKind.ACTIVATION, nbytes), first)
        kept, kept_first = self._kept[access.buffer]
        offset = (first - kept_first) * self._band.rolling[access.buffer].pitch
        outside = memory.value(title, kept, offset, rows.dtype, rows.shape, rows.strides)
        source, target = (inside, outside) if operation.verb is Verb.KEEP else (outside, inside)
        name = self._name(operation, operation.verb.value, access)
        return self._copy(name, operation.cut, source, target)

    def _whole_rows(self, access: Access, part: int, first: int, end: int) -> int:
        """The value of all bytes of rows [first, end) of a rolling buffer, in elements of its type."""
        rolling = self._band.rolling[access.buffer]
        span = rolling.spans[part]
        assert span is not None
        dtype = self._memory.values[access.value].dtype
        columns = rolling.pitch // self._memory.values[access.value].itemsize
        return self._memory.value(
            _title(self._program.buffers[access.buffer].name, first, end),
            self._span(access.buffer, part),
            (first - span[0]) * rolling.pitch,
            dtype,
            (end - first, columns),
            (columns, 1),
        )

    # Operands with the rows beyond their edge

    def _stage(self, operation: Operation, access: Access) -> list[Step]:
        memory, cut = self._memory, operation.cut
        assert access.dim is not None
        assert access.window is not None
        value = memory.values[access.value]
        first, end = operation.rows
        shape = (*value.shape[: access.dim], end - first, *value.shape[access.dim + 1 :])
        strides = dense_strides(replace(value, shape=shape))
        size = value.itemsize
        for extent in shape:
            size *= extent
        name = self._name(operation, "edge of", access)
        title = _title(value.name, first, end)
        buffer = memory.buffer(title, BufferKind.SCRATCH, size)
        staged = memory.value(title, buffer, 0, value.dtype, shape, strides)
        steps = []
        inside = max(first, 0), min(end, access.count)
        for begin, stop in ((first, inside[0]), (inside[1], end)):
            if begin < stop:
                rows = memory.rows(staged, access.dim, begin - first, stop - first)
                steps.append(self._fill(name, cut, rows, access.window.fill))
        source = self._slice(access, operation.part, *inside)
        target = memory.rows(staged, access.dim, inside[0] - first, inside[1] - first)
        self._staged[access.value] = staged
        return [*steps, self._copy(name, cut, source, target)]

    def _name(self, operation: Operation, verb: str, access: Access) -> str:
        step = self._program.steps[operation.cut.step].name
        buffer = self._program.buffers[access.buffer].name
        return f"{step}[{operation.part + 1}/{self._band.parts}] {verb} {buffer}"

    def _fill(self, name: str, cut: Cut, rows: int, fill: float) -> Step:
        module = self._program.steps[cut.step].module
        return Step(name, module, "fill", (("value", fill),), (rows,))

    def _copy(self, name: str, cut: Cut, source: int, target: int) -> Step:
        module = self._program.steps[cut.step].module
        return Step(name, module, "copy", (("source", Ref(source)),), (target,))


def _title(name: str, first: int, end: int) -> str:
    """Rows of a buffer or value by name; those beyond the edge are not counted."""
    return f"{name}[{max(first, 0)}:{end}]"
