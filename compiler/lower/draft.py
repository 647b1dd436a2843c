"""The Program under construction: buffers and steps that still change, tensors as meta tensors.

A `Traced` is a view of a buffer whose shape, strides and offset a meta tensor carries, so that view operators
need no arithmetic of our own: torch computes them without any memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from occ.codegen.kernels import Spec
from occ.errors import UsageError
from occ.ir import DTYPE_NBYTES, BufferKind, Packing


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for torch.float32. Raises UsageError for a type that programs cannot hold."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPE_NBYTES:
        raise UsageError(f"tensors of type {name} are not supported; supported are {', '.join(DTYPE_NBYTES)}")
    return name


def spanned_nbytes(tensor: torch.Tensor) -> int:
    """Bytes from the first to the last element of a strided tensor, both included."""
    if tensor.numel() == 0:
        return 0
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int((reach + 1) * tensor.element_size())


def dense_strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Strides without gaps that keep the order of dimensions of `strides`."""
    order = sorted(range(len(shape)), key=lambda d: (strides[d], -d))
    dense = [0] * len(shape)
    step = 1
    for dim in order:
        dense[dim] = step
        step *= max(shape[dim], 1)
    return tuple(dense)


def same_layout(tensor: torch.Tensor, strides: Sequence[int]) -> bool:
    """Whether a tensor has these strides, dimensions of one element aside."""
    return all(
        size == 1 or have == want
        for size, have, want in zip(tensor.shape, tensor.stride(), strides, strict=True)
    )


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor's elements fill the bytes it spans, each once."""
    return same_layout(tensor, dense_strides(tensor.shape, tensor.stride()))


def meta_like(shape: Any, strides: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(tuple(shape), tuple(strides), dtype=dtype, device="meta")


@dataclass(slots=True)
class BufferDraft:
    """A buffer. With `part_of`, its bytes lie at `offset` of that other buffer."""

    name: str
    kind: BufferKind
    nbytes: int
    part_of: int | None = None
    offset: int = 0


@dataclass(frozen=True, eq=False)
class Traced:
    """A tensor of the program: a view (by `meta`, whose storage is the buffer) of buffer `buffer`."""

    name: str
    buffer: int
    meta: torch.Tensor
    packing: Packing | None = None

    def viewed_as(self, meta: torch.Tensor) -> Traced:
        """Another view of the same bytes."""
        return Traced(self.name, self.buffer, meta)

    @property
    def nbytes(self) -> int:
        return int(self.meta.numel() * self.meta.element_size())

    @property
    def offset(self) -> int:
        return int(self.meta.storage_offset() * self.meta.element_size())

    @property
    def spec(self) -> Spec:
        packed = () if self.packing is None else self.packing.shape
        return Spec(dtype_name(self.meta.dtype), tuple(self.meta.shape), tuple(self.meta.stride()), packed)

    def is_whole(self, buffer: BufferDraft) -> bool:
        """Whether the tensor covers every byte of its buffer exactly once."""
        return self.offset == 0 and self.nbytes == buffer.nbytes == spanned_nbytes(self.meta)


@dataclass(frozen=True, eq=False)
class PackedTable:
    """A table in the layout of a product: rows `starts[i]` to `starts[i + 1]` are in piece i, a number of
    blocks as [blocks, columns, rows of a block], the last of which may be filled up."""

    starts: tuple[int, ...]
    pieces: tuple[Traced, ...]


@dataclass(slots=True)
class StepDraft:
    name: str
    module: str
    kernel: str
    args: dict[str, Any]
    outs: list[Traced]
    scratch: list[Traced] = field(default_factory=list)
    stored: list[Traced] = field(default_factory=list)

    def operands(self) -> Iterator[Traced]:
        for arg in self.args.values():
            yield from tensors_in(arg)


def tensors_in(arg: Any) -> Iterator[Traced]:
    if isinstance(arg, Traced):
        yield arg
    elif isinstance(arg, (tuple, list)):
        for item in arg:
            yield from tensors_in(item)


def map_tensors(arg: Any, function: Callable[[Traced], Any]) -> Any:
    """Rebuild an operand with `function` applied to each tensor in it."""
    if isinstance(arg, Traced):
        return function(arg)
    if isinstance(arg, (tuple, list)):
        return tuple(map_tensors(item, function) for item in arg)
    return arg


@dataclass(slots=True)
class Draft:
    """Everything the lowering has decided so far, in order."""

    buffers: list[BufferDraft] = field(default_factory=list)
    steps: list[StepDraft] = field(default_factory=list)

    def new(self, name: str, kind: BufferKind, shape: Any, strides: Any, dtype: torch.dtype) -> Traced:
        """A tensor in a buffer of its own; strides must be dense (a permutation of contiguous ones)."""
        dtype_name(dtype)
        meta = meta_like(shape, strides, dtype)
        self.buffers.append(BufferDraft(name, kind, spanned_nbytes(meta)))
        return Traced(name, len(self.buffers) - 1, meta)

    def root(self, buffer: int) -> tuple[int, int]:
        """The buffer that holds the bytes of `buffer`, and where in it they begin."""
        offset = 0
        while (parent := self.buffers[buffer].part_of) is not None:
            offset += self.buffers[buffer].offset
            buffer = parent
        return buffer, offset
