"""Tensors over bytes that exist already, and the check of tensors that callers hand in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import InputError


def dtype_named(name: str) -> torch.dtype:
    """The torch type called `name`, such as `bfloat16`. Raises InputError where there is none."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"torch {torch.__version__} has no type {name!r}")
    return dtype


def view_of(
    base: Tensor, dtype: torch.dtype, shape: Sequence[int], strides: Sequence[int], offset: int
) -> Tensor:
    """A tensor over the bytes of `base`, beginning `offset` bytes after its first element.

    `strides` are in elements of `dtype`. The result shares the storage and is outside of autograd.
    """
    start = base.storage_offset() * base.element_size() + offset
    if start % dtype.itemsize:
        raise InputError(f"byte {start} of a tensor's storage cannot hold {dtype}: it is not aligned to it")
    empty = torch.empty(0, dtype=dtype, device=base.device)
    return empty.set_(base.untyped_storage(), start // dtype.itemsize, tuple(shape), tuple(strides))


def same_layout(tensor: Tensor, strides: Sequence[int]) -> bool:
    """Whether the tensor's elements lie where `strides` say; a dimension of size 1 may have any stride."""
    if tensor.numel() == 0:
        return True
    return all(
        size == 1 or stride == planned
        for size, stride, planned in zip(tensor.shape, tensor.stride(), strides, strict=True)
    )


def check_tensor(role: str, spec: dict[str, Any], tensor: object, places: Sequence[torch.device]) -> Tensor:
    """`tensor` where its type, dtype and shape are those of `spec` and its device is one of `places`, else
    InputError.

    `role` is "input" or "output"; `spec` has "name", "dtype", "shape" and "strides".
    """
    name = f"{role} {spec['name']!r}"
    wanted = f"a {spec['dtype']} tensor of shape {tuple(spec['shape'])}"
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name} must be {wanted}, not {type(tensor).__name__}")
    if tensor.layout is not torch.strided or tensor.device not in places:
        raise InputError(
            f"{name} must be {wanted} on {' or '.join(map(str, places))}, not one on {tensor.device}"
            f" with layout {tensor.layout}"
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype != spec["dtype"] or tuple(tensor.shape) != tuple(spec["shape"]):
        raise InputError(f"{name} must be {wanted}, not a {dtype} tensor of shape {tuple(tensor.shape)}")
    return tensor


def planned_layout(tensor: Tensor, strides: Sequence[int], place: torch.device) -> Tensor:
    """The tensor itself where it is in `place` and its elements lie as planned, else a copy of which that is
    so (memory of the caller, outside the budget)."""
    plain = tensor.detach()
    if plain.is_conj():
        plain = plain.resolve_conj()
    if plain.is_neg():
        plain = plain.resolve_neg()
    if plain.device == place and same_layout(plain, strides):
        return plain
    copy = torch.empty_strided(plain.shape, tuple(strides), dtype=plain.dtype, device=place)
    return copy.copy_(plain)
