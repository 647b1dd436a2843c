"""Operators that only move elements: padding, shuffles, repetition. Results keep the operand's layout."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.fx import Node

from occ.lower.constants import Constant
from occ.lower.draft import Traced, dense_strides
from occ.lower.lowering import Lowering, Rule

aten = torch.ops.aten


def pad(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Padding in every mode; negative amounts cut the operand first."""
    amounts = tuple(operands["pad"])
    mode = operands.get("mode", "constant")
    x = low.tensor(operands["self"])
    for axis, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        dim = x.meta.dim() - 1 - axis
        if before < 0 or after < 0:
            kept = x.meta.shape[dim] + min(before, 0) + min(after, 0)
            x = x.viewed_as(x.meta.narrow(dim, max(-before, 0), kept))
    amounts = tuple(max(amount, 0) for amount in amounts)
    if not any(amounts):
        return x
    result = node.meta["val"]
    out = low.new(node.name, result.shape, result.dtype, dense_strides(result.shape, x.meta.stride()))
    if mode == "constant":
        value = operands.get("value")
        args = {"self": x, "pad": amounts, "value": 0 if value is None else value}
        low.emit(node, "constant_pad", args, out)
    else:
        low.emit(node, "edge_pad", {"self": x, "pad": amounts, "mode": mode}, out)
    return out


def roll(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.tensor(operands["self"])
    shifts, dims = tuple(operands["shifts"]), tuple(operands.get("dims") or ())
    shape = x.meta.shape
    if not dims:
        x, dims = low.view(aten.view.default, {"self": x, "size": (-1,)}), (0,)
    out = low.new(node.name, x.meta.shape, x.meta.dtype, dense_strides(x.meta.shape, x.meta.stride()))
    low.emit(node, "roll", {"self": x, "shifts": shifts, "dims": dims}, out)
    return out.viewed_as(out.meta.view(shape))


def pixel_shuffle(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """[.., c * r * r, h, w] to [.., c, h * r, w * r]: one copy between views."""
    x = low.tensor(operands["self"])
    factor = operands["upscale_factor"]
    shape = node.meta["val"].shape
    rank = len(shape)
    out = low.new(node.name, shape, x.meta.dtype, dense_strides(shape, x.meta.stride()))
    channels, (height, width) = shape[rank - 3], x.meta.shape[-2:]
    source = x.meta.unflatten(rank - 3, (channels, factor, factor))
    target = out.meta.unflatten(rank - 1, (width, factor)).unflatten(rank - 2, (height, factor))
    # Both as [.., channel, row in block, column in block, row, column].
    target = target.movedim((rank - 1, rank + 1), (rank - 2, rank - 1))
    low.emit(node, "copy", {"source": x.viewed_as(source)}, out.viewed_as(target))
    return out


def pixel_unshuffle(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """[.., c, h * r, w * r] to [.., c * r * r, h, w]: one copy between views."""
    x = low.tensor(operands["self"])
    factor = operands["downscale_factor"]
    shape = node.meta["val"].shape
    rank = len(shape)
    out = low.new(node.name, shape, x.meta.dtype, dense_strides(shape, x.meta.stride()))
    channels, (height, width) = x.meta.shape[-3], shape[-2:]
    source = x.meta.unflatten(rank - 1, (width, factor)).unflatten(rank - 2, (height, factor))
    source = source.movedim((rank - 1, rank + 1), (rank - 2, rank - 1))
    target = out.meta.unflatten(rank - 3, (channels, factor, factor))
    low.emit(node, "copy", {"source": x.viewed_as(source)}, out.viewed_as(target))
    return out


def channel_shuffle(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Channels of g groups, one of each in turn: one copy between views."""
    x = low.tensor(operands["self"])
    groups = operands["groups"]
    shape = x.meta.shape
    out = low.new(node.name, shape, x.meta.dtype, dense_strides(shape, x.meta.stride()))
    source = x.meta.unflatten(1, (groups, shape[1] // groups))
    target = out.meta.unflatten(1, (shape[1] // groups, groups)).transpose(1, 2)
    low.emit(node, "copy", {"source": x.viewed_as(source)}, out.viewed_as(target))
    return out


def repeat_interleave(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Each slice of a dimension several times in a row: one copy from a broadcast view."""
    x, times, dim = low.tensor(operands["self"]), operands["repeats"], operands.get("dim")
    if dim is None:
        x, dim = low.view(aten.view.default, {"self": x, "size": (prod(x.meta.shape),)}), 0
    dim %= max(x.meta.dim(), 1)
    shape = node.meta["val"].shape
    out = low.new(node.name, shape, x.meta.dtype, dense_strides(shape, x.meta.stride()))
    target = out.meta.unflatten(dim, (shape[dim] // times, times)) if times else out.meta.unsqueeze(dim + 1)
    source = x.meta.unsqueeze(dim + 1).expand(target.shape)
    low.emit(node, "copy", {"source": x.viewed_as(source)}, out.viewed_as(target))
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


def where_with_numbers(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """`where` whose alternatives are numbers: they become tensors of no dimensions."""
    result = node.meta["val"]
    args = {
        name: operand if isinstance(operand, (Constant, Traced)) else low.number(operand, result.dtype)
        for name, operand in operands.items()
    }
    like = args["condition"]
    strides = like.meta.stride() if isinstance(like, Traced) else like.tensor.stride()
    strides = dense_strides(result.shape, strides) if len(strides) == result.dim() else None
    out = low.new(node.name, result.shape, result.dtype, strides)
    low.emit(node, "where", args, out)
    return out


RULES: dict[str, Rule] = {
    "pad.default": pad,
    "constant_pad_nd.default": pad,
    "roll.default": roll,
    "pixel_shuffle.default": pixel_shuffle,
    "pixel_unshuffle.default": pixel_unshuffle,
    "channel_shuffle.default": channel_shuffle,
    "native_channel_shuffle.default": channel_shuffle,
    "repeat_interleave.self_int": repeat_interleave,
    "slice_scatter.default": slice_scatter,
    "where.Scalar": where_with_numbers,
    "where.ScalarSelf": where_with_numbers,
    "where.ScalarOther": where_with_numbers,
}
