"""Placing items one by one on top of what lies below them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from occ.passes.placement.problem import Problem

Integers = npt.NDArray[np.int64]


def orders(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Orders of precedence that are worth trying, as permutations of the items.

    By duration (at the same duration the coarser alignment first: padding is lost between fine and coarse),
    by area and by size, each with the largest first, and by the first column.
    """
    items = range(len(problem.sizes))
    sizes, alignments, spans = problem.sizes, problem.alignments, problem.spans
    duration = [problem.duration(item) for item in items]
    by_duration = sorted(items, key=lambda i: (-duration[i], -alignments[i], -sizes[i], spans[i]))
    by_area = sorted(items, key=lambda i: (-duration[i] * sizes[i], -duration[i], spans[i]))
    by_start = sorted(items, key=lambda i: (spans[i][0][0], -duration[i], -sizes[i]))
    by_size = sorted(items, key=lambda i: (-sizes[i], -duration[i], spans[i]))
    return tuple(by_duration), tuple(by_area), tuple(by_start), tuple(by_size)


def shaken_order(problem: Problem, number: int) -> tuple[int, ...]:
    """The `number`-th of endlessly many orders: by duration (even) or by area (odd), the largest first, after
    every duration or area was multiplied by a random number from 0.7 to 1.3."""
    generator = random.Random(number)
    items = range(len(problem.sizes))
    heights = problem.sizes if number % 2 else (1,) * len(items)
    weight = [problem.duration(i) * heights[i] * generator.uniform(0.7, 1.3) for i in items]
    return tuple(sorted(items, key=lambda i: (-weight[i], i)))


def conflicts(problem: Problem) -> tuple[Integers, ...]:
    """For every item the others that share a column with it, ascending."""
    segments = sorted(
        (first, last, item) for item, spans in enumerate(problem.spans) for first, last in spans
    )
    firsts, lasts, owners = (np.array(column, dtype=np.int64) for column in zip(*segments, strict=True))
    found = []
    for item, spans in enumerate(problem.spans):
        met = []
        for first, last in spans:
            begun = int(np.searchsorted(firsts, last))
            met.append(owners[:begun][lasts[:begun] > first])
        others = np.unique(np.concatenate(met))
        found.append(others[others != item])
    return tuple(found)


def dive(problem: Problem, neighbours: Sequence[Integers], order: Sequence[int]) -> list[int]:
    """Offsets (units) from placing, again and again, the item that can lie lowest; ties go by `order`.

    An item can lie on top of all items placed so far that it conflicts with: the skyline of the best-fit
    heuristic for strip packing (Burke, Kendall and Whitwell, Operations Research 52(4), 2004) with the
    horizontal positions given. `neighbours` is what `conflicts` returns.
    """
    count = len(problem.sizes)
    rank = np.empty(count, dtype=np.int64)
    rank[list(order)] = np.arange(count)
    alignment = np.array(problem.alignments, dtype=np.int64)
    aligned = bool((alignment == 1).all())
    done = np.iinfo(np.int64).max
    key = rank.copy()  # lowest offset * count + rank
    offsets = [0] * count
    for _ in range(count):
        item = int(key.argmin())
        offset = int(key[item]) // count
        offsets[item] = offset
        key[item] = done
        others = neighbours[item]
        end: int | Integers = offset + problem.sizes[item]
        if not aligned:
            multiple = alignment[others]
            end = -(-end // multiple) * multiple
        key[others] = np.maximum(key[others], end * count + rank[others])
    return offsets


def stack(problem: Problem, sequence: Sequence[int], height: int) -> list[int] | None:
    """Offsets (units) from placing the items in the given sequence, each on top of all before it that it
    conflicts with; None as soon as one would end above `height` bytes.

    Some sequence gives the least height: the items of a lowest placement, sorted by offset.
    """
    floor = [0] * problem.columns
    offsets = [0] * len(problem.sizes)
    unit, sizes, alignments, pads, all_spans = (
        problem.unit, problem.sizes, problem.alignments, problem.pads, problem.spans,
    )  # fmt: skip
    for item in sequence:
        spans = all_spans[item]
        first, last = spans[0]
        offset = max(floor[first:last])
        for first, last in spans[1:]:
            offset = max(offset, max(floor[first:last]))
        alignment = alignments[item]
        if offset % alignment:
            offset += alignment - offset % alignment
        end = offset + sizes[item]
        if end * unit - pads[item] > height:
            return None
        offsets[item] = offset
        for first, last in spans:
            floor[first:last] = [end] * (last - first)
    return offsets
