"""Normalisations, softmax and reductions as loops over rows (see `occ.codegen.loops.ir`)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.fx import Node

from occ.codegen.loops.functions import FLOATS
from occ.lower.constants import Constant
from occ.lower.convolutions import norm_affine
from occ.lower.draft import Traced, dense_strides
from occ.lower.elementwise import computed, emit_loop
from occ.lower.lowering import Lowering, op_name


def layer_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.tensor(operands["input"])
    rank = len(operands["normalized_shape"])
    if not _takes(x.meta, range(x.meta.dim() - rank, x.meta.dim())):
        return low.plainly(node, operands)
    text = f"d = x0 - mean(x0); y0 = d * rsqrt(mean(d * d) + {float(operands.get('eps', 1e-5))!r})"
    return _normalized(low, node, operands, x, text, rank)


def rms_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.tensor(operands["input"])
    rank = len(operands["normalized_shape"])
    eps = operands.get("eps")
    if eps is None and x.meta.dtype is torch.float32:
        eps = torch.finfo(torch.float32).eps
    if eps is None or not _takes(x.meta, range(x.meta.dim() - rank, x.meta.dim())):
        return low.plainly(node, operands)
    return _normalized(low, node, operands, x, f"y0 = x0 * rsqrt(mean(x0 * x0) + {float(eps)!r})", rank)


def _normalized(
    low: Lowering, node: Node, operands: dict[str, Any], x: Traced, text: str, rank: int
) -> Traced:
    """Rows of the last `rank` dimensions, normalised by `text`, then scaled and shifted by what is given."""
    result = node.meta["val"]
    out = low.new(node.name, result.shape, result.dtype, dense_strides(x.meta.shape, x.meta.stride()))
    tensors = [x]
    for name, symbol in (("weight", "*"), ("bias", "+")):
        if operands.get(name) is not None:
            text += f" {symbol} x{len(tensors)}"
            tensors.append(low.tensor(operands[name]))
    emit_loop(low, node, _unshortened(text, tensors), tensors, out, row=rank)
    return out


def _unshortened(text: str, tensors: Sequence[Traced]) -> str:
    """Operands of other types than the first are computed with in that of the first."""
    kind = computed(tensors[0].meta.dtype)
    for index, traced in enumerate(tensors[1:], 1):
        if computed(traced.meta.dtype) != kind:
            text = text.replace(f" x{index}", f" {kind}(x{index})")
    return text


def group_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A row is the channels of a group and all of space."""
    x = low.tensor(operands["input"])
    groups, shape = operands["num_groups"], x.meta.shape
    return (
        _by_group(low, node, operands, x, groups)
        if _takes(x.meta, range(1, len(shape)))
        else (low.plainly(node, operands))
    )


def instance_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A row is one channel's space."""
    x = low.tensor(operands["input"])
    if not operands.get("use_input_stats", True) or not _takes(x.meta, range(2, x.meta.dim())):
        return low.plainly(node, operands)
    return _by_group(low, node, operands, x, x.meta.shape[1])


def _by_group(low: Lowering, node: Node, operands: dict[str, Any], x: Traced, groups: int) -> Traced:
    result, shape = node.meta["val"], x.meta.shape
    out = low.new(node.name, result.shape, result.dtype, dense_strides(shape, x.meta.stride()))
    channels = shape[1] // groups
    text = f"d = x0 - mean(x0); y0 = d * rsqrt(mean(d * d) + {float(operands.get('eps', 1e-5))!r})"
    tensors = [_grouped(x, groups)]
    for name, symbol in (("weight", "*"), ("bias", "+")):
        given = operands.get(name)
        if given is not None:
            traced = low.tensor(given)
            meta = traced.meta.reshape(1, groups, channels, *(1,) * (len(shape) - 2))
            text += f" {symbol} x{len(tensors)}"
            tensors.append(Traced(traced.name, traced.buffer, meta))
    emit_loop(low, node, _unshortened(text, tensors), tensors, _grouped(out, groups), row=len(shape) - 1)
    return out


def _grouped(x: Traced, groups: int) -> Traced:
    """[n, c, ...] as [n, groups, c / groups, ...]; cutting a dimension is possible in any layout."""
    return Traced(x.name, x.buffer, x.meta.unflatten(1, (groups, x.meta.shape[1] // groups)))


def batch_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A batch norm that no convolution took up: scale and shift by constants."""
    x = low.tensor(operands["input"])
    affine = norm_affine(low, node)
    if affine is None or computed(x.meta.dtype) != "f32":
        return low.plainly(node, operands)
    shape = (1, -1, *([1] * (x.meta.dim() - 2)))
    scale, shift = (
        low.tensor(Constant(f"{node.name}_{what}", t.float().view(shape)))
        for what, t in zip(("scale", "shift"), affine, strict=True)
    )
    out = low.new(node.name, x.meta.shape, x.meta.dtype, dense_strides(x.meta.shape, x.meta.stride()))
    emit_loop(low, node, "y0 = x0 * x1 + x2", [x, scale, shift], out)
    return (out, None, None)


_SOFTMAX = {
    "softmax": "e = exp(x0 - max(x0)); y0 = e / sum(e)",
    "log_softmax": "d = x0 - max(x0); y0 = d - log(sum(exp(d)))",
    "safe_softmax": "m = max(x0); e = exp(x0 - m); y0 = where(m == -inf, 0.0, e / sum(e))",
}


def softmax(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.tensor(operands["self"])
    result = node.meta["val"]
    dim = operands["dim"]
    if not _takes(x.meta, [dim]) or computed(result.dtype) not in FLOATS:
        return low.plainly(node, operands)
    text = _SOFTMAX[op_name(node.target).split(".")[0].lstrip("_")]
    kind = computed(result.dtype)
    if computed(x.meta.dtype) != kind:
        text = text.replace("x0", f"{kind}(x0)")
    out = low.new(node.name, result.shape, result.dtype, dense_strides(x.meta.shape, x.meta.stride()))
    emit_loop(low, node, text, [_rows(x, [dim])], _rows(out, [dim]), row=1)
    return out


_REDUCED = {
    "sum": "y0 = sum({0})",
    "mean": "y0 = mean({0})",
    "amax": "y0 = max({0})",
    "amin": "y0 = min({0})",
}


def reduction(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """sum, mean, amax and amin over some dimensions."""
    text = _REDUCED[op_name(node.target).split(".")[0]]
    return _reduced(low, node, operands, "self", operands.get("dim"), text)


def variance(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """var and std, divided by the number of elements less a correction."""
    x = low.tensor(operands["self"])
    dims = operands.get("dim")
    count = prod(x.meta.shape[d] for d in dims) if dims else x.meta.numel()
    correction = operands.get("correction")
    divisor = count - (1 if correction is None else correction)
    if divisor <= 0:
        return low.plainly(node, operands)
    text = f"d = {{0}} - mean({{0}}); v = sum(d * d) / {float(divisor)!r}; y0 = "
    text += "sqrt(v)" if op_name(node.target).startswith("std") else "v"
    return _reduced(low, node, operands, "self", dims, text)


def vector_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """The norms of order 1, 2 and infinity."""
    texts = {1: "y0 = sum(abs({0}))", 2: "y0 = sqrt(sum({0} * {0}))", float("inf"): "y0 = max(abs({0}))"}
    text = texts.get(operands.get("ord", 2))
    if text is None:
        return low.plainly(node, operands)
    return _reduced(low, node, operands, "self", operands.get("dim"), text)


def _reduced(low: Lowering, node: Node, operands: dict[str, Any], name: str, dims: Any, text: str) -> Any:
    x = low.tensor(operands[name])
    result = node.meta["val"]
    rank = x.meta.dim()
    dims = sorted({d % rank for d in ([dims] if isinstance(dims, int) else dims)}) if dims and rank else []
    kind = computed(result.dtype)
    # A few long rows would leave threads without work.
    few = x.meta.numel() > FEW_ELEMENTS and result.numel() < FEW_ROWS
    if (
        not dims
        or not _takes(x.meta, dims)
        or few
        or (kind not in FLOATS and "max" not in text and "min" not in text)
    ):
        return low.plainly(node, operands)
    term = "x0" if computed(x.meta.dtype) == kind else f"{kind}(x0)"
    out = low.new(node.name, result.shape, result.dtype)
    kept = [d for d in range(rank) if d not in dims]
    # The result with its dimensions of one element, reduced ones last.
    places = [d if result.dim() == rank else index for index, d in enumerate(kept)]
    shape = [*(x.meta.shape[d] for d in kept), *(1 for _ in dims)]
    strides = [*(out.meta.stride(place) for place in places), *(1 for _ in dims)]
    rows = Traced(out.name, out.buffer, out.meta.as_strided(shape, strides))
    emit_loop(low, node, text.format(term), [_rows(x, dims)], rows, row=len(dims))
    return out


FEW_ELEMENTS = 1 << 16
FEW_ROWS = 8


def _rows(x: Traced, dims: Sequence[int]) -> Traced:
    """A tensor with the dimensions of a row last."""
    rank = x.meta.dim()
    last = [d % rank for d in dims]
    order = [d for d in range(rank) if d not in last] + last
    return Traced(x.name, x.buffer, x.meta.permute(order))


def _takes(meta: torch.Tensor, dims: Sequence[int]) -> bool:
    """Whether loops compute with a tensor's type, and its rows along `dims` have neighbours in memory."""
    if meta.numel() == 0 or not meta.dim() or not computed(meta.dtype):
        return False
    long = [d for d in dims if meta.shape[d] > 1]
    return not long or min(meta.stride(d) for d in long) <= 1
