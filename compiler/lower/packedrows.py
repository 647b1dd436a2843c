"""How few rows a part may have, so that packed weights serve it as they serve the whole.

oneDNN chooses the layout of a weight for the shape of the input, threads and processor included. Given a
weight in another layout it would reorder it at every call. So the layouts for fewer rows are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch

from occ.ir import SplitAxis
from occ.lower.draft import StepDraft, Traced
from occ.runtime_stub.packed import pack_convolution

MULTIPLES = (1, 2, 3, 4, 5, 6, 8)
"""A part has some granules, and what is left at the end: how many granules are asked about."""

MORE = (10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256)
"""Then these, to find how large parts may be: oneDNN may pack for some numbers of rows as for more and fewer,
but not as for those between."""

SMALL = (1, 2, 4)
"""Granules of so many rows are tried first: oneDNN may pack for odd numbers of lines as for none else."""

PARTS = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
"""Then those that so many even parts need."""

FEW_PARTS = 8
"""Granules of which so many parts need not be larger than the largest are taken before others."""


def served_rows(step: StepDraft, axis: SplitAxis) -> SplitAxis:
    """The axis of rows with such parts as a packed weight serves: its granule the least of which any number
    has the weight's layout, up to the largest part; its extent where no smaller part has it."""
    source, weight = step.args.get("input"), step.args.get("weight")
    if not isinstance(weight, Traced) or weight.packing is None or not isinstance(source, Traced):
        return axis
    wanted = weight.packing.layout
    found: SplitAxis | None = None
    for granule in (*(axis.granule * each for each in SMALL), *(-(-axis.extent // n) for n in PARTS)):

        def serves(granules: int, granule: int = granule) -> bool:
            rows = granule * granules
            missing = -axis.extent % granule  # rows that the last granule lacks
            return all(
                _layout_for(step, axis, source, weight, count) == wanted
                for count in {rows, rows - missing}
                if count < axis.extent
            )

        if granule >= axis.extent or not all(serves(granules) for granules in MULTIPLES):
            continue
        served = replace(axis, granule=granule, largest=_largest(granule, axis.extent, serves))
        if not served.largest or served.largest * FEW_PARTS >= axis.extent:
            return served
        found = found or served
    return found or replace(axis, granule=axis.extent)


def _largest(granule: int, extent: int, serves: Callable[[int], bool]) -> int:
    """The most rows that a part may have; 0 where it may have any number."""
    most = MULTIPLES[-1]
    for granules in MORE:
        if granules * granule >= extent:
            return 0
        if not serves(granules):
            return most * granule
        most = granules
    return 0


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
