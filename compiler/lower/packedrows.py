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

MULTIPLES = (1, 2, 3, 4, 5, 6, 8)
"""A part has some granules, and what is left at the end: how many granules are asked about."""

SMALL = (1, 2, 4)
"""Granules of so many rows are tried first: oneDNN may pack for odd numbers of lines as for none else."""

PARTS = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
"""Then those that so many even parts need."""


def least_rows(step: StepDraft, axis: SplitAxis) -> int:
    """The granule of an axis of rows: the axis's own where a packed weight serves any part, otherwise the
    least that is found of which it serves any number, and the axis's extent where it serves none."""
    source, weight = step.args.get("input"), step.args.get("weight")
    if not isinstance(weight, Traced) or weight.packing is None or not isinstance(source, Traced):
        return axis.granule
    for rows in (*(axis.granule * each for each in SMALL), *(-(-axis.extent // parts) for parts in PARTS)):
        left = axis.extent % rows
        counts = {rows * each for each in MULTIPLES} | {rows * each + left for each in (0, *MULTIPLES)}
        if all(
            _layout_for(step, axis, source, weight, count) == weight.packing.layout
            for count in sorted(counts)
            if 0 < count < axis.extent
        ):
            return rows
    return axis.extent


def _layout_for(step: StepDraft, axis: SplitAxis, source: Traced, weight: Traced, rows: int) -> str:
    assert weight.packing is not None
    window, dim = axis.window("input"), dict(axis.operands)["input"]
    lines = rows if window is None else window.end(rows) - window.first(0)
    numbers = {**step.args, **dict(axis.part_args)}
    return _layout(
        weight.packing.shape,
        weight.packing.dtype,
        tuple(numbers.get("padding") or (0, 0)),
        tuple(numbers.get("stride") or (1, 1)),
        tuple(numbers.get("dilation") or (1, 1)),
        int(numbers.get("groups") or 1),
        (*source.meta.shape[:dim], lines, *source.meta.shape[dim + 1 :]),
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
