"""Operators that need more than their table entry: another operator computes them, several fuse into one
step, or their operands want another layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.fx import Node

from occ.lower import products
from occ.lower.constants import Constant, batch_norm_affine, fold_batch_norm
from occ.lower.draft import Traced, dense_strides, same_layout
from occ.lower.lowering import (
    DROPPED,
    Lowering,
    Rule,
    meta_like_contiguous,
    op_name,
    op_name_or_none,
)

aten = torch.ops.aten

WORKSPACE_TARGET = 1 << 20
"""Bytes; kernels that return a fresh result are called in pieces of about this size."""

CONVOLVED = (torch.float32, torch.bfloat16)
"""Types that oneDNN convolves in place on every machine that it convolves them on at all; float16 needs
instructions that few processors have."""


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
    if isinstance(weight, Constant):
        rows_first = weight if transposed else _with_rows_first(low, node, weight)
        matrix = low.tensor(rows_first)
        matrix = Traced(matrix.name, matrix.buffer, matrix.meta.t())
    else:
        matrix = Traced(weight.name, weight.buffer, weight.meta.t()) if transposed else weight
    inner = matrix.meta.shape[0]
    flat = low.view(aten.view.default, {"self": x, "size": (prod(x.meta.shape[:-1]), inner)})
    if isinstance(weight, Constant) and products.takes_product(low, flat, rows_first):
        flat = low.contiguous(node, flat)
        residual, tail = _added_matrix(low, node)
        relu = _only_user(_passed_on(tail, RESHAPES), "relu.default")
        tail = relu or tail
        out = products.product(low, node, flat, rows_first, bias, relu is not None, residual)
        traced = Traced(node.name, out.buffer, out.meta.view(result.shape))
        _settle(low, node, tail, traced)
        return traced
    out = low.new(node.name, (flat.meta.shape[0], matrix.meta.shape[1]), result.dtype)
    if bias is None:
        low.emit(node, "matmul", {"input": flat, "weight": matrix}, out)
    else:
        low.emit(node, "linear", {"input": flat, "weight": matrix, "bias": bias}, out)
    return Traced(node.name, out.buffer, out.meta.view(result.shape))


def _added_matrix(low: Lowering, node: Node) -> tuple[Traced | None, Node]:
    """The tensor that is added to a product next, as a matrix, if it exists already."""
    result = node.meta["val"]
    last = _passed_on(node, RESHAPES)
    other, tail = _following_addition(low, last, last.meta["val"].shape, result.dtype, meta_like_contiguous)
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


# Convolutions


def convolution(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A convolution with the batch norm, residual addition and ReLU that follow it, in channels_last."""
    x = low.tensor(operands["input"])
    weight = operands["weight"]
    rank = x.meta.dim() - 2
    strings = any(isinstance(operands.get(k), str) for k in ("padding",))
    unbatched = x.meta.dim() == node.meta["val"].dim() and rank < 1
    if (
        not isinstance(weight, Constant)
        or weight.tensor.dtype not in CONVOLVED
        or rank not in (1, 2, 3)
        or weight.tensor.dim() != rank + 2
        or strings
        or unbatched
    ):
        return low.fallback(node, operands)
    bias = operands.get("bias")
    if bias is not None and not isinstance(bias, Constant):
        return low.fallback(node, operands)
    numbers = {
        name: _per_axis(operands.get(name, default), rank)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    groups = int(operands.get("groups", 1))
    tail = node
    if (norm := _only_user(tail, "_native_batch_norm_legit_no_training.default")) is not None:
        affine = _norm_affine(low, norm)
        if affine is not None:
            folded = fold_batch_norm(
                weight.tensor, None if bias is None else bias.tensor, *affine, channel_dim=0
            )
            weight = Constant(weight.name, folded[0])
            bias = Constant(f"{weight.name.removesuffix('weight')}bias", folded[1])
            tail = _first_result(norm)
    if rank == 1:
        # One row of a picture: oneDNN's in-place call exists for two and three dimensions.
        x = low.view(aten.unsqueeze.default, {"self": x, "dim": 2})
        numbers = {
            "stride": (1, *numbers["stride"]),
            "padding": (0, *numbers["padding"]),
            "dilation": (1, *numbers["dilation"]),
        }
        weight = Constant(weight.name, weight.tensor.unsqueeze(2))
    result_shape = list(node.meta["val"].shape)
    if rank == 1:
        result_shape.insert(2, 1)
    residual = None
    if rank > 1:
        residual, added = _following_addition(
            low, _passed_on(tail), result_shape, x.meta.dtype, _channels_last_strides
        )
        tail = tail if residual is None else added
    relu = _only_user(_passed_on(tail), "relu.default")
    tail = relu or tail
    traced = _convolve(low, node, x, weight, bias, numbers, groups, relu is not None, residual, result_shape)
    if rank == 1:
        traced = low.view(aten.squeeze.dim, {"self": traced, "dim": 2})
    _settle(low, node, tail, traced)
    return traced


def _convolve(
    low: Lowering,
    node: Node,
    x: Traced,
    weight: Constant,
    bias: Constant | None,
    numbers: dict[str, tuple[int, ...]],
    groups: int,
    relu: bool,
    residual: Traced | None,
    shape: Sequence[int],
) -> Traced:
    channels_last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = low.contiguous(node, x, _channels_last_strides(x.meta.shape))
    if low.pack and weight.tensor.dtype in (torch.float32, torch.bfloat16) and not low.is_shared(weight):
        out = low.new(node.name, shape, x.meta.dtype, _channels_last_strides(shape))
        products.convolution(low, node, x, weight, bias, numbers, groups, relu, residual, out)
        return out
    is_product = (
        set(weight.tensor.shape[2:]) == {1}
        and groups == 1
        and set(numbers["stride"]) == {1}
        and set(numbers["padding"]) == {0}
        and residual is None
    )
    if is_product:
        return _pointwise_convolution(low, node, x, weight, bias, relu, shape)
    packed = low.store.transformed(
        weight, "channels_last", lambda t: t.contiguous(memory_format=channels_last)
    )
    out = low.new(node.name, shape, x.meta.dtype, _channels_last_strides(shape))
    args = {
        "input": x,
        "weight": packed,
        "bias": bias,
        **numbers,
        "groups": groups,
        "relu": relu,
        "residual": residual,
    }
    low.emit(node, "convolution", args, out)
    return out


def _pointwise_convolution(
    low: Lowering,
    node: Node,
    x: Traced,
    weight: Constant,
    bias: Constant | None,
    relu: bool,
    shape: Sequence[int],
) -> Traced:
    """A 1x1 convolution is a product of the pixels' channels: no reordering of weights, strided results."""
    pixels = prod(shape) // shape[1]
    last = (0, *range(2, len(shape)), 1)
    flat = Traced(x.name, x.buffer, x.meta.permute(last).view(pixels, x.meta.shape[1]))
    matrix = low.tensor(Constant(weight.name, weight.tensor.flatten(1)))
    transposed = Traced(matrix.name, matrix.buffer, matrix.meta.t())
    out = low.new(node.name, (pixels, shape[1]), x.meta.dtype)
    if bias is None:
        low.emit(node, "matmul", {"input": flat, "weight": transposed}, out)
    else:
        low.emit(node, "linear", {"input": flat, "weight": transposed, "bias": bias}, out)
    if relu:
        activated = low.new(f"{node.name}_relu", (pixels, shape[1]), x.meta.dtype)
        low.emit(node, "relu", {"self": out}, activated)
        out = activated
    spatial = (shape[0], *shape[2:], shape[1])
    back = (0, len(shape) - 1, *range(1, len(shape) - 1))
    return Traced(node.name, out.buffer, out.meta.view(spatial).permute(back))


def _following_addition(
    low: Lowering,
    tail: Node,
    shape: Sequence[int],
    dtype: torch.dtype,
    layout: Callable[[Sequence[int]], tuple[int, ...]],
) -> tuple[Traced | None, Node]:
    """The tensor that the next step adds, if it exists already in the result's layout."""
    add = _only_user(tail, "add.Tensor")
    if add is None or add.kwargs.get("alpha", 1) != 1 or len(add.args) != 2:
        return None, tail
    others = [a for a in add.args if a is not tail]
    if len(others) != 1 or not isinstance(others[0], Node):
        return None, tail
    other = low.results.get(others[0])
    if (
        not isinstance(other, Traced)
        or tuple(other.meta.shape) != tuple(shape)
        or other.meta.dtype != dtype
        or not same_layout(other.meta, layout(shape))
    ):
        return None, tail
    return other, add


def _channels_last_strides(shape: Sequence[int]) -> tuple[int, ...]:
    order = (0, *range(2, len(shape)), 1)
    inner = meta_like_contiguous([shape[d] for d in order])
    strides = [0] * len(shape)
    for position, dim in enumerate(order):
        strides[dim] = inner[position]
    return tuple(strides)


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * rank if len(values) == 1 else values


def _only_user(node: Node, name: str) -> Node | None:
    """The one node that uses `node`, if it is this operator."""
    if len(node.users) != 1:
        return None
    user = next(iter(node.users))
    if user.op == "call_function" and isinstance(user.target, torch._ops.OpOverload):
        return user if op_name(user.target) == name and node in user.args else None
    return None


RESHAPES = frozenset({"view.default", "_unsafe_view.default", "reshape.default"})


def _passed_on(node: Node, through: frozenset[str] = frozenset()) -> Node:
    """The last node of a chain of single users that drop out in the lowering, or are operators `through`."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        name = op_name_or_none(user)
        if (name not in DROPPED and name not in through) or user.args[0] is not node:
            break
        node = user
    return node


def _first_result(node: Node) -> Node:
    """The getitem of result 0 (batch norm returns three)."""
    return next((u for u in node.users if u.args[1] == 0), node)


def _settle(low: Lowering, first: Node, tail: Node, traced: Traced) -> None:
    """Every node from `first` to the fused `tail` is done; only the tail is read by anyone. Those on the way
    may show the result in another shape."""
    node = first
    while node is not tail:
        following = next(iter(node.users))
        if op_name_or_none(following) == "_native_batch_norm_legit_no_training.default":
            low.results[following] = (traced, None, None)
            following = _first_result(following)
        shape = following.meta["val"].shape
        shaped = traced
        if shape != traced.meta.shape:
            shaped = Traced(traced.name, traced.buffer, traced.meta.view(shape))
        low.results[following] = shaped
        node = following


# Normalisation


def _norm_affine(low: Lowering, norm: Node) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Scale and shift of a batch norm node whose parameters are constants and whose statistics nobody
    reads."""
    if any(user.args[1] != 0 for user in norm.users):
        return None
    # Schema order; the input itself may not be lowered yet.
    _, weight, bias, mean, variance, _, eps = (
        low.results.get(arg) if isinstance(arg, Node) else arg for arg in norm.args
    )
    present = [c for c in (weight, bias, mean, variance) if c is not None]
    if mean is None or variance is None or not all(isinstance(c, Constant) for c in present):
        return None
    return batch_norm_affine(
        None if weight is None else weight.tensor,
        None if bias is None else bias.tensor,
        mean.tensor,
        variance.tensor,
        float(eps),  # type: ignore[arg-type]
    )


def batch_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A batch norm that no convolution took up: scale and shift by constants."""
    affine = _norm_affine(low, node)
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


# Attention


def attention(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    query, key, value = (low.tensor(operands[name]) for name in ("query", "key", "value"))
    result = node.meta["val"]
    if query.meta.dim() != 4 or operands.get("dropout_p", 0.0):
        return low.fallback(node, operands)
    batch, heads, rows, size = result.shape
    # Heads side by side for each row: what the projection after attention reads.
    strides = (rows * heads * size, size, heads * size, 1)
    out = low.new(node.name, result.shape, result.dtype, strides)
    grouped = bool(operands.get("enable_gqa", False))
    group = heads // key.meta.shape[1] if grouped else 1
    head_nbytes = batch * rows * size * result.element_size()
    at_once = max(1, WORKSPACE_TARGET // max(head_nbytes, 1)) // group * group or group
    args = {
        "query": query,
        "key": key,
        "value": value,
        "mask": operands.get("attn_mask"),
        "causal": bool(operands.get("is_causal", False)),
        "scale": operands.get("scale"),
        "grouped": grouped,
        "heads": min(at_once, heads),
    }
    low.emit(node, "attention", args, out)
    return out


# Lookups, pooling, resampling, shaping


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


def max_pool(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.tensor(operands["self"])
    result = node.meta["val"]
    values = result[0] if isinstance(result, (tuple, list)) else result
    if x.meta.dim() != 4 or (values is not result and any(u.args[1] != 0 for u in node.users)):
        return low.fallback(node, operands)
    kernel = _per_axis(operands["kernel_size"], 2)
    args = {
        "self": x,
        "kernel_size": kernel,
        "stride": _per_axis(operands.get("stride") or kernel, 2),
        "padding": _per_axis(operands.get("padding", 0), 2),
        "dilation": _per_axis(operands.get("dilation", 1), 2),
        "ceil_mode": bool(operands.get("ceil_mode", False)),
    }
    layout = torch.empty_strided(values.shape, dense_strides(values.shape, x.meta.stride()), device="meta")
    out = low.new(node.name, values.shape, values.dtype, layout.stride())
    low.emit(node, "max_pool", args, out)
    return out if values is result else (out, None)


def adaptive_pool(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Adaptive average pooling; to one pixel it is the mean over space."""
    x = low.tensor(operands["self"])
    result = node.meta["val"]
    rank = len(operands["output_size"])
    if x.meta.dim() != rank + 2 or rank == 1:
        return low.fallback(node, operands)
    # The operator for three dimensions writes row-major whatever the strides of its result.
    layout = None if rank == 3 else dense_strides(result.shape, x.meta.stride())
    out = low.new(node.name, result.shape, result.dtype, layout)
    if set(operands["output_size"]) == {1}:
        dims = tuple(range(2, rank + 2))
        low.emit(node, "mean", {"self": x, "dim": dims, "keepdim": True}, out)
    else:
        low.emit(node, f"adaptive_avg_pool{rank}d", operands, out)
    return out


def upsample(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """The `.vec` overloads by the ones that write where they are told to: sizes and scales spelled out."""
    name = op_name(node.target).split(".")[0]
    x = low.tensor(operands["input"])
    result = node.meta["val"]
    rank = x.meta.dim() - 2
    factors = operands.get("scale_factors") or (None,) * rank
    args: dict[str, Any] = {"self": x, "output_size": tuple(result.shape[2:])}
    if "nearest" not in name:
        args["align_corners"] = bool(operands["align_corners"])
    for axis, factor in enumerate(factors):
        args[f"scale_{axis}"] = factor
    out = low.new(node.name, result.shape, result.dtype, dense_strides(result.shape, x.meta.stride()))
    low.emit(node, name, args, out)
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


def pad(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    amounts = tuple(operands["pad"])
    if operands.get("mode", "constant") != "constant" or any(a < 0 for a in amounts):
        return low.fallback(node, operands)
    x = low.tensor(operands["self"])
    result = node.meta["val"]
    out = low.new(node.name, result.shape, result.dtype, dense_strides(result.shape, x.meta.stride()))
    value = operands.get("value")
    args = {"self": x, "pad": amounts, "value": 0 if value is None else value}
    low.emit(node, "constant_pad", args, out)
    return out


def roll(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    if not operands.get("dims"):
        return low.fallback(node, operands)
    x = low.tensor(operands["self"])
    out = low.new(node.name, x.meta.shape, x.meta.dtype, dense_strides(x.meta.shape, x.meta.stride()))
    low.emit(node, "roll", {k: operands[k] for k in ("self", "shifts", "dims")}, out)
    return out


def slice_scatter(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.tensor(operands["self"])
    args = {
        "self": x,
        "src": operands["src"],
        "dim": operands.get("dim", 0),
        "start": operands.get("start"),
        "end": operands.get("end"),
        "step": operands.get("step", 1),
    }
    out = low.new(node.name, x.meta.shape, x.meta.dtype, dense_strides(x.meta.shape, x.meta.stride()))
    low.emit(node, "slice_scatter", args, out)
    return out


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
    "_native_batch_norm_legit_no_training.default": batch_norm,
    "layer_norm.default": layer_norm,
    "group_norm.default": group_norm,
    "softmax.int": softmax,
    "log_softmax.int": softmax,
    "scaled_dot_product_attention.default": attention,
    "embedding.default": embedding,
    "max_pool2d.default": max_pool,
    "max_pool2d_with_indices.default": max_pool,
    "adaptive_avg_pool2d.default": adaptive_pool,
    "adaptive_avg_pool3d.default": adaptive_pool,
    "_adaptive_avg_pool2d.default": adaptive_pool,
    "upsample_nearest1d.vec": upsample,
    "upsample_nearest2d.vec": upsample,
    "upsample_nearest3d.vec": upsample,
    "upsample_linear1d.vec": upsample,
    "upsample_bilinear2d.vec": upsample,
    "upsample_bicubic2d.vec": upsample,
    "upsample_trilinear3d.vec": upsample,
    "cat.default": concatenate,
    "pad.default": pad,
    "constant_pad_nd.default": pad,
    "roll.default": roll,
    "slice_scatter.default": slice_scatter,
    "_to_copy.default": cast,
    "type_as.default": cast,
    "copy.default": copy,
    "as_strided.default": as_strided,
    **dict.fromkeys(_FILLED, filled),
}
