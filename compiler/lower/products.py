"""Products with constant weights (linear layers, convolutions) through oneDNN's packed kernels.

Weights are stored as oneDNN reads them, so nothing is reordered at run time. Large ones are cut along their
output features into pieces that are packed, loaded and computed one at a time: the floor of a budget and the
size of a read come from a piece, not from a layer. A result's slice of channels is strided and oneDNN would
stage it outside the arena, so a piece's result is computed in a buffer of its own and copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from occ.ir import Packing
from occ.lower.constants import Constant
from occ.lower.draft import Traced, dense_strides, dtype_name
from occ.lower.filelayout import grain_rows
from occ.lower.lowering import Lowering
from occ.lower.tied import packed_table
from occ.runtime_stub.packed import pack_convolution

PIECE = 2 << 20
"""Bytes: at 2 GB/s a read of 1 ms, 20 times what a request costs by itself."""

ROW_BLOCK = 64
"""Output features: oneDNN's widest block on AVX-512."""

FEW_ROWS = 32
"""Below so many rows of x, reordering a plain weight costs more than a faster product saves."""


def piece_rows(rows: int, row_nbytes: int, block: int = ROW_BLOCK) -> list[tuple[int, int]]:
    """Half-open row ranges of the pieces of a weight, as even as blocks of rows allow."""
    count = min(-(-rows * row_nbytes // PIECE), -(-rows // block))
    if count <= 1:
        return [(0, rows)]
    blocks = -(-rows // block)
    bounds = [min(rows, blocks * index // count * block) for index in range(count + 1)]
    bounds[-1] = rows
    return list(pairwise(bounds))


def packed_weight(
    low: Lowering,
    weight: Constant,
    rows: tuple[int, int],
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_shape: Sequence[int],
) -> Traced:
    """Rows [first, last) of a convolution weight, packed for inputs of `input_shape`; packed once for equal
    arguments."""
    first, last = rows
    layouts: list[str] = []

    def pack(tensor: Tensor) -> Tensor:
        memory, layout = pack_convolution(
            tensor[first:last].contiguous(), padding, stride, dilation, groups, input_shape
        )
        layouts.append(layout)
        return memory

    key = f"packed {rows} {tuple(padding)} {tuple(stride)} {tuple(dilation)} {groups} {tuple(input_shape)}"
    constant = low.store.transformed(weight, key, pack)
    packing = low.packings.get(constant.tensor.data_ptr())
    if packing is None:
        shape = (last - first, *weight.tensor.shape[1:])
        packing = Packing(dtype_name(weight.tensor.dtype), tuple(shape), layouts[0])
        low.packings[constant.tensor.data_ptr()] = packing
    if (first, last) != (0, weight.tensor.shape[0]):
        constant = replace(constant, name=f"{weight.name}[{first}:{last}]")
    return replace(low.tensor(constant), packing=packing)


def convolution(
    low: Lowering,
    node: Node,
    x: Traced,
    weight: Constant,
    bias: Constant | None,
    numbers: dict[str, tuple[int, ...]],
    groups: int,
    relu: bool,
    residual: Traced | None,
    out: Traced,
) -> None:
    """Emit a convolution with packed weights; x, residual and out are channels_last."""
    rows = weight.tensor.shape[0]
    row_nbytes = weight.tensor[0].numel() * weight.tensor.element_size()
    arguments = {**numbers, "groups": groups, "relu": relu}

    def emit(part: tuple[int, int], part_bias: Any, part_residual: Traced | None, target: Traced) -> None:
        packed = packed_weight(
            low,
            weight,
            part,
            numbers["padding"],
            numbers["stride"],
            numbers["dilation"],
            groups,
            tuple(x.meta.shape),
        )
        args = {"input": x, "weight": packed, "bias": part_bias, **arguments, "residual": part_residual}
        low.emit(node, "convolution", args, target)

    pieces = [(0, rows)] if groups > 1 else piece_rows(rows, row_nbytes)
    _in_pieces(low, node, pieces, bias, residual, out, emit)


def product(
    low: Lowering,
    node: Node,
    x: Traced,
    weight: Constant,
    bias: Any,
    relu: bool,
    residual: Traced | None,
) -> Traced:
    """Emit x [m, k] @ weight [n, k] transposed (+ bias) (+ residual) (+ ReLU); the result [m, n].

    oneDNN computes it as a 1x1 convolution over m pixels. A weight that is read elsewhere too stays as it is,
    and oneDNN reorders each piece of it at every run, unless all that happens there is that rows are looked
    up (`occ.lower.tied`).
    """
    out = low.new(node.name, (x.meta.shape[0], weight.tensor.shape[0]), x.meta.dtype)
    pixels = _pixels(x)
    operands = _packed_rows(low, weight, pixels) or _plain_rows(low, weight)

    def emit(part: tuple[int, int], part_bias: Any, part_residual: Traced | None, target: Traced) -> None:
        args = {
            "input": pixels,
            "weight": operands[part],
            "bias": part_bias,
            "relu": relu,
            "residual": part_residual,
        }
        low.emit(node, "product", args, target)

    residual_pixels = None if residual is None else _pixels(residual)
    _in_pieces(low, node, list(operands), bias, residual_pixels, _pixels(out), emit)
    return out


def _packed_rows(low: Lowering, weight: Constant, pixels: Traced) -> dict[tuple[int, int], Traced] | None:
    """The packed pieces of a weight [n, k] by their rows; None where it has to keep its layout."""
    rows, inner = weight.tensor.shape
    looked_up = weight.tensor.data_ptr() in low.looked_up and weight.tensor.is_contiguous()
    if low.is_shared(weight) and not looked_up:
        return None
    spread = Constant(weight.name, weight.tensor.view(rows, inner, 1, 1))
    shape = tuple(pixels.meta.shape)
    found = {
        part: packed_weight(low, spread, part, (0, 0), (1, 1), (1, 1), 1, shape)
        for part in piece_rows(rows, inner * weight.tensor.element_size())
    }
    if looked_up:
        table = packed_table(low, weight.tensor, list(found.values()))
        if table is None:
            return None
        low.packed_tables[low.tensor(weight).buffer] = table
    return found


def _plain_rows(low: Lowering, weight: Constant) -> dict[tuple[int, int], Traced]:
    """Pieces of a weight [n, k] as it is, by their rows."""
    rows, inner = weight.tensor.shape
    row_nbytes = inner * weight.tensor.element_size()
    matrix = low.tensor(Constant(weight.name, weight.tensor.contiguous()))
    return {
        (first, last): Traced(
            matrix.name, matrix.buffer, matrix.meta[first:last].view(last - first, inner, 1, 1)
        )
        for first, last in piece_rows(rows, row_nbytes, grain_rows(rows, row_nbytes))
    }


def linear(low: Lowering, node: Node, x: Traced, weight: Constant, bias: Constant | None) -> Traced:
    """Emit x [m, k] (contiguous) @ weight [n, k] transposed (+ bias), packed where that is possible; the
    result [m, n]."""
    if takes_product(low, x, weight):
        return product(low, node, x, weight, bias, False, None)
    matrix = low.tensor(weight)
    transposed = matrix.viewed_as(matrix.meta.t())
    out = low.new(node.name, (x.meta.shape[0], weight.tensor.shape[0]), x.meta.dtype)
    if bias is None:
        low.emit(node, "matmul", {"input": x, "weight": transposed}, out)
    else:
        low.emit(node, "linear", {"input": x, "weight": transposed, "bias": bias}, out)
    return out


def takes_product(low: Lowering, x: Traced, weight: Constant) -> bool:
    """Whether a linear layer goes through `product`."""
    return (
        low.pack
        and weight.tensor.dtype in (torch.float32, torch.bfloat16)
        and x.meta.dtype == weight.tensor.dtype
        and x.meta.numel() > 0
        and weight.tensor.numel() > 0
        and (not low.is_shared(weight) or x.meta.shape[0] >= FEW_ROWS)
    )


def _pixels(matrix: Traced) -> Traced:
    """A matrix [m, k] as a channels_last picture [1, k, m, 1]."""
    count, inner = matrix.meta.shape
    view = matrix.meta.view(1, count, 1, inner).permute(0, 3, 1, 2)
    return matrix.viewed_as(view)


def _in_pieces(
    low: Lowering,
    node: Node,
    pieces: Sequence[tuple[int, int]],
    bias: Any,
    residual: Traced | None,
    out: Traced,
    emit: Callable[[tuple[int, int], Any, Traced | None, Traced], None],
) -> None:
    if len(pieces) == 1:
        emit(pieces[0], bias, residual, out)
        return
    for first, last in pieces:
        shape = list(out.meta.shape)
        shape[1] = last - first
        strides = dense_strides(shape, out.meta.stride())
        part = low.new(f"{node.name}_{first}_{last}", shape, out.meta.dtype, strides)
        part_residual = None if residual is None else _channels(residual, first, last)
        emit((first, last), _rows(low, bias, first, last), part_residual, part)
        low.emit(node, "copy", {"source": part}, _channels(out, first, last))


def _channels(tensor: Traced, first: int, last: int) -> Traced:
    return tensor.viewed_as(tensor.meta[:, first:last])


def _rows(low: Lowering, bias: Any, first: int, last: int) -> Any:
    if bias is None:
        return None
    traced = low.tensor(bias)
    return traced.viewed_as(traced.meta[first:last])
