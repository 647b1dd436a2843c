"""Numbers to measure kernels with, and memory that no cache holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from occ.runtime_stub.arena import Arena
from occ.runtime_stub.packed import packed
from occ.runtime_stub.tensors import dtype_named, view_of
from occ.units import ALIGNMENT, PAGE, round_up

CACHES_NBYTES = 64 << 20
"""Bytes that must pass before a weight counts as gone from the caches."""


def in_huge_pages(nbytes: int) -> Tensor:
    """Memory (uint8) such as programs have."""
    return Arena(round_up(nbytes, PAGE)).view(0, torch.uint8, (nbytes,))


def tensor_at(
    memory: Tensor,
    begin: int,
    dtype: str,
    shape: Sequence[int],
    strides: Sequence[int],
    packing: Sequence[Any] | None,
) -> Tensor:
    """A value of a request as steps get it: a view of `memory` (uint8) from byte `begin`, or the packed
    tensor over those bytes that `packing` (type, shape, layout) describes."""
    view = view_of(memory, dtype_named(dtype), shape, strides, begin)
    if packing is None:
        return view
    packed_dtype, packed_shape, layout = packing
    return packed(view, dtype_named(packed_dtype), packed_shape, layout)


class Pool:
    """Random numbers of each type, made once: filling operands afresh would take longer than the kernels."""

    def __init__(self) -> None:
        self._numbers: dict[torch.dtype, Tensor] = {}
        self._cold: dict[torch.dtype, Tensor] = {}

    def fill(self, memory: Tensor, dtype: torch.dtype) -> None:
        """Fill `memory` (uint8) with random normals of a floating type, with zeros of another."""
        if not (dtype.is_floating_point or dtype.is_complex):
            memory.zero_()
            return
        if dtype not in self._numbers:
            normals = torch.randn(1 << 18, generator=torch.Generator().manual_seed(0))
            self._numbers[dtype] = normals.to(dtype).view(torch.uint8)
        numbers = self._numbers[dtype]
        for first in range(0, memory.numel(), numbers.numel()):
            part = memory[first : first + numbers.numel()]
            part.copy_(numbers[: part.numel()])

    def copies(self, nbytes: int, dtype: torch.dtype, count: int) -> list[Tensor]:
        """`count` stretches of filled memory (uint8), the same ones for every case: nobody writes there."""
        stride = round_up(nbytes, ALIGNMENT)
        cold = self._cold.get(dtype)
        if cold is None or cold.numel() < stride * count:
            cold = self._cold[dtype] = in_huge_pages(stride * count)
            self.fill(cold, dtype)
        return [cold[stride * index :][:nbytes] for index in range(count)]
