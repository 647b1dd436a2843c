"""What the search sees of a placement: rectangles over few columns of time, in a common unit of bytes."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from occ.ir import PlacementItem
from occ.units import round_up

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Problem:
    """Rectangles that need an offset each, one entry per item in every tuple.

    `unit` is in bytes; `sizes` (how far the next item begins at the least) and `alignments` are in units.
    `pads` are bytes: an item's own bytes end that much before its rounded size does. `spans` are disjoint,
    ascending, half-open intervals of columns, at least one per item; a column stands for a set of steps, and
    two items conflict where they share a column. Offsets of a Problem are in units, heights in bytes.
    """

    unit: int
    sizes: tuple[int, ...]
    alignments: tuple[int, ...]
    pads: tuple[int, ...]
    spans: tuple[tuple[Span, ...], ...]
    columns: int

    def height(self, offsets: Sequence[int]) -> int:
        """Bytes up to the end of the highest item; 0 for no items."""
        ends = zip(offsets, self.sizes, self.pads, strict=True)
        return max(((offset + size) * self.unit - pad for offset, size, pad in ends), default=0)

    def snap(self, height: int) -> int:
        """The smallest number of bytes, at least `height`, that some placement could end at."""
        return min((round_up(height + pad, self.unit) - pad for pad in set(self.pads)), default=height)

    @property
    def granule(self) -> int:
        """Bytes that hold a whole number of units and of every alignment."""
        return math.lcm(*self.alignments) * self.unit

    def duration(self, item: int) -> int:
        """Columns in which the item is live."""
        return sum(last - first for first, last in self.spans[item])


def problem_of(items: Sequence[PlacementItem]) -> Problem:
    """The rectangles of items that have bytes and ranges.

    Sizes are rounded up to the largest number of bytes that divides every alignment, which costs nothing
    where items conflict: no item can begin inside the padding. The unit is the largest one in which a
    placement of the least height exists: pushed down as far as it goes, an item begins at a sum of sizes that
    is rounded up to alignments.
    """
    granule = math.gcd(*(item.alignment for item in items))
    rounded = [round_up(item.nbytes, granule) for item in items]
    unit = _unit(rounded, {item.alignment for item in items})
    columns = column_starts(items)
    return Problem(
        unit=unit,
        sizes=tuple(size // unit for size in rounded),
        alignments=tuple(max(item.alignment // unit, 1) for item in items),
        pads=tuple(size - item.nbytes for size, item in zip(rounded, items, strict=True)),
        spans=tuple(_spans(item, columns) for item in items),
        columns=len(columns),
    )


def column_starts(items: Sequence[PlacementItem]) -> list[int]:
    """Steps at which the set of live items is as large as it gets before one of them dies.

    Every set of items that are live together is part of the set at one of these steps.
    """
    firsts = sorted({first for item in items for first, _ in item.ranges})
    lasts = sorted({last for item in items for _, last in item.ranges})
    starts = []
    for here, following in zip(firsts, [*firsts[1:], None], strict=True):
        if following is None or bisect_right(lasts, here) < bisect_right(lasts, following):
            starts.append(here)
    return starts


def _spans(item: PlacementItem, columns: list[int]) -> tuple[Span, ...]:
    spans: list[Span] = []
    for first, last in item.ranges:
        begin, end = bisect_left(columns, first), bisect_left(columns, last)
        if spans and spans[-1][1] == begin:
            begin = spans.pop()[0]
        if begin < end:
            spans.append((begin, end))
    return tuple(spans)


def _unit(sizes: Sequence[int], alignments: set[int]) -> int:
    """The largest number that divides every size and divides, or is a multiple of, every alignment."""
    unit = math.gcd(*sizes)
    while any(unit % alignment for alignment in alignments if alignment % unit):
        unit = math.gcd(unit, *(alignment for alignment in alignments if unit % alignment))
    return unit
