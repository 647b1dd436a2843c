"""Operators that need more than their table entry: another operator computes them, several fuse into one
step, or their operands want another layout."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.fx import Node

from occ.lower import (
    attention,
    experts,
    moving,
    pooling,
    products,
    recurrent,
    resampling,
    respelled,
    transposed,
)
from occ.lower.constants import Constant
from occ.lower.convolutions import convolution, norm_affine
from occ.lower.draft import Traced, dense_strides
from occ.lower.following import RESHAPES, following_addition, only_user, passed_on, settle
from occ.lower.lowering import (
    Lowering,
    Rule,
    meta_like_contiguous,
    op_name,
)

aten = torch.ops.aten

WORKSPACE_TARGET = 1 << 20
"""Bytes; kernels that return a fresh result are called in pieces of about this size."""


# Matrix products


def linear(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """x [.., k] times weight [n, k] transposed, plus bias [n]."""
    return _product(low, node, operands["input"], operands["weight"], operands.get("bias"), transposed=True)


def addmm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """bias + mat1 @ mat2; with a constant mat2 and a bias for each column it is a linear layer."""
    bias, mat2 = operands["self"], operands["mat2"]
    scaled = operands.get("beta", 1) != 1 or operands.get("alpha", 1) != 1
    if scaled or not isinstance(mat2, Constant) or not _is_row(bias):
        return _addmm_as_it_stands(low, node, operands)
    return _product(low, node, operands["mat1"], mat2, bias, transposed=False)


def _addmm_as_it_stands(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    result = node.meta["val"]
    out = low.new(node.name, result.shape, result.dtype)
    low.emit(node, "addmm", operands, out)
    return out


def mm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    if isinstance(operands["mat2"], Constant):
        return _product(low, node, operands["self"], operands["mat2"], None, transposed=False)
    result = node.meta["val"]
    out = low.new(node.name, result.shape, result.dtype)
    low.emit(node, "mm", operands, out)
    return out


def matmul(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Products of any rank, as linear layers, matrix products or batches of them."""
    left, right = low.tensor(operands["self"]), operands["other"]
    result = node.meta["val"]
    if isinstance(right, Constant) and right.tensor.dim() == 2 and left.meta.dim() >= 2:
        return _product(low, node, left, right, None, transposed=False)
    right = low.tensor(right)
    if left.meta.dim() < 2 or right.meta.dim() < 2:
        return low.fallback(node, {"self": left, "other": right})
    batch = result.shape[:-2]
    rows, columns, inner = result.shape[-2], result.shape[-1], left.meta.shape[-1]
    count = prod(batch)
    lhs = _batched(low, left, batch, (count, rows, inner))
    rhs = _batched(low, right, batch, (count, inner, columns))
    out = low.new(node.name, (count, rows, columns), result.dtype)
    low.emit(node, "bmm", {"self": lhs, "mat2": rhs}, out)
    return Traced(node.name, out.buffer, out.meta.view(result.shape))


def _batched(low: Lowering, operand: Traced, batch: Sequence[int], shape: Sequence[int]) -> Traced:
    expanded = low.view(aten.expand.default, {"self": operand, "size": (*batch, *operand.meta.shape[-2:])})
    traced: Traced = low.view(aten.view.default, {"self": expanded, "size": tuple(shape)})
    return traced


def _is_row(operand: Any) -> bool:
    meta = operand.tensor if isinstance(operand, Constant) else operand.meta
    return bool(meta.dim() == 1)


def _product(low: Lowering, node: Node, x: Any, weight: Any, bias: Any, *, transposed: bool) -> Any:
    """x [.., k] @ W (+ bias) as one 2-d product; a constant W is kept as [n, k] rows, so that it can be
    loaded and computed in parts."""
    x = low.tensor(x)
    result = node.meta["val"]
    if isinstance(weight, Constant) and not transposed:
        weight, transposed = _with_rows_first(low, node, weight), True
    size = (prod(x.meta.shape[:-1]), x.meta.shape[-1])
    flat = low.view(aten.view.default, {"self": x, "size": size})
    if isinstance(weight, Constant) and products.takes_product(low, flat, weight):
        flat = low.contiguous(node, flat)
        residual, tail = _added_matrix(low, node)
        relu = only_user(passed_on(tail, RESHAPES), "relu.default")
        tail = relu or tail
        out = products.product(low, node, flat, weight, bias, relu is not None, residual)
        traced = Traced(node.name, out.buffer, out.meta.view(result.shape))
        settle(low, node, tail, traced)
        return traced
    matrix = low.tensor(weight)
    if transposed:
        matrix = Traced(matrix.name, matrix.buffer, matrix.meta.t())
    out = low.new(node.name, (flat.meta.shape[0], matrix.meta.shape[1]), result.dtype)
    if bias is None:
        low.emit(node, "matmul", {"input": flat, "weight": matrix}, out)
    else:
        low.emit(node, "linear", {"input": flat, "weight": matrix, "bias": bias}, out)
    return Traced(node.name, out.buffer, out.meta.view(result.shape))


def _added_matrix(low: Lowering, node: Node) -> tuple[Traced | None, Node]:
    """The tensor that is added to a product next, as a matrix, if it exists already."""
    result = node.meta["val"]
    last = passed_on(node, RESHAPES)
    other, tail = following_addition(low, last, last.meta["val"].shape, result.dtype, meta_like_contiguous)
    if other is None:
        return None, node
    columns = result.shape[-1]
    flat = Traced(other.name, other.buffer, other.meta.view(other.meta.numel() // columns, columns))
    return flat, tail


def _with_rows_first(low: Lowering, node: Node, weight: Constant) -> Constant:
    """W [k, n] as [n, k]. Rewritten only where this node alone reads it: a second copy would cost more."""
    source = next((a for a in node.args if isinstance(a, Node) and low.results.get(a) is weight), None)
    turned = weight.tensor.t()
    if turned.is_contiguous() or (source is not None and len(source.users) > 1):
        return Constant(weight.name, turned)
    return low.store.transformed(weight, "rows first", lambda t: t.t().contiguous())


# Normalisation


def batch_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A batch norm that no convolution took up: scale and shift by constants."""
    affine = norm_affine(low, node)
    x = low.tensor(operands["input"])
    if affine is None:
        return low.fallback(node, operands)
    shape = (1, -1, *([1] * (x.meta.dim() - 2)))
    scale, shift = (
        Constant(f"{node.name}_{what}", t.to(x.meta.dtype).view(shape))
        for what, t in zip(("scale", "shift"), affine, strict=True)
    )
    out = low.new(node.name, x.meta.shape, x.meta.dtype, dense_strides(x.meta.shape, x.meta.stride()))
    low.emit(node, "affine", {"x": x, "scale": scale, "shift": shift}, out)
    return (out, None, None)


def layer_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.contiguous(node, low.tensor(operands["input"]))
    size = prod(operands["normalized_shape"])
    rows = max(1, WORKSPACE_TARGET // (size * x.meta.element_size()))
    out = low.new(node.name, x.meta.shape, node.meta["val"].dtype)
    args = {
        "input": x,
        "normalized_shape": tuple(operands["normalized_shape"]),
        "weight": operands.get("weight"),
        "bias": operands.get("bias"),
        "eps": operands.get("eps", 1e-5),
        "rows": rows,
    }
    low.emit(node, "layer_norm", args, out)
    return out


def group_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.tensor(operands["input"])
    out = low.new(node.name, x.meta.shape, x.meta.dtype, dense_strides(x.meta.shape, x.meta.stride()))
    args = {
        "input": x,
        "num_groups": operands["num_groups"],
        "weight": operands.get("weight"),
        "bias": operands.get("bias"),
        "eps": operands.get("eps", 1e-5),
    }
    low.emit(node, "group_norm", args, out)
    return out


def softmax(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.tensor(operands["self"])
    result = node.meta["val"]
    if result.dtype != x.meta.dtype:
        cast = low.new(f"{node.name}_cast", x.meta.shape, result.dtype)
        low.emit(node, "copy", {"source": x}, cast)
        x = cast
    x = low.contiguous(node, x)
    out = low.new(node.name, result.shape, result.dtype)
    kernel = "log_softmax" if op_name(node.target).startswith("log") else "softmax"
    low.emit(node, kernel, {"self": x, "dim": operands["dim"]}, out)
    return out


# Lookups, resampling, shaping


def embedding(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Rows of a table; the rewrite may turn it into a gather that leaves the table in the file."""
    result = node.meta["val"]
    weight = operands["weight"]
    if isinstance(weight, Constant):
        weight = low.contiguous(node, weight)
    indices = low.contiguous(node, low.tensor(operands["indices"]))
    out = low.new(node.name, result.shape, result.dtype)
    low.emit(node, "embedding", {"weight": weight, "indices": indices}, out)
    return out


def concatenate(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    result = node.meta["val"]
    parts = [low.tensor(part) for part in operands["tensors"]]
    # An empty vector joins with tensors of any rank.
    parts = [p for p in parts if tuple(p.meta.shape) != (0,) or result.dim() == 1]
    dim = operands.get("dim", 0) % result.dim()
    if all(part.meta.dtype == result.dtype for part in parts):
        strides = dense_strides(result.shape, parts[0].meta.stride())
    else:
        strides = meta_like_contiguous(result.shape)
    out = low.new(node.name, result.shape, result.dtype, strides)
    plain = all(p.meta.dtype == result.dtype and same_order(p.meta, strides) for p in parts)
    low.emit(node, "cat" if plain else "concatenate", {"tensors": tuple(parts), "dim": dim}, out)
    return out


def same_order(meta: torch.Tensor, strides: Sequence[int]) -> bool:
    """Whether a tensor is dense with its dimensions in the order of `strides`."""
    return tuple(meta.stride()) == dense_strides(meta.shape, strides)


def cast(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A change of type is a copy; a change of nothing is dropped."""
    x = low.tensor(next(iter(operands.values())))
    result = node.meta["val"]
    if result.dtype == x.meta.dtype:
        return x
    out = low.new(node.name, result.shape, result.dtype, dense_strides(x.meta.shape, x.meta.stride()))
    low.emit(node, "copy", {"source": x}, out)
    return out


def copy(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """What `self` holds after `self.copy_(src)`: `src` in the type and shape of `self`."""
    source = low.tensor(operands["src"])
    result = node.meta["val"]
    if source.meta.dtype == result.dtype and source.meta.shape == result.shape:
        return source
    out = low.new(node.name, result.shape, result.dtype)
    low.emit(node, "copy", {"source": source}, out)
    return out


def filled(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """full, zeros, ones and their like-variants, too large to be stored."""
    result = node.meta["val"]
    name = op_name(node.target).split(".")[0]
    if "full" in name or name == "fill":
        value = operands["fill_value"] if "fill_value" in operands else operands["value"]
    else:
        value = 1 if "ones" in name else 0
    if isinstance(value, (Constant, Traced)):
        return low.fallback(node, operands)
    out = low.new(node.name, result.shape, result.dtype)
    low.emit(node, "fill", {"value": value}, out)
    return out


def as_strided(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Its strides mean the exported layout, so that layout is restored first."""
    source = node.args[0]
    assert isinstance(source, Node)
    base = low.contiguous(
        node,
        low.tensor(operands["self"]),
        dense_strides(source.meta["val"].shape, source.meta["val"].stride()),
    )
    return low.view(node.target, {**operands, "self": base})


_FILLED = (
    "full.default",
    "full_like.default",
    "zeros.default",
    "zeros_like.default",
    "ones.default",
    "ones_like.default",
    "new_zeros.default",
    "new_ones.default",
    "new_full.default",
    "fill.Scalar",
    "zero.default",
    "empty.memory_format",
    "empty_like.default",
    "new_empty.default",
)

RULES: dict[str, Rule] = {
    "linear.default": linear,
    "addmm.default": addmm,
    "mm.default": mm,
    "matmul.default": matmul,
    "conv1d.default": convolution,
    "conv2d.default": convolution,
    "conv3d.default": convolution,
    "conv1d.padding": convolution,
    "conv2d.padding": convolution,
    "conv3d.padding": convolution,
    "_native_batch_norm_legit_no_training.default": batch_norm,
    "layer_norm.default": layer_norm,
    "group_norm.default": group_norm,
    "softmax.int": softmax,
    "log_softmax.int": softmax,
    "embedding.default": embedding,
    "cat.default": concatenate,
    "_to_copy.default": cast,
    "type_as.default": cast,
    "copy.default": copy,
    "as_strided.default": as_strided,
    **dict.fromkeys(_FILLED, filled),
    **attention.RULES,
    **pooling.RULES,
    **moving.RULES,
    **resampling.RULES,
    **respelled.RULES,
    **experts.RULES,
    **recurrent.RULES,
    **transposed.RULES,
}
