"""Transposed convolutions, as ordinary ones.

With stride s along an axis, the results at r, r + s, r + 2s, .. are an ordinary convolution with stride 1 of
the input with every (s / gcd(s, dilation))-th tap of the kernel, turned around: s phases that share no taps
(sub-pixel convolution: Shi et al., 2016). So nothing is stuffed with zeros, no product is wasted, and scratch
is one phase of the result, which is copied to where it belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from occ.lower.constants import Constant, fold_batch_norm
from occ.lower.convolutions import CONVOLVED, channels_last_strides, convolve, norm_affine, per_axis
from occ.lower.draft import Traced
from occ.lower.following import first_result, only_user, passed_on, settle
from occ.lower.lowering import Lowering, Rule
from occ.lower.products import piece_rows

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Phase:
    """Every stride-th result along one axis: results first, first + stride, .. (`count` of them).

    They are results [skipped, skipped + count) of the `length` of a convolution with stride 1, `padding` on
    both sides, and the kernel's `taps` in that order, `dilation` apart. Without taps they are the bias.
    """

    first: int
    count: int
    taps: tuple[int, ...]
    dilation: int
    padding: int
    skipped: int
    length: int


def axis_phases(
    inputs: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[Phase, ...]:
    """The phases of a transposed convolution along one axis, at most `stride`.

    Result o is the sum over taps k of weight[k] * input[(o + padding - k * dilation) / stride], where that
    is a whole number.
    """
    found = []
    for first in range(min(stride, outputs)):
        count = -(-(outputs - first) // stride)
        reached = sorted(
            ((first + padding - tap * dilation) // stride, tap)
            for tap in range(kernel)
            if (first + padding - tap * dilation) % stride == 0
        )
        if not reached:
            found.append(Phase(first, count, (), 1, 0, 0, count))
            continue
        nearest, farthest = reached[0][0], reached[-1][0]
        apart = reached[1][0] - nearest if len(reached) > 1 else 1
        left, right = -nearest, count - 1 + farthest - (inputs - 1)
        around = max(left, right, 0)
        length = inputs + 2 * around - (farthest - nearest)
        taps = tuple(tap for _, tap in reached)
        found.append(Phase(first, count, taps, apart, around, around - left, length))
    return tuple(found)


def transposed_convolution(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A transposed convolution with the batch norm and ReLU that follow it, in channels_last."""
    x = low.tensor(operands["input"])
    weight, bias = operands["weight"], operands.get("bias")
    rank = x.meta.dim() - 2
    if (
        not isinstance(weight, Constant)
        or not (bias is None or isinstance(bias, Constant))
        or weight.tensor.dtype not in CONVOLVED[low.device]
        or weight.tensor.dim() != rank + 2
    ):
        return low.fallback(node, operands)
    groups = int(operands.get("groups", 1))
    numbers = [
        per_axis(operands.get(name, default), rank)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    ]
    ordinary = low.store.transformed(weight, f"ordinary {groups}", lambda t: _as_ordinary(t, groups))
    ordinary, bias, tail = _with_norm(low, node, ordinary, bias)
    relu = only_user(passed_on(tail), "relu.default")
    tail = relu or tail
    result_shape = list(node.meta["val"].shape)
    if rank == 1:
        # One row of a picture, as for other convolutions.
        x = low.view(aten.unsqueeze.default, {"self": x, "dim": 2})
        ordinary = Constant(ordinary.name, ordinary.tensor.unsqueeze(2))
        result_shape.insert(2, 1)
        numbers = [(1, *numbers[0]), (0, *numbers[1]), (1, *numbers[2])]
    phases = [
        axis_phases(*sizes)
        for sizes in zip(x.meta.shape[2:], result_shape[2:], ordinary.tensor.shape[2:], *numbers, strict=True)
    ]
    traced = _in_phases(low, node, x, ordinary, bias, groups, relu is not None, result_shape, phases)
    if rank == 1:
        traced = low.view(aten.squeeze.dim, {"self": traced, "dim": 2})
    settle(low, node, tail, traced)
    return traced


def _as_ordinary(weight: Tensor, groups: int) -> Tensor:
    """[in, out / groups, *taps] as [out, in / groups, *taps]."""
    inputs, outputs, *taps = weight.shape
    split = weight.view(groups, inputs // groups, outputs, *taps)
    return split.transpose(1, 2).reshape(groups * outputs, inputs // groups, *taps)


def _with_norm(
    low: Lowering, node: Node, weight: Constant, bias: Constant | None
) -> tuple[Constant, Constant | None, Node]:
    """Weight and bias with the batch norm that follows folded into them, and the last node they stand for."""
    norm = only_user(node, "_native_batch_norm_legit_no_training.default")
    affine = None if norm is None else norm_affine(low, norm)
    if norm is None or affine is None:
        return weight, bias, node
    folded = fold_batch_norm(weight.tensor, None if bias is None else bias.tensor, *affine, channel_dim=0)
    shift = Constant(f"{weight.name.removesuffix('weight')}bias", folded[1])
    return Constant(weight.name, folded[0]), shift, first_result(norm)


def _in_phases(
    low: Lowering,
    node: Node,
    x: Traced,
    weight: Constant,
    bias: Constant | None,
    groups: int,
    relu: bool,
    shape: Sequence[int],
    axes: Sequence[tuple[Phase, ...]],
) -> Traced:
    x = low.contiguous(node, x, channels_last_strides(x.meta.shape))
    whole = [axis[0] for axis in axes]
    if all(len(axis) == 1 and p.taps and p.length == p.count for axis, p in zip(axes, whole, strict=True)):
        turned = _with_taps(low, weight, whole)
        return convolve(low, node, x, turned, bias, _numbers(whole), groups, relu, None, shape)
    out = low.new(node.name, shape, x.meta.dtype, channels_last_strides(shape))
    for phases in product(*axes):
        target = out.meta
        for dim, (phase, axis) in enumerate(zip(phases, axes, strict=True), 2):
            target = target[(slice(None),) * dim + (slice(phase.first, None, len(axis)),)]
        if all(phase.taps for phase in phases):
            _phase(low, node, x, weight, bias, groups, relu, phases, out.viewed_as(target))
        else:
            _bias_alone(low, node, bias, relu, out.viewed_as(target))
    return out


def _phase(
    low: Lowering,
    node: Node,
    x: Traced,
    weight: Constant,
    bias: Constant | None,
    groups: int,
    relu: bool,
    phases: Sequence[Phase],
    target: Traced,
) -> None:
    """Compute one phase, a piece of its channels at a time where its weight is large, and copy it."""
    chosen = _with_taps(low, weight, phases)
    rows = chosen.tensor.shape[0]
    row_nbytes = prod(chosen.tensor.shape[1:]) * chosen.tensor.element_size()
    pieces = piece_rows(rows, row_nbytes) if low.pack and groups == 1 else [(0, rows)]
    for first, last in pieces:
        part_weight, part_bias = chosen, bias
        if last - first < rows:
            part_weight = Constant(f"{chosen.name}[{first}:{last}]", chosen.tensor[first:last])
            part_bias = bias and Constant(bias.name, bias.tensor[first:last])
        shape = (x.meta.shape[0], last - first, *(phase.length for phase in phases))
        part = convolve(low, node, x, part_weight, part_bias, _numbers(phases), groups, relu, None, shape)
        source = part.meta
        for dim, phase in enumerate(phases, 2):
            source = source.narrow(dim, phase.skipped, phase.count)
        channels = target.viewed_as(target.meta[:, first:last])
        low.emit(node, "copy", {"source": part.viewed_as(source)}, channels)


def _bias_alone(low: Lowering, node: Node, bias: Constant | None, relu: bool, target: Traced) -> None:
    """Results that no tap of the kernel reaches."""
    if bias is None:
        low.emit(node, "fill", {"value": 0.0}, target)
        return
    if relu:
        bias = low.store.transformed(bias, "relu", torch.relu)
    column = bias.tensor.view(1, -1, *[1] * (target.meta.dim() - 2)).expand(target.meta.shape)
    low.emit(node, "copy", {"source": Constant(bias.name, column)}, target)


def _with_taps(low: Lowering, weight: Constant, phases: Sequence[Phase]) -> Constant:
    """The taps that phases use along each axis, in their order."""

    def choose(tensor: Tensor) -> Tensor:
        for dim, phase in enumerate(phases, 2):
            tensor = tensor.index_select(dim, torch.tensor(phase.taps))
        return tensor

    taps = ", ".join(str(list(phase.taps)) for phase in phases)
    chosen = low.store.transformed(weight, f"taps {taps}", choose)
    return Constant(f"{weight.name}[{', '.join(str(p.first) for p in phases)}]", chosen.tensor)


def _numbers(phases: Sequence[Phase]) -> dict[str, tuple[int, ...]]:
    return {
        "stride": (1,) * len(phases),
        "padding": tuple(phase.padding for phase in phases),
        "dilation": tuple(phase.dilation for phase in phases),
    }


RULES: dict[str, Rule] = dict.fromkeys(
    ("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"), transposed_convolution
)
