"""Strided convolutions over lines, such as sound: a sum of products, one for each tap of the kernel.

oneDNN copies what such a convolution reads outside the arena (0.8 MB for 768 channels, as in Whisper). A tap
sees every stride-th row of a line of channels; rows that lie apart are copied next to each other once for all
taps that see them, with zeros beyond the edges, and each tap adds its product to the sum in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from occ.lower import products
from occ.lower.constants import Constant
from occ.lower.draft import Traced
from occ.lower.lowering import Lowering

LEAST_CHANNELS = 256
"""With fewer, products are too thin to be as fast as a convolution, and oneDNN's copy is small."""


def fits_taps(
    low: Lowering, x: Traced, weight: Constant, numbers: dict[str, tuple[int, ...]], groups: int
) -> bool:
    """Whether a convolution of x [1, channels, 1, n] is one over lines that is better a sum of products. Sums
    of 16-bit types would be rounded at every term."""
    return (
        low.pack
        and x.meta.dim() == 4
        and (x.meta.shape[0], x.meta.shape[2], weight.tensor.shape[2]) == (1, 1, 1)
        and numbers["padding"][0] == 0
        and numbers["stride"][1] > 1
        and groups == 1
        and weight.tensor.shape[1] >= LEAST_CHANNELS
        and weight.tensor.dtype is torch.float32
        and not low.is_shared(weight)
    )


def convolution_by_taps(
    low: Lowering,
    node: Node,
    x: Traced,
    weight: Constant,
    bias: Constant | None,
    numbers: dict[str, tuple[int, ...]],
    relu: bool,
    shape: Sequence[int],
) -> Traced:
    """The convolution of x (channels_last) to `shape` [1, channels, 1, n], channels_last; see `fits_taps`."""
    stride, padding, dilation = (numbers[name][1] for name in ("stride", "padding", "dilation"))
    count, taps = shape[3], weight.tensor.shape[3]
    # Tap t of result r reads row r * stride + t * dilation - padding: row r + shift of the rows of its phase.
    places = [divmod(tap * dilation - padding, stride) for tap in range(taps)]
    phases = {}
    for phase in sorted({phase for _, phase in places}):
        shifts = [shift for shift, each in places if each == phase]
        rows = (min(shifts), max(shifts) + count)
        phases[phase] = (rows[0], _phase_rows(low, node, x, phase, stride, rows))
    total: Traced | None = None
    for tap, (shift, phase) in enumerate(places):
        first, rows_of_phase = phases[phase]
        seen = rows_of_phase.viewed_as(rows_of_phase.meta.narrow(0, shift - first, count))
        last = tap == taps - 1
        total = products.product(
            low, node, seen, _tap(low, weight, tap), None if total else bias, relu and last, total
        )
    assert total is not None
    return total.viewed_as(total.meta.view(1, 1, count, shape[1]).permute(0, 3, 1, 2))


def _phase_rows(
    low: Lowering, node: Node, x: Traced, phase: int, stride: int, rows: tuple[int, int]
) -> Traced:
    """Rows [first, end) of those of x that are `stride` apart from row `phase` on, one after another; zeros
    for those before the first and behind the last."""
    first, end = rows
    lines = x.meta.permute(0, 2, 3, 1).flatten(0, 2)[phase::stride]
    out = low.new(f"{node.name}_rows", (end - first, x.meta.shape[1]), x.meta.dtype)
    inside = max(first, 0), max(min(end, lines.shape[0]), 0)
    for begin, stop in ((first, min(inside[0], end)), (max(inside[1], first), end)):
        if begin < stop:
            low.emit(node, "fill", {"value": 0.0}, out.viewed_as(out.meta[begin - first : stop - first]))
    if inside[0] < inside[1]:
        target = out.viewed_as(out.meta[inside[0] - first : inside[1] - first])
        low.emit(node, "copy", {"source": x.viewed_as(lines[slice(*inside)])}, target)
    return out


def _tap(low: Lowering, weight: Constant, tap: int) -> Constant:
    """The matrix [out, in] of one tap."""
    chosen = low.store.transformed(weight, f"tap {tap}", lambda t: t[:, :, 0, tap].contiguous())
    return Constant(f"{weight.name}[..., {tap}]", chosen.tensor)
