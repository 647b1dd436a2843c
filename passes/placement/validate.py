"""A check of placements that shares no code with the search."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise

from occ.errors import InternalError
from occ.ir import Placement, PlacementItem


def check_items(items: Sequence[PlacementItem]) -> None:
    """Raise InternalError where an item breaks the contract of PlacementItem."""
    for item in items:
        if item.nbytes < 0 or item.alignment < 1:
            raise InternalError(
                f"placement item {item.name!r}: {item.nbytes} bytes at alignment {item.alignment}; "
                "sizes must not be negative and alignments must be at least 1"
            )
        bounds = [step for interval in item.ranges for step in interval]
        intervals_filled = all(first < last for first, last in item.ranges)
        if not intervals_filled or any(a > b for a, b in pairwise(bounds)):
            raise InternalError(
                f"placement item {item.name!r}: its ranges {item.ranges} must be disjoint, ascending and "
                "hold a step each"
            )


def check_placement(items: Sequence[PlacementItem], placement: Placement) -> None:
    """Raise InternalError unless every offset is aligned, no two items share bytes at any step, and height
    and bound are consistent.

    Walks through time with the live items sorted by offset: what is live is disjoint, so a new item can only
    clash with its two neighbours.
    """
    if len(placement.offsets) != len(items):
        raise InternalError(f"placement of {len(items)} items has {len(placement.offsets)} offsets")
    top = 0
    events: list[tuple[int, int, int]] = []
    for index, (item, offset) in enumerate(zip(items, placement.offsets, strict=True)):
        if offset < 0 or offset % item.alignment:
            raise InternalError(
                f"{item.name!r} at offset {offset} is not a multiple of {item.alignment} bytes"
            )
        top = max(top, offset + item.nbytes)
        if item.nbytes:
            for first, last in item.ranges:
                events.append((first, 1, index))
                events.append((last, 0, index))
    live: list[tuple[int, int, int]] = []
    for step, begins, index in sorted(events):
        offset = placement.offsets[index]
        entry = (offset, offset + items[index].nbytes, index)
        if not begins:
            live.pop(bisect_left(live, entry))
            continue
        place = bisect_left(live, entry)
        for other in live[max(place - 1, 0) : place + 1]:
            if other[0] < entry[1] and offset < other[1]:
                raise InternalError(
                    f"{items[index].name!r} at bytes [{offset}, {entry[1]}) overlaps "
                    f"{items[other[2]].name!r} at [{other[0]}, {other[1]}) in step {step}"
                )
        insort(live, entry)
    if top != placement.height:
        raise InternalError(f"placement says height {placement.height} and ends at {top}")
    if placement.bound > top:
        raise InternalError(f"placement of height {top} is below its bound {placement.bound}")
