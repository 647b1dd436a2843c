"""Constants: folding what does not depend on the inputs, and the weights the file will hold.

A constant is a real tensor. It becomes a weight only when a step reads it; tensors over the same bytes (tied
weights, a matrix and its transpose) become one weight with several views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from occ.ir import BufferKind
from occ.lower.draft import Draft, Traced, is_dense, meta_like

FOLD_LIMIT = 1 << 20
"""Bytes; a folded result may be at most this, or as large as what it was computed from."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor known at compile time, named after the parameter it comes from."""

    name: str
    tensor: torch.Tensor


def worth_folding(result_nbytes: int, operands: list[Constant]) -> bool:
    """Whether storing a result beats computing it at each run: it must not blow up what is stored."""
    stored: int = sum(_without_broadcast(c.tensor).numel() * c.tensor.element_size() for c in operands)
    return result_nbytes <= max(FOLD_LIMIT, stored)


@dataclass(slots=True)
class WeightStore:
    """The weights in use, one buffer for each distinct stretch of bytes."""

    draft: Draft
    tensors: dict[int, torch.Tensor] = field(default_factory=dict)
    _buffers: dict[tuple[int, int], Traced] = field(default_factory=dict)
    _transformed: dict[tuple[object, ...], tuple[torch.Tensor, Constant]] = field(default_factory=dict)

    def transformed(
        self, constant: Constant, key: str, transform: Callable[[torch.Tensor], torch.Tensor]
    ) -> Constant:
        """`transform` of a constant, computed once for each (bytes of the constant, key)."""
        source = constant.tensor
        identity = (source.data_ptr(), source.dtype, tuple(source.shape), tuple(source.stride()), key)
        if identity not in self._transformed:
            # The source is kept too: while it lives, no other tensor can have its address.
            self._transformed[identity] = (source, Constant(constant.name, transform(source)))
        return self._transformed[identity][1]

    def traced(self, constant: Constant) -> Traced:
        """The weight tensor that holds a constant; made on first use."""
        tensor = constant.tensor.detach()
        if tensor.is_conj() or tensor.is_neg():
            constant = self.transformed(constant, "resolved", lambda t: t.resolve_conj().resolve_neg())
            tensor = constant.tensor
        broadcast = [d for d in range(tensor.dim()) if tensor.stride(d) == 0 and tensor.shape[d] > 1]
        base = tensor
        for dim in broadcast:
            base = base.narrow(dim, 0, 1)
        if not is_dense(base):
            base = self.transformed(constant, "dense", lambda t: _without_broadcast(t).contiguous()).tensor
        stored = self._stored(constant.name, base)
        if not broadcast:
            return stored
        return Traced(constant.name, stored.buffer, stored.meta.expand(tensor.shape))

    def _stored(self, name: str, tensor: torch.Tensor) -> Traced:
        nbytes = tensor.numel() * tensor.element_size()
        key = (tensor.data_ptr(), nbytes)
        found = self._buffers.get(key) if nbytes else None
        if found is not None and found.meta.dtype == tensor.dtype:
            meta = found.meta.as_strided(tensor.shape, tensor.stride(), 0)
            return Traced(found.name, found.buffer, meta)
        traced = self.draft.new(name, BufferKind.WEIGHT, tensor.shape, tensor.stride(), tensor.dtype)
        self._buffers[key] = traced
        self.tensors[traced.buffer] = tensor
        return traced


def _without_broadcast(tensor: torch.Tensor) -> torch.Tensor:
    for dim in range(tensor.dim()):
        if tensor.stride(dim) == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def constant_meta(constant: Constant) -> torch.Tensor:
    """A meta tensor of the constant's shape, strides and type."""
    return meta_like(constant.tensor.shape, constant.tensor.stride(), constant.tensor.dtype)


def fold_batch_norm(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor,
    channel_dim: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution followed by `x * scale + shift` over its output channels, computed
    in double precision."""
    shape = [1] * weight.dim()
    shape[channel_dim] = -1
    folded = (weight.double() * scale.view(shape)).to(weight.dtype)
    base = torch.zeros_like(shift) if bias is None else bias.double()
    return folded, (base * scale + shift).to(weight.dtype)


def batch_norm_affine(
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift (double precision) that an inference batch norm applies to each channel."""
    scale = torch.rsqrt(variance.double() + eps)
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    return scale, shift
