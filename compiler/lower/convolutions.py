"""Convolutions in channels_last, with the batch norm, residual addition and ReLU that follow them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.fx import Node

from occ.lower import products
from occ.lower.constants import Constant, batch_norm_affine, fold_batch_norm
from occ.lower.draft import Traced
from occ.lower.elementwise import emit_loop
from occ.lower.following import first_result, following_addition, only_user, passed_on, settle
from occ.lower.lines import convolution_by_taps, fits_taps
from occ.lower.lowering import Lowering, meta_like_contiguous

aten = torch.ops.aten

CONVOLVED = {
    "cpu": (torch.float32, torch.bfloat16),
    "cuda": (torch.float64, torch.float32, torch.float16, torch.bfloat16),
}
"""By device, the types that are convolved in place: on the CPU those that oneDNN takes on every machine that
it takes them on at all; float16 needs instructions that few processors have."""


def convolution(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A convolution with the batch norm, residual addition and ReLU that follow it, in channels_last."""
    x = low.tensor(operands["input"])
    weight = operands["weight"]
    rank = x.meta.dim() - 2
    if (
        not isinstance(weight, Constant)
        or weight.tensor.dtype not in CONVOLVED[low.device]
        or rank not in (1, 2, 3)
        or weight.tensor.dim() != rank + 2
    ):
        return low.fallback(node, operands)
    bias = operands.get("bias")
    if bias is not None and not isinstance(bias, Constant):
        return low.fallback(node, operands)
    numbers = {
        name: per_axis(operands.get(name, default), rank)
        for name, default in (("stride", 1), ("dilation", 1))
    }
    padding = operands.get("padding", 0)
    if isinstance(padding, str):
        x, padding = _named_padding(low, node, x, padding, weight.tensor.shape[2:], numbers["dilation"])
    numbers["padding"] = per_axis(padding, rank)
    groups = int(operands.get("groups", 1))
    tail = node
    if (norm := only_user(tail, "_native_batch_norm_legit_no_training.default")) is not None:
        affine = norm_affine(low, norm)
        if affine is not None:
            folded = fold_batch_norm(
                weight.tensor, None if bias is None else bias.tensor, *affine, channel_dim=0
            )
            weight = Constant(weight.name, folded[0])
            bias = Constant(f"{weight.name.removesuffix('weight')}bias", folded[1])
            tail = first_result(norm)
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
        residual, added = following_addition(
            low, passed_on(tail), result_shape, x.meta.dtype, channels_last_strides
        )
        tail = tail if residual is None else added
    relu = only_user(passed_on(tail), "relu.default")
    tail = relu or tail
    traced = convolve(low, node, x, weight, bias, numbers, groups, relu is not None, residual, result_shape)
    if rank == 1:
        traced = low.view(aten.squeeze.dim, {"self": traced, "dim": 2})
    settle(low, node, tail, traced)
    return traced


def _named_padding(
    low: Lowering, node: Node, x: Traced, name: str, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[Traced, tuple[int, ...]]:
    """The padding on both sides that "valid" or "same" stands for, and x. Where "same" needs one more on the
    right, as for kernels of even size, x has got it."""
    if name == "valid":
        return x, (0,) * len(kernel)
    totals = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    if any(total % 2 for total in totals):
        shape = [*x.meta.shape[:2], *(n + t % 2 for n, t in zip(x.meta.shape[2:], totals, strict=True))]
        wider = low.new(f"{node.name}_padded", shape, x.meta.dtype, channels_last_strides(shape))
        amounts = tuple(side for total in reversed(totals) for side in (0, total % 2))
        low.emit(node, "constant_pad", {"self": x, "pad": amounts, "value": 0}, wider)
        x = wider
    return x, tuple(total // 2 for total in totals)


def convolve(
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
    x = low.contiguous(node, x, channels_last_strides(x.meta.shape))
    if low.device == "cuda":
        return _convolve_on_cuda(low, node, x, weight, bias, numbers, groups, relu, residual, shape)
    if residual is None and fits_taps(low, x, weight, numbers, groups):
        return convolution_by_taps(low, node, x, weight, bias, numbers, relu, shape)
    if low.pack and weight.tensor.dtype in (torch.float32, torch.bfloat16) and not low.is_shared(weight):
        out = low.new(node.name, shape, x.meta.dtype, channels_last_strides(shape))
        products.convolution(low, node, x, weight, bias, numbers, groups, relu, residual, out)
        return out
    if residual is None and _is_product(weight, numbers, groups):
        return _pointwise_convolution(low, node, x, weight, bias, relu, shape)
    packed = _in_channels_last(low, weight)
    out = low.new(node.name, shape, x.meta.dtype, channels_last_strides(shape))
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


def _in_channels_last(low: Lowering, weight: Constant) -> Constant:
    order = torch.channels_last if weight.tensor.dim() == 4 else torch.channels_last_3d
    return low.store.transformed(weight, "channels_last", lambda t: t.contiguous(memory_format=order))


def _is_product(weight: Constant, numbers: dict[str, tuple[int, ...]], groups: int) -> bool:
    """Whether a convolution multiplies the channels of each pixel by one matrix."""
    return (
        set(weight.tensor.shape[2:]) == {1}
        and groups == 1
        and set(numbers["stride"]) == {1}
        and set(numbers["padding"]) == {0}
    )


def _convolve_on_cuda(
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
    """cuDNN's convolution, which knows no bias, and one loop for all that follows; a product of the pixels'
    channels goes to cuBLAS, whose epilogue adds the bias."""
    if _is_product(weight, numbers, groups):
        # One epilogue of cuBLAS takes it all, where nothing else is added.
        whole = relu and bias is not None and residual is None
        out = _pointwise_convolution(low, node, x, weight, bias, whole, shape)
        bias, relu = None, relu and not whole
    else:
        filters = _in_channels_last(low, weight)
        out = low.new(node.name, shape, x.meta.dtype, channels_last_strides(shape))
        low.emit(node, "cudnn_convolution", {"input": x, "weight": filters, **numbers, "groups": groups}, out)
    text, tensors = "x0", [out]
    if bias is not None:
        column = Constant(bias.name, bias.tensor.view(1, -1, *(1,) * (len(shape) - 2)))
        tensors.append(low.tensor(column))
        text += f" + x{len(tensors) - 1}"
    if residual is not None:
        tensors.append(residual)
        text += f" + x{len(tensors) - 1}"
    if len(tensors) == 1 and not relu:
        return out
    if relu:
        text = f"relu({text})"
    finished = low.new(node.name, shape, x.meta.dtype, out.meta.stride())
    emit_loop(low, node, f"y0 = {text}", tensors, finished)
    return finished


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
    flat = x.viewed_as(x.meta.permute(last).view(pixels, x.meta.shape[1]))
    matrix = low.tensor(Constant(weight.name, weight.tensor.flatten(1)))
    transposed = matrix.viewed_as(matrix.meta.t())
    out = low.new(node.name, (pixels, shape[1]), x.meta.dtype)
    if bias is None:
        low.emit(node, "matmul", {"input": flat, "weight": transposed}, out)
    elif relu and low.device == "cuda":
        low.emit(node, "linear_relu", {"input": flat, "weight": transposed, "bias": bias}, out)
        relu = False
    else:
        low.emit(node, "linear", {"input": flat, "weight": transposed, "bias": bias}, out)
    if relu:
        activated = low.new(f"{node.name}_relu", (pixels, shape[1]), x.meta.dtype)
        low.emit(node, "relu", {"self": out}, activated)
        out = activated
    spatial = (shape[0], *shape[2:], shape[1])
    back = (0, len(shape) - 1, *range(1, len(shape) - 1))
    return Traced(node.name, out.buffer, out.meta.view(spatial).permute(back))


def norm_affine(low: Lowering, norm: Node) -> tuple[torch.Tensor, torch.Tensor] | None:
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


def channels_last_strides(shape: Sequence[int]) -> tuple[int, ...]:
    order = (0, *range(2, len(shape)), 1)
    inner = meta_like_contiguous([shape[d] for d in order])
    strides = [0] * len(shape)
    for position, dim in enumerate(order):
        strides[dim] = inner[position]
    return tuple(strides)


def per_axis(value: Any, rank: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * rank if len(values) == 1 else values
