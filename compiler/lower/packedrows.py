"""How few rows a part may have, so that packed weights serve it as they serve the whole.

oneDNN chooses the layout of a weight for the shape of the input, threads and processor included. Given a
weight in another layout it would reorder it at every call. So the layouts for fewer rows are asked for.
"""

from __future__ import annotations

from functools import cache

import torch

from occ.ir import SplitAxis
from occ.lower.draft import StepDraft, Traced
from occ.runtime_stub.packed import pack_convolution

FEWEST = 7
"""Rows of a matrix or a picture below which no part is worth its call."""

PARTS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of parts that are asked about."""


def least_rows(step: StepDraft, axis: SplitAxis) -> int:
    """The granule of an axis of rows.

    It is the axis's own where a packed weight serves any part, otherwise the least rows of an even part that
    it serves, and the axis's extent where it serves none.
    """
    source, weight = step.args.get("input"), step.args.get("weight")
    if not isinstance(weight, Traced) or weight.packing is None or not isinstance(source, Traced):
        return axis.granule
    served, found = True, axis.extent
    for rows in sorted({-(-axis.extent // parts) for parts in PARTS}, reverse=True):
        if rows < FEWEST:
            break
        if _layout_for(step, axis, source, weight, rows) == weight.packing.layout:
            found = rows
        else:
            served = False
    return axis.granule if served else found


def _layout_for(step: StepDraft, axis: SplitAxis, source: Traced, weight: Traced, rows: int) -> str:
    assert weight.packing is not None
    window = axis.window("input")
    lines = rows if window is None else window.end(rows) - window.first(0)
    numbers = {**step.args, **dict(axis.part_args)}
    return _layout(
        weight.packing.shape,
        weight.packing.dtype,
        tuple(numbers.get("padding") or (0, 0)),
        tuple(numbers.get("stride") or (1, 1)),
        tuple(numbers.get("dilation") or (1, 1)),
        int(numbers.get("groups") or 1),
        (*source.meta.shape[:2], lines, *source.meta.shape[3:]),
        torch.get_num_threads(),
    )


@cache
def _layout(
    shape: tuple[int, ...],
    dtype: str,
    padding: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    input_shape: tuple[int, ...],
    threads: int,
) -> str:
    weight = torch.empty(shape, dtype=getattr(torch, dtype))
    return pack_convolution(weight, padding, stride, dilation, groups, input_shape)[1]
