"""Memory as a kernel meets it in an arena: one stretch of bytes that are all 0xFF (NaN as floats), operands
and results at odd multiples of 64 bytes, other bytes that must not change on every side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from occ.codegen.kernels import call_text
from occ.codegen.text import tuple_text
from occ.ir import Symbol
from occ.runtime_stub import kernels
from occ.runtime_stub.tensors import view_of
from tests.kernels.native import function_of, loaded, tensors_of

Layout = tuple[int, ...]
"""Strides in elements."""


def spanned(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a strided tensor, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


@dataclass
class Memory:
    """`nbytes` bytes of 0xFF, handed out from front to back."""

    nbytes: int = 1 << 20
    bytes: Tensor = field(init=False)
    used: int = 64

    def __post_init__(self) -> None:
        self.bytes = torch.full((self.nbytes,), 0xFF, dtype=torch.uint8)

    def new(self, dtype: torch.dtype, shape: Sequence[int], strides: Layout) -> Tensor:
        """A tensor that nothing was written to, 64 bytes away from any other."""
        begin = self.used
        end = begin + spanned(shape, strides) * dtype.itemsize
        self.used = (end // 128 + 1) * 128 + 64
        assert self.used <= self.nbytes, f"{self.used} bytes are needed, the memory has {self.nbytes}"
        return view_of(self.bytes, dtype, shape, strides, begin)

    def holding(self, tensor: Tensor, strides: Layout) -> Tensor:
        """A tensor with the elements of `tensor`."""
        return self.new(tensor.dtype, tensor.shape, strides).copy_(tensor)


def same_place(memory: Tensor, tensor: Tensor) -> Tensor:
    """The view that `tensor` is of its memory, of other memory of the same size."""
    offset = tensor.storage_offset() * tensor.element_size()
    return view_of(memory, tensor.dtype, tensor.shape, tensor.stride(), offset)


def call_of(
    kernel: str, args: Mapping[str, object], outs: Sequence[Tensor], scratch: Sequence[Tensor] = ()
) -> tuple[str, Callable[[], object]]:
    """The text of a kernel's call, and the call."""
    function = function_of(kernel, args, outs, scratch)
    if function is not None:
        native = loaded(function)
        return function.symbol, lambda: native(*tensors_of(args.values()), *outs, *scratch)
    names: dict[int, str] = {}
    scope: dict[str, object] = {"torch": torch, "aten": torch.ops.aten, "kernels": kernels}

    def text(arg: object) -> str:
        if isinstance(arg, Tensor):
            name = names.setdefault(id(arg), f"v{len(names)}")
            scope[name] = arg
            return name
        if isinstance(arg, Symbol):
            return arg.text
        if isinstance(arg, (tuple, list)):
            return tuple_text([text(item) for item in arg])
        return repr(arg)

    call = call_text(
        kernel, {name: text(arg) for name, arg in args.items()}, [*map(text, outs)], [*map(text, scratch)]
    )
    return call, eval(f"lambda: {call}", scope)


def run(
    memory: Memory,
    kernel: str,
    args: Mapping[str, object],
    outs: Sequence[Tensor],
    scratch: Sequence[Tensor] = (),
) -> None:
    """Run a kernel by the text of its call, and check that it wrote its results and scratch alone."""
    text, call = call_of(kernel, args, outs, scratch)
    expected = memory.bytes.clone()
    with torch.inference_mode():
        call()
    for written in (*scratch, *outs):
        same_place(expected, written).copy_(written)
    assert torch.equal(memory.bytes, expected), f"{text} wrote bytes that are none of its results"
