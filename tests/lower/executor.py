"""Runs a Program that has no plan: every buffer in memory of its own.

Whatever a run has not written holds 0xFF bytes (NaN as floats), and so do the bytes around every buffer.
Those must stay so, and weights must stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from occ.codegen.steps import native_functions, step_text
from occ.ir import BufferKind, Program, Step, Value
from occ.lower import Lowered
from occ.runtime_stub import kernels
from occ.runtime_stub.packed import packed
from occ.runtime_stub.tensors import dtype_named, view_of
from tests.kernels.native import compiled

MARGIN = 64
"""Bytes on either side of a buffer."""


def bytes_of(tensor: Tensor) -> Tensor:
    """The bytes of a dense tensor in the order of memory."""
    flat = tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
    return flat.contiguous().view(torch.uint8)


@dataclass
class Executor:
    """A lowered model, run step by step. State lives from run to run."""

    lowered: Lowered
    _memory: dict[int, Tensor] = field(init=False, default_factory=dict)
    """Bytes of each buffer, with margins."""

    def __post_init__(self) -> None:
        for buffer in self.program.buffers:
            self._memory[buffer.id] = torch.full((buffer.nbytes + 2 * MARGIN,), 0xFF, dtype=torch.uint8)
        for state in self.program.states:
            self._bytes(state.buffer).zero_()
        for buffer_id, tensor in self.lowered.weights.items():
            if tensor.numel():
                self._bytes(buffer_id).copy_(bytes_of(tensor))

    @property
    def program(self) -> Program:
        return self.lowered.program

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in order, in memory that later runs use again; results that share bytes share them.

        `inputs` are in the program's order. Those that the model changes are changed.
        """
        program = self.program
        kept = {BufferKind.WEIGHT, BufferKind.STATE}
        for buffer in program.buffers:
            if buffer.kind not in kept:
                self._memory[buffer.id] = torch.full_like(self._memory[buffer.id], 0xFF)
        for taken, tensor in zip(program.inputs, inputs, strict=True):
            self.tensor(taken.value).copy_(tensor)
        with torch.inference_mode():
            self._run_steps()
        self._check_bytes()
        written = {program.values[value].buffer for step in program.steps for value in step.writes}
        for taken, tensor in zip(program.inputs, inputs, strict=True):
            if program.values[taken.value].buffer in written:
                tensor.copy_(self.tensor(taken.value))
        return [self.tensor(output.value) for output in program.outputs]

    def scope(self) -> dict[str, object]:
        """The names that the calls of steps use."""
        program = self.program
        return {
            **{"torch": torch, "aten": torch.ops.aten, "kernels": kernels},
            **{"inf": float("inf"), "nan": float("nan")},
            "native": compiled(*native_functions(program.values, program.steps)),
        }

    def call(self, step: Step, name: Callable[[int], str]) -> str:
        """The call of a step."""
        return step_text(self.program.values, step, name)

    def _run_steps(self) -> None:
        program = self.program
        scope = self.scope()

        def name(value: int) -> str:
            return f"v{value}"

        for step in program.steps:
            for value in {*step.reads, *step.writes}:
                if name(value) not in scope:
                    scope[name(value)] = self.tensor(value)
            call = self.call(step, name)
            try:
                eval(call, scope)
            except Exception as error:
                raise AssertionError(f"step {step.name} ({step.module}) failed: {call}: {error}") from error

    def tensor(self, value_id: int) -> Tensor:
        """A value as the steps see it."""
        value: Value = self.program.values[value_id]
        end = value.extent[1]
        nbytes = self.program.buffers[value.buffer].nbytes
        assert end <= nbytes, f"value {value.name} ends at {end} of the {nbytes} bytes of its buffer"
        memory = self._memory[value.buffer]
        tensor = view_of(memory, dtype_named(value.dtype), value.shape, value.strides, MARGIN + value.offset)
        if value.packing is None:
            return tensor
        return packed(tensor, dtype_named(value.packing.dtype), value.packing.shape, value.packing.layout)

    def _bytes(self, buffer: int) -> Tensor:
        memory = self._memory[buffer]
        return memory[MARGIN : memory.numel() - MARGIN]

    def _check_bytes(self) -> None:
        for buffer in self.program.buffers:
            memory = self._memory[buffer.id]
            around = torch.cat([memory[:MARGIN], memory[memory.numel() - MARGIN :]])
            assert bool((around == 0xFF).all()), f"bytes beside buffer {buffer.name} were written"
            weight = self.lowered.weights.get(buffer.id)
            if buffer.kind is BufferKind.WEIGHT and weight is not None and weight.numel():
                assert torch.equal(self._bytes(buffer.id), bytes_of(weight)), f"{buffer.name} was written"
