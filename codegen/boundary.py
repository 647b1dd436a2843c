"""The text that binds the caller's tensors: inputs, outputs and the views that steps take of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from occ.codegen.text import WIDTH, contiguous_strides, tuple_text, wrap
from occ.errors import InternalError
from occ.ir import BufferKind, Program, Value

INDENT = 4


@dataclass(frozen=True, slots=True)
class OutputBuffer:
    """How the tensor over an OUTPUT buffer is made. `output` is the index of the output that is this tensor,
    or None where no output spans the buffer: then the tensor is its bytes."""

    buffer: int
    output: int | None
    identifier: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Boundary:
    """Lines, not indented, for the parts of the template with the same names. `used` are the values that
    have an identifier in `names`."""

    program: Program
    used: Sequence[int]
    names: Mapping[int, str]

    @cached_property
    def buffers(self) -> tuple[OutputBuffer, ...]:
        """One entry per OUTPUT buffer, in order of their ids."""
        return tuple(
            self._output_buffer(buffer.id)
            for buffer in self.program.buffers
            if buffer.kind is BufferKind.OUTPUT
        )

    @property
    def outputs(self) -> list[str]:
        lines = []
        for entry in self.buffers:
            name = None if entry.output is None else self.program.outputs[entry.output].name
            layout = f"{tuple_text(entry.shape)}, {tuple_text(entry.strides)}"
            lines.append(f"({name!r}, torch.{entry.dtype}, {layout}),")
        return lines

    @property
    def bind_inputs(self) -> list[str]:
        inputs = {self.program.values[entry.value].buffer: entry.value for entry in self.program.inputs}
        names = [self.names[entry.value] for entry in self.program.inputs]
        lines = _unpack(names)
        for id in self._used_in(BufferKind.INPUT):
            value = self.program.values[id]
            base = inputs[value.buffer]
            if id != base:
                offset = value.offset - self.program.values[base].offset
                lines += self._view(value, self.names[base], offset)
        return _function([*names, *self._other_names(BufferKind.INPUT, inputs.values())], lines)

    @property
    def bind_outputs(self) -> list[str]:
        names = [entry.identifier for entry in self.buffers]
        bases = {entry.buffer: entry for entry in self.buffers}
        whole = [
            self.program.outputs[entry.output].value for entry in self.buffers if entry.output is not None
        ]
        lines = _unpack(names)
        for id in self._used_in(BufferKind.OUTPUT):
            value = self.program.values[id]
            if id not in whole:
                lines += self._view(value, bases[value.buffer].identifier, value.offset)
        results = tuple_text([self._result(entry.value) for entry in self.program.outputs])
        lines += wrap(f"return {results}", 0, WIDTH - INDENT)
        return _function([*names, *self._other_names(BufferKind.OUTPUT, whole)], lines)

    @property
    def release(self) -> list[str]:
        names = [self.names[id] for id in self._used_in(BufferKind.INPUT)]
        names += [self.names[id] for id in self._used_in(BufferKind.OUTPUT)]
        names += [entry.identifier for entry in self.buffers if entry.output is None]
        return _function(names, [f"{name} = None" for name in names])

    def _output_buffer(self, buffer: int) -> OutputBuffer:
        values = [self.program.values[id] for id in self.used if self.program.values[id].buffer == buffer]
        last = max((value.extent[1] for value in values), default=0)
        for index, output in enumerate(self.program.outputs):
            value = self.program.values[output.value]
            if value.buffer == buffer and value.offset == 0 and value.extent[1] >= last and _is_dense(value):
                return OutputBuffer(
                    buffer, index, self.names[value.id], value.dtype, value.shape, value.strides
                )
        identifier = f"output_{buffer}_bytes"
        while identifier in self.names.values():
            identifier += "_"
        return OutputBuffer(buffer, None, identifier, "uint8", (self.program.buffers[buffer].nbytes,), (1,))

    def _result(self, value: int) -> str:
        kind = self.program.buffers[self.program.values[value].buffer].kind
        if kind not in (BufferKind.INPUT, BufferKind.OUTPUT):
            name = self.program.values[value].name
            raise InternalError(
                f"output value {name!r} is in a buffer of kind {kind.value}, not the caller's"
            )
        return self.names[value]

    def _used_in(self, kind: BufferKind) -> list[int]:
        return [id for id in self.used if self.program.buffers[self.program.values[id].buffer].kind is kind]

    def _other_names(self, kind: BufferKind, bases: Iterable[int]) -> list[str]:
        known = set(bases)
        return [self.names[id] for id in self._used_in(kind) if id not in known]

    def _view(self, value: Value, base: str, offset: int) -> list[str]:
        layout = f"torch.{value.dtype}, {tuple_text(value.shape)}, {tuple_text(value.strides)}"
        return wrap(f"{self.names[value.id]} = view_of({base}, {layout}, {offset})", 0, WIDTH - INDENT)


def _is_dense(value: Value) -> bool:
    """Whether the elements fill the value's extent, in any order of its dimensions."""
    sizes = [(stride, size) for size, stride in zip(value.shape, value.strides, strict=True) if size != 1]
    order = sorted(sizes)
    return [stride for stride, _ in order] == list(
        reversed(contiguous_strides([s for _, s in reversed(order)]))
    )


def _unpack(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    target = f"({names[0]},)" if len(names) == 1 else f"({', '.join(names)})"
    return wrap(f"{target} = tensors", 0, WIDTH - INDENT)


def _function(names: Sequence[str], lines: Sequence[str]) -> list[str]:
    """A function's body: its global names, then `lines`."""
    declared: list[str] = []
    for name in names:
        if declared and len(declared[-1]) + len(name) + 2 <= WIDTH - INDENT:
            declared[-1] += f", {name}"
        else:
            declared.append(f"global {name}")
    return [*declared, *lines] or ["pass"]
