"""Scaled dot-product attention, as one step of torch's kernel or of our own.

Heads of keys that a model repeats for groups of heads of queries are not repeated: both kernels share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from occ.codegen.native.attention import DTYPES, MASKS
from occ.lower.draft import Traced, dtype_name
from occ.lower.following import RESHAPES
from occ.lower.lowering import DROPPED, Lowering, Rule, meta_like_contiguous, op_name_or_none

aten = torch.ops.aten

RESULT_TARGET = 1 << 20
"""Bytes; torch's kernel returns a fresh result, so it is called for heads that make about this much."""


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(query @ key^T * scale + mask) @ value over [batch, heads, rows, size], with any batch or head
    broadcast; `mask` is broadcast over [batch, heads, rows, keys], and `scale` None is 1/sqrt(size)."""

    query: Traced
    key: Traced
    value: Traced
    mask: Traced | None
    causal: bool
    scale: float | None

    @property
    def shares_heads(self) -> bool:
        """Whether several heads of queries see the same keys and values."""
        heads = {tensor.meta.shape[1] for tensor in (self.key, self.value)}
        return len(heads) == 1 and max(heads) < self.query.meta.shape[1]

    @property
    def is_native(self) -> bool:
        """Whether the kernel in C takes it."""
        tensors = (self.query, self.key, self.value)
        return (
            all(dtype_name(t.meta.dtype) in DTYPES for t in tensors)
            and len({t.meta.dtype for t in tensors}) == 1
            and (self.mask is None or dtype_name(self.mask.meta.dtype) in MASKS)
            and self.key.meta.shape[1] == self.value.meta.shape[1]
            and all(t.meta.numel() > 0 for t in tensors)
        )


def attention(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Torch's kernel, for some heads at a time."""
    found = _attention(low, node, operands)
    if found is None:
        return low.fallback(node, operands)
    shape = _four(node.meta["val"].shape)
    grouped = bool(operands.get("enable_gqa", False)) or found.shares_heads
    group = shape[1] // found.key.meta.shape[1] if grouped else 1
    head_nbytes = shape[0] * shape[2] * shape[3] * node.meta["val"].element_size()
    at_once = max(1, RESULT_TARGET // max(head_nbytes, 1)) // group * group or group
    args = {**_operands(found), "grouped": grouped, "heads": min(at_once, shape[1])}
    return _emitted(low, node, "attention", args)


def native_attention(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """The kernel in C, which allocates nothing."""
    found = _attention(low, node, operands)
    if found is None or not found.is_native:
        return low.plainly(node, operands)
    return emit_native(low, node, found)


def emit_native(low: Lowering, node: Node, found: Attention, unseen: str = "zero") -> Any:
    """A step of the kernel in C for an attention that `is_native`; the node's result. A query that sees no
    key gets zeros, as scaled_dot_product_attention gives, or with `unseen` "nan" what a softmax gives."""
    return _emitted(low, node, "native_attention", {**_operands(found), "first": 0, "unseen": unseen})


def as_four(low: Lowering, operand: Any) -> Traced:
    """An operand with dimensions of one in front, up to four."""
    traced = low.tensor(operand)
    for _ in range(4 - traced.meta.dim()):
        traced = low.view(aten.unsqueeze.default, {"self": traced, "dim": 0})
    return traced


def _attention(low: Lowering, node: Node, operands: dict[str, Any]) -> Attention | None:
    """The operands of one node; None where it drops weights or has more dimensions."""
    operands = {**operands, **_unrepeated(low, node)}
    tensors = [low.tensor(operands[name]) for name in ("query", "key", "value")]
    if operands.get("dropout_p", 0.0) or any(t.meta.dim() > 4 for t in tensors):
        return None
    mask = operands.get("attn_mask")
    query, key, value = (as_four(low, tensor) for tensor in tensors)
    return Attention(
        query,
        key,
        value,
        None if mask is None else as_four(low, mask),
        bool(operands.get("is_causal", False)),
        operands.get("scale"),
    )


def _unrepeated(low: Lowering, node: Node) -> dict[str, Any]:
    """Key and value of a node as they were before their heads were repeated for groups of heads of the query,
    where both were: the kernels let them share."""
    sources = {
        name: _before_repetition(arg) for name, arg in zip(("key", "value"), node.args[1:], strict=False)
    }
    return {} if None in sources.values() else {name: low.results[node] for name, node in sources.items()}


def _before_repetition(repeated: Any) -> Node | None:
    """x [batch, heads, rows, size] where a node is x with each head several times, one after another: given a
    dimension behind the heads, expanded, and reshaped."""
    if not isinstance(repeated, Node) or op_name_or_none(repeated) not in RESHAPES:
        return None
    expanded: Any = repeated.args[0]
    while op_name_or_none(expanded) in DROPPED:
        expanded = expanded.args[0]
    if op_name_or_none(expanded) != "expand.default":
        return None
    widened: Any = expanded.args[0]
    if op_name_or_none(widened) != "unsqueeze.default" or widened.args[1] not in (2, -3):
        return None
    source: Node = widened.args[0]
    shape, times = tuple(source.meta["val"].shape), expanded.meta["val"].shape[2]
    if len(shape) != 4 or tuple(expanded.meta["val"].shape) != (*shape[:2], times, *shape[2:]):
        return None
    reshaped = (shape[0], shape[1] * times, *shape[2:])
    return source if tuple(repeated.meta["val"].shape) == reshaped else None


def _operands(found: Attention) -> dict[str, Any]:
    return {
        "query": found.query,
        "key": found.key,
        "value": found.value,
        "mask": found.mask,
        "causal": found.causal,
        "scale": found.scale,
    }


def _four(shape: Sequence[int]) -> tuple[int, ...]:
    return (1,) * (4 - len(shape)) + tuple(shape)


def _emitted(low: Lowering, node: Node, kernel: str, args: dict[str, Any]) -> Any:
    result = node.meta["val"]
    shape = _four(result.shape)
    _, heads, rows, size = shape
    strides = meta_like_contiguous(shape)
    if result.dim() == 4:
        # Heads side by side for each row: what the projection after attention reads.
        strides = (rows * heads * size, size, heads * size, 1)
    out = low.new(node.name, shape, result.dtype, strides)
    low.emit(node, kernel, args, out)
    for _ in range(4 - result.dim()):
        out = low.view(aten.squeeze.dim, {"self": out, "dim": 0})
    return out


RULES: dict[str, Rule] = {"scaled_dot_product_attention.default": attention}
NATIVE_RULES: dict[str, Rule] = {"scaled_dot_product_attention.default": native_attention}
