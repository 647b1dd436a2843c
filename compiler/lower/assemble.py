"""From the finished draft to the frozen Program: ids, values, file layout, split axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from occ.codegen.kernels import Spec, kernel_named
from occ.codegen.kernels.rows import ROWS
from occ.ir import (
    Arg,
    Buffer,
    BufferKind,
    Input,
    Output,
    Program,
    Ref,
    SplitAxis,
    State,
    Step,
    Value,
)
from occ.lower.draft import Draft, StepDraft, Traced, dtype_name
from occ.lower.filelayout import grain_rows, lay_out
from occ.lower.lowering import specs_of
from occ.lower.packedrows import served_rows
from occ.lower.sharing import buffers_touched
from occ.units import PAGE, round_up


@dataclass(frozen=True)
class Interface:
    """What the caller sees, as tensors of the draft, in order."""

    name: str
    inputs: Sequence[tuple[str, Traced]]
    outputs: Sequence[tuple[str, Traced]]
    states: Sequence[tuple[str, Traced, torch.Tensor]]
    input_tree: object
    output_tree: object
    activation_peak: int


@dataclass(frozen=True)
class Lowered:
    """A Program and the bytes of its weights: tensor of each WEIGHT buffer, initial value of each STATE."""

    program: Program
    weights: Mapping[int, torch.Tensor]


class _Values:
    """Values of the program, each distinct view once."""

    def __init__(self, draft: Draft, ids: Mapping[int, int]) -> None:
        self._draft = draft
        self._ids = ids
        self._found: dict[tuple[Any, ...], int] = {}
        self.values: list[Value] = []

    def id_of(self, tensor: Traced) -> int:
        root, start = self._draft.root(tensor.buffer)
        key = (
            self._ids[root],
            start + tensor.offset,
            dtype_name(tensor.meta.dtype),
            tuple(tensor.meta.shape),
            tuple(tensor.meta.stride()),
            tensor.packing,
        )
        if key not in self._found:
            self._found[key] = len(self.values)
            self.values.append(Value(len(self.values), tensor.name, *key))
        return self._found[key]

    def arg(self, operand: Any) -> Arg:
        if isinstance(operand, Traced):
            return Ref(self.id_of(operand))
        if isinstance(operand, (tuple, list)):
            return tuple(self.arg(item) for item in operand)
        literal: Arg = operand
        return literal


def assemble(draft: Draft, interface: Interface, tensors: Mapping[int, torch.Tensor]) -> Lowered:
    """The Program of a draft; `tensors` holds the constants behind its weight buffers."""
    order = dict.fromkeys(buffers_touched(draft))
    for _, traced in (*interface.inputs, *interface.outputs):
        order.setdefault(draft.root(traced.buffer)[0])
    for _, traced, _ in interface.states:
        order.setdefault(draft.root(traced.buffer)[0])
    ids = {root: index for index, root in enumerate(order)}
    buffers = tuple(
        Buffer(ids[root], draft.buffers[root].name, draft.buffers[root].kind, draft.buffers[root].nbytes)
        for root in order
    )
    values = _Values(draft, ids)
    rows = {
        ids[root]: _rows(tensors[root]) for root in order if draft.buffers[root].kind is BufferKind.WEIGHT
    }
    steps = tuple(_step(step, values, rows, ids, draft) for step in draft.steps)
    inputs = tuple(Input(name, values.id_of(traced)) for name, traced in interface.inputs)
    outputs = tuple(Output(name, values.id_of(traced)) for name, traced in interface.outputs)

    copies = _copies(steps, values.values)
    grains, weights_end = lay_out([(weight, *rows[weight]) for weight in rows])
    states, file_nbytes = _lay_out_states(interface, draft, ids, weights_end)
    weights = {ids[root]: tensors[root] for root in order if root in tensors}
    for (_, traced, initial), state in zip(interface.states, states, strict=True):
        if state.file_offset is not None:
            weights[ids[draft.root(traced.buffer)[0]]] = initial
    program = Program(
        name=interface.name,
        buffers=buffers,
        values=tuple(values.values),
        steps=steps,
        inputs=inputs,
        outputs=outputs,
        states=states,
        grains=grains,
        input_tree=interface.input_tree,
        output_tree=interface.output_tree,
        weights_nbytes=sum(rows[weight][0] * rows[weight][1] for weight in rows if weight not in copies),
        file_nbytes=file_nbytes,
        activation_peak=interface.activation_peak,
    )
    return Lowered(program, weights)


def _copies(steps: Sequence[Step], values: Sequence[Value]) -> set[int]:
    """Buffers of tables whose rows are only ever read from the file; what computes has the same weight."""
    stored = {values[value].buffer for step in steps for value in step.stored}
    return stored - {values[value].buffer for step in steps for value in step.reads}


def _rows(tensor: torch.Tensor) -> tuple[int, int]:
    """Rows and bytes a row of a dense tensor, along its outermost dimension in memory; a vector (and what is
    packed is one) is a single row, which nothing cuts."""
    nbytes = tensor.numel() * tensor.element_size()
    if nbytes == 0 or tensor.dim() < 2:
        return 1, nbytes
    outermost = max(range(tensor.dim()), key=lambda d: (tensor.shape[d] > 1, tensor.stride(d)))
    count = tensor.shape[outermost]
    return count, nbytes // count


def _step(
    step: StepDraft,
    values: _Values,
    rows: Mapping[int, tuple[int, int]],
    ids: Mapping[int, int],
    draft: Draft,
) -> Step:
    args = tuple((name, values.arg(arg)) for name, arg in step.args.items())
    splits: tuple[SplitAxis, ...] = ()
    entry = kernel_named(step.kernel)
    if entry.splits is not None:
        out: Spec = step.outs[0].spec
        for axis in entry.splits(specs_of(step.args), out):
            fitting = (
                served_rows(step, axis) if axis.name == ROWS else _in_grains(axis, step, rows, ids, draft)
            )
            if fitting is not None and fitting.granule < axis.extent:
                splits += (fitting,)
    return Step(
        name=step.name,
        module=step.module,
        kernel=step.kernel,
        args=args,
        outs=tuple(values.id_of(out) for out in step.outs),
        scratch=tuple(values.id_of(scratch) for scratch in step.scratch),
        stored=tuple(values.id_of(stored) for stored in step.stored),
        splits=splits,
    )


def _in_grains(
    axis: SplitAxis,
    step: StepDraft,
    rows: Mapping[int, tuple[int, int]],
    ids: Mapping[int, int],
    draft: Draft,
) -> SplitAxis | None:
    """The axis with parts of whole grains of the largest weight that is sliced. None where a sliced weight's
    rows are not what the axis runs along."""
    granule, largest = axis.granule, 0
    for name, dim in axis.operands:
        operand = step.args[name]
        root = draft.root(operand.buffer)[0]
        # A vector (a bias) is a single grain; parts read their slices of it.
        if draft.buffers[root].kind is not BufferKind.WEIGHT or operand.meta.dim() == 1:
            continue
        count, row_nbytes = rows[ids[root]]
        outermost = all(operand.meta.stride(dim) >= stride for stride in operand.meta.stride())
        if count != axis.extent or operand.nbytes != draft.buffers[root].nbytes or not outermost:
            return None
        if operand.nbytes > largest:
            largest = operand.nbytes
            granule = grain_rows(count, row_nbytes)
    return replace(axis, granule=granule)


def _lay_out_states(
    interface: Interface, draft: Draft, ids: Mapping[int, int], start: int
) -> tuple[tuple[State, ...], int]:
    """States behind the weights, each at a page; zeros need no bytes in the file."""
    states, position = [], start
    for name, traced, initial in interface.states:
        buffer = ids[draft.root(traced.buffer)[0]]
        offset = None
        if bool(torch.count_nonzero(initial)):
            offset = position
            position = round_up(position + traced.nbytes, PAGE)
        states.append(State(name, buffer, offset))
    return tuple(states), position
