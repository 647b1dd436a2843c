"""Kernels that need more than one torch call to write into memory they are given.

Every function writes its result into `out` and returns nothing. What it allocates besides is its workspace,
measured when the program is compiled. Calls into private torch operators stand in this module alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .experts import grouped_product as grouped_product
from .recurrent import gru as gru
from .recurrent import lstm as lstm
from .recurrent import rnn as rnn

aten = torch.ops.aten


def copy_results(outs: Sequence[Tensor], chosen: Sequence[int], results: Any) -> None:
    """Copy the `chosen` results of a functional operator into `outs`."""
    if isinstance(results, Tensor):
        results = (results,)
    for out, index in zip(outs, chosen, strict=True):
        out.copy_(results[index])


def starts_as(out: Tensor, source: Tensor) -> None:
    """Give `out` the contents of `source`; nothing to do where both are the same bytes."""
    if out.data_ptr() != source.data_ptr():
        out.copy_(source)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    relu: bool,
    residual: Tensor | None,
    out: Tensor,
) -> None:
    """Convolution + bias (+ residual) (+ ReLU) in one oneDNN call, written in place.

    x, residual and out are channels_last (2-d or 3-d); oneDNN adds onto what `out` holds.
    """
    if residual is None:
        out.zero_()
    else:
        starts_as(out, residual)
    torch.ops.mkldnn._convolution_pointwise_.binary(
        out, x, weight, bias, padding, stride, dilation, groups, "add", 1.0, "relu" if relu else None, [], ""
    )


def cudnn_convolution(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    out: Tensor,
) -> None:
    """Convolution by cuDNN in the layout of `out`, channels_last (2-d or 3-d), without a bias; the algorithm
    and the use of TF32 are those of eager mode by default."""
    aten.cudnn_convolution.out(x, weight, padding, stride, dilation, groups, False, False, True, out=out)


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, residual: Tensor | None, out: Tensor
) -> None:
    """x [m, k] @ weight [n, k] transposed + bias (+ residual) (+ ReLU): a 1x1 convolution over m pixels.

    x [1, k, m, 1] and out [1, n, m, 1] are channels_last pictures, weight [n, k, 1, 1].
    """
    convolution(x, weight, bias, (1, 1), (0, 0), (1, 1), 1, relu, residual, out)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
    grouped: bool,
    heads: int,
    out: Tensor,
) -> None:
    """Scaled dot-product attention over [batch, heads, rows, size], `heads` query heads at a time.

    The fused kernel never holds the scores; what it returns per call is bounded by `heads`.
    """
    group = query.shape[1] // key.shape[1] if grouped else 1
    for first in range(0, query.shape[1], heads):
        last = min(first + heads, query.shape[1])
        key_first, key_last = first // group, -(-last // group)
        out[:, first:last].copy_(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, first:last],
                key[:, key_first:key_last],
                value[:, key_first:key_last],
                attn_mask=mask
                if mask is None or mask.dim() < 4 or mask.shape[1] == 1
                else mask[:, first:last],
                is_causal=causal,
                scale=scale,
                enable_gqa=grouped,
            )
        )


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    rows: int,
    out: Tensor,
) -> None:
    """Layer normalisation of the trailing dimensions, `rows` rows at a time (x and out contiguous)."""
    size = 1
    for extent in normalized_shape:
        size *= extent
    source, target = x.view(-1, size), out.view(-1, size)
    flat_weight = None if weight is None else weight.view(size)
    flat_bias = None if bias is None else bias.view(size)
    for first in range(0, source.shape[0], rows):
        block = source[first : first + rows]
        target[first : first + rows].copy_(torch.layer_norm(block, (size,), flat_weight, flat_bias, eps))


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, out: Tensor
) -> None:
    """Group normalisation, one group of channels at a time."""
    channels = x.shape[1] // groups
    for group in range(groups):
        part = slice(group * channels, (group + 1) * channels)
        out[:, part].copy_(
            torch.group_norm(
                x[:, part].contiguous(),
                1,
                None if weight is None else weight[part],
                None if bias is None else bias[part],
                eps,
            )
        )


def embedding(weight: Tensor, indices: Tensor, out: Tensor) -> None:
    """Rows of a table in memory. Raises IndexError for an index outside it, before anything is written."""
    if indices.numel():
        _check_rows(int(indices.min()), int(indices.max()), weight.shape[0])
    torch.index_select(weight, 0, indices.reshape(-1), out=out.view(-1, weight.shape[1]))


def packed_embedding(pieces: Sequence[Tensor], starts: Sequence[int], indices: Tensor, out: Tensor) -> None:
    """Rows of a table that is in memory as a product reads it: rows `starts[i]` to `starts[i + 1]` in piece i
    [blocks, columns, rows of a block]. Raises IndexError for an index outside the table, before anything is
    written."""
    wanted: list[int] = indices.reshape(-1).tolist()
    if wanted:
        _check_rows(min(wanted), max(wanted), starts[-1])
    for row, index in zip(out.view(-1, out.shape[-1]), wanted, strict=True):
        number = bisect_right(starts, index) - 1
        piece = pieces[number]
        block, place = divmod(index - starts[number], piece.shape[2])
        row.copy_(piece[block, :, place])


def _check_rows(lowest: int, highest: int, rows: int) -> None:
    if lowest < 0 or highest >= rows:
        bad = lowest if lowest < 0 else highest
        raise IndexError(f"index {bad} is outside an embedding of {rows} rows")


def max_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
    out: Tensor,
) -> None:
    """Max pooling in two or three dimensions; `indices` is int64 scratch of out's shape, which the operators
    insist on."""
    operator = aten.max_pool2d_with_indices if x.dim() == 4 else aten.max_pool3d_with_indices
    operator.out(x, kernel_size, stride, padding, dilation, ceil_mode, out=out, indices=indices)


def adaptive_max_pool(x: Tensor, output_size: Sequence[int], indices: Tensor, out: Tensor) -> None:
    """Adaptive max pooling in two or three dimensions; `indices` as above."""
    operator = aten.adaptive_max_pool2d if x.dim() == 4 else aten.adaptive_max_pool3d
    operator.out(x, output_size, out=out, indices=indices)


def constant_pad(x: Tensor, pad: Sequence[int], value: float, out: Tensor) -> None:
    """Constant padding by `pad` (last dimension first, torch's order); every entry is >= 0."""
    out.fill_(value)
    inner = out
    for axis in range(len(pad) // 2):
        dim = x.dim() - 1 - axis
        inner = inner.narrow(dim, pad[2 * axis], x.shape[dim])
    inner.copy_(x)


def edge_pad(x: Tensor, pad: Sequence[int], mode: str, out: Tensor) -> None:
    """Padding that continues the picture: `mode` is "reflect", "replicate" or "circular"; `pad` as above.

    Every dimension is padded after those behind it, from what is there by then.
    """
    amounts = list(zip(pad[::2], pad[1::2], strict=True))
    padded = range(x.dim() - 1, x.dim() - 1 - len(amounts), -1)
    inner = out
    for dim, (before, _) in zip(padded, amounts, strict=True):
        inner = inner.narrow(dim, before, x.shape[dim])
    inner.copy_(x)
    for index, (dim, (before, after)) in enumerate(zip(padded, amounts, strict=True)):
        band, end = out, before + x.shape[dim]
        for other, (first, _) in zip(padded[index + 1 :], amounts[index + 1 :], strict=True):
            band = band.narrow(other, first, x.shape[other])
        left, right = band.narrow(dim, 0, before), band.narrow(dim, end, after)
        if mode == "replicate":
            left.copy_(band.narrow(dim, before, 1).expand_as(left))
            right.copy_(band.narrow(dim, end - 1, 1).expand_as(right))
        elif mode == "circular":
            left.copy_(band.narrow(dim, end - before, before))
            right.copy_(band.narrow(dim, before, after))
        else:
            for step in range(1, before + 1):
                band.select(dim, before - step).copy_(band.select(dim, before + step))
            for step in range(1, after + 1):
                band.select(dim, end - 1 + step).copy_(band.select(dim, end - 1 - step))


def prelu(x: Tensor, weight: Tensor, positive: Tensor, out: Tensor) -> None:
    """x where that is positive, weight * x elsewhere; `positive` is scratch (bool) of out's shape."""
    torch.gt(x, 0, out=positive)
    torch.mul(x, weight, out=out)
    torch.where(positive, x, out, out=out)


def flip(x: Tensor, dims: Sequence[int], out: Tensor) -> None:
    """Reversal along `dims`, row by row of the first of them."""
    first, rest = dims[0], list(dims[1:])
    extent = x.shape[first]
    for index in range(extent):
        row = x.narrow(first, extent - 1 - index, 1)
        out.narrow(first, index, 1).copy_(row.flip(rest) if rest else row)


def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int], out: Tensor) -> None:
    """Cyclic shift along one or more dimensions, as copies of slices."""
    pieces = [(x, out)]
    for shift, dim in zip(shifts, dims, strict=True):
        extent = x.shape[dim]
        shift %= extent
        parts = []
        for source, target in pieces:
            parts.append((source.narrow(dim, 0, extent - shift), target.narrow(dim, shift, extent - shift)))
            if shift:
                parts.append((source.narrow(dim, extent - shift, shift), target.narrow(dim, 0, shift)))
        pieces = parts
    for source, target in pieces:
        target.copy_(source)


def repeat(x: Tensor, repeats: Sequence[int], out: Tensor) -> None:
    """Tiling: `out` seen as [repeats[0], x0, repeats[1], x1, ...] is `x` broadcast (out contiguous)."""
    shape = (1,) * (len(repeats) - x.dim()) + tuple(x.shape)
    tiled, broadcast = [], []
    for count, extent in zip(repeats, shape, strict=True):
        tiled += [count, extent]
        broadcast += [1, extent]
    out.view(tiled).copy_(x.reshape(broadcast).expand(tiled))


def updated(source: Tensor, update: Callable[..., Any], out: Tensor, *args: Any, **kwargs: Any) -> None:
    """A copy of `source` (or `source` itself, in place) with one in-place operator applied to it."""
    starts_as(out, source)
    update(out, *args, **kwargs)


def slice_scatter(
    source: Tensor,
    update: Tensor,
    dim: int,
    start: int | None,
    end: int | None,
    step: int,
    out: Tensor,
) -> None:
    """`source` with the slice [start:end:step] of `dim` replaced."""
    starts_as(out, source)
    aten.slice.Tensor(out, dim, start, end, step).copy_(update)


def select_scatter(source: Tensor, update: Tensor, dim: int, index: int, out: Tensor) -> None:
    """`source` with one index of `dim` replaced."""
    starts_as(out, source)
    out.select(dim, index).copy_(update)


def concatenate(parts: Sequence[Tensor], dim: int, out: Tensor) -> None:
    """Concatenation as copies into slices, for parts whose types or layouts differ."""
    first = 0
    for part in parts:
        extent = part.shape[dim]
        out.narrow(dim, first, extent).copy_(part)
        first += extent
