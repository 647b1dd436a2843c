"""The height that no placement can undercut."""

from __future__ import annotations

from itertools import accumulate

from occ.passes.placement.problem import Problem


def column_loads(problem: Problem) -> list[int]:
    """Units that are live in each column."""
    changes = [0] * (problem.columns + 1)
    for size, spans in zip(problem.sizes, problem.spans, strict=True):
        for first, last in spans:
            changes[first] += size
            changes[last] -= size
    return list(accumulate(changes))[: problem.columns]


def max_load(problem: Problem) -> int:
    """Bytes: the largest sum of live sizes over all columns, without the padding of the item on top.

    Items that are live together are stacked in some order, so that only the highest one's padding can lie
    outside; the column's largest padding is taken to be that one's.
    """
    largest_pad = [0] * problem.columns
    for pad, spans in zip(problem.pads, problem.spans, strict=True):
        if pad:
            for first, last in spans:
                largest_pad[first:last] = [max(pad, other) for other in largest_pad[first:last]]
    loads = column_loads(problem)
    return max((load * problem.unit - pad for load, pad in zip(loads, largest_pad, strict=True)), default=0)
