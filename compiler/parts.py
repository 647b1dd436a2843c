"""Steps cut into parts: new values over slices of old ones, and dense scratch where a kernel needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from occ.errors import InternalError
from occ.ir import Arg, Buffer, BufferKind, Ref, SplitAxis, Step, Value, refs_of
from occ.passes.banding import part_rows


@dataclass
class Memory:
    """The buffers and values of a program while new ones are appended."""

    buffers: list[Buffer]
    values: list[Value]

    def buffer(self, name: str, kind: BufferKind, nbytes: int) -> int:
        self.buffers.append(Buffer(len(self.buffers), name, kind, nbytes))
        return len(self.buffers) - 1

    def scratch(self, name: str, nbytes: int) -> int:
        return self.buffer(name, BufferKind.SCRATCH, nbytes)

    def value(
        self,
        name: str,
        buffer: int,
        offset: int,
        dtype: str,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
    ) -> int:
        self.values.append(Value(len(self.values), name, buffer, offset, dtype, shape, strides))
        return len(self.values) - 1

    def rows(self, value: int, dim: int, first: int, last: int) -> int:
        """A new value: rows [first, last) of `value` along `dim`."""
        whole = self.values[value]
        index = ":, " * dim + f"{first}:{last}"
        return self.value(
            f"{whole.name}[{index}]",
            whole.buffer,
            whole.offset + first * whole.strides[dim] * whole.itemsize,
            whole.dtype,
            (*whole.shape[:dim], last - first, *whole.shape[dim + 1 :]),
            whole.strides,
        )


def axis_of(step: Step, name: str, parts: int) -> SplitAxis:
    """The axis of a step by its name. Raises InternalError where it offers none or fewer parts."""
    for axis in step.splits:
        if axis.name == name:
            granules = -(-axis.extent // axis.granule)
            if not 1 <= parts <= granules:
                raise InternalError(
                    f"step {step.name} cannot be split into {parts} parts along {name}: "
                    f"{axis.extent} rows in granules of {axis.granule} allow 1 to {granules}"
                )
            if len(axis.outputs) != len(step.outs):
                raise InternalError(
                    f"axis {name} of step {step.name} slices {len(axis.outputs)} results of {len(step.outs)}"
                )
            return axis
    offered = ", ".join(axis.name for axis in step.splits) or "none"
    raise InternalError(f"step {step.name} has no axis {name} to split along; it offers: {offered}")


def split(memory: Memory, step: Step, axis: SplitAxis, parts: int) -> list[Step]:
    """The parts of one step, by themselves. Raises InternalError for an axis that needs a band."""
    if axis.needs_band:
        raise InternalError(f"axis {axis.name} of step {step.name} is one for bands, not for a single step")
    if parts == 1:
        return [step]
    dims = _sliced_dims(memory, step, axis)
    ranges = part_rows(axis, parts)
    stage = _Stage(memory, step, axis, max(last - first for first, last in ranges)) if axis.staged else None
    steps: list[Step] = []
    for number, (first, last) in enumerate(ranges, 1):
        suffix = f"[{number}/{parts}]"
        slices = {key: memory.rows(key[1], dim, first, last) for key, dim in dims.items()}
        outs = tuple(
            memory.rows(out, dim, first, last) for out, dim in zip(step.outs, axis.outputs, strict=True)
        )
        part = replace(
            step,
            name=step.name + suffix,
            args=with_values(step.args, slices),
            outs=outs,
            stored=tuple(slices.get(_stored_key(step, value), value) for value in step.stored),
            splits=(),
        )
        steps.extend(stage.around(part, slices) if stage else [part])
    return steps


Key = tuple[str, int]
"""An operand's name and a value in it."""


def _sliced_dims(memory: Memory, step: Step, axis: SplitAxis) -> dict[Key, int]:
    """The dimension along which each sliced operand is cut, after checking that the axis fits the step."""
    args = dict(step.args)
    dims: dict[Key, int] = {}
    for name, dim in axis.operands:
        if name not in args:
            raise InternalError(
                f"axis {axis.name} of step {step.name} slices {name}, which is no operand of it"
            )
        for ref in refs_of(args[name]):
            dims[name, ref.value] = dim
    for label, value_id, dim in [
        *((name, value, dim) for (name, value), dim in dims.items()),
        *(("result", value, dim) for value, dim in zip(step.outs, axis.outputs, strict=True)),
    ]:
        value = memory.values[value_id]
        if not 0 <= dim < len(value.shape) or value.shape[dim] != axis.extent:
            raise InternalError(
                f"axis {axis.name} of step {step.name} has {axis.extent} rows, but its {label} {value.name} "
                f"of shape {value.shape} does not have as many along dimension {dim}"
            )
    for name, arg in step.args:
        for ref in refs_of(arg):
            for out, dim in zip(step.outs, axis.outputs, strict=True):
                if _same_view(memory, ref.value, out) and dims.get((name, ref.value)) != dim:
                    raise InternalError(
                        f"axis {axis.name} of step {step.name} cuts its result along dimension {dim} but not "
                        f"{name}, which lies in the same bytes"
                    )
    return dims


def _same_view(memory: Memory, left: int, right: int) -> bool:
    a, b = memory.values[left], memory.values[right]
    return replace(a, id=b.id, name=b.name) == b


def _stored_key(step: Step, value: int) -> Key:
    for name, arg in step.args:
        if any(ref.value == value for ref in refs_of(arg)):
            return (name, value)
    raise InternalError(f"step {step.name} declares a stored value {value} that is no operand of it")


def with_values(
    args: tuple[tuple[str, Arg], ...], replacement: Mapping[Key, int]
) -> tuple[tuple[str, Arg], ...]:
    """The operands with some values replaced."""

    def replaced(name: str, arg: Arg) -> Arg:
        if isinstance(arg, Ref):
            return Ref(replacement.get((name, arg.value), arg.value))
        if isinstance(arg, tuple):
            return tuple(replaced(name, item) for item in arg)
        return arg

    return tuple((name, replaced(name, arg)) for name, arg in args)


class _Stage:
    """Dense scratch that the parts of one step compute their results in, one buffer per result."""

    def __init__(self, memory: Memory, step: Step, axis: SplitAxis, most_rows: int) -> None:
        self._memory = memory
        self._step = step
        self._buffers = []
        for out, dim in zip(step.outs, axis.outputs, strict=True):
            value = memory.values[out]
            rest = prod(value.shape[:dim]) * prod(value.shape[dim + 1 :])
            self._buffers.append(memory.scratch(f"{value.name}.stage", most_rows * rest * value.itemsize))

    def around(self, part: Step, slices: dict[Key, int]) -> list[Step]:
        """The part as steps: copy what the result's bytes held into the stage where the kernel reads it,
        compute in the stage, copy into the result's slice."""
        memory = self._memory
        staged = tuple(
            self._staged(out, buffer) for out, buffer in zip(part.outs, self._buffers, strict=True)
        )
        before: list[Step] = []
        moved: dict[Key, int] = {}
        for (name, whole), piece in slices.items():
            for original, stage in zip(self._step.outs, staged, strict=True):
                if _same_view(memory, whole, original):
                    before.append(self._copy(part, f"load {name}", piece, stage))
                    moved[name, piece] = stage
        after = [self._copy(part, "store", stage, out) for stage, out in zip(staged, part.outs, strict=True)]
        return [*before, replace(part, args=with_values(part.args, moved), outs=staged), *after]

    def _staged(self, out: int, buffer: int) -> int:
        value = self._memory.values[out]
        strides = dense_strides(value)
        return self._memory.value(f"{value.name}.stage", buffer, 0, value.dtype, value.shape, strides)

    def _copy(self, part: Step, verb: str, source: int, target: int) -> Step:
        return Step(f"{part.name} {verb}", part.module, "copy", (("source", Ref(source)),), (target,))


def dense_strides(value: Value) -> tuple[int, ...]:
    """Strides without gaps for the value's shape, its dimensions in the same order in memory."""
    strides = [0] * len(value.shape)
    reach = 1
    for dim in sorted(range(len(value.shape)), key=lambda dim: (-value.strides[dim], dim), reverse=True):
        strides[dim] = reach
        reach *= max(value.shape[dim], 1)
    return tuple(strides)
