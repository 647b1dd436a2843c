"""Local search over the sequence in which items are stacked."""

from __future__ import annotations

import random
from collections.abc import Sequence

from occ.passes.placement.problem import Problem
from occ.passes.placement.skyline import stack


def climb(problem: Problem, offsets: Sequence[int], goal: int, moves: int) -> list[int]:
    """Offsets (units) of a placement that is no higher than the given one.

    Takes an item, mostly one that ends above `goal` bytes, to another place in the sequence and keeps what
    makes neither the height nor, at the same height, the amount of bytes times columns above the goal larger.
    Ends at the goal or after `moves` tries, so that the effort is the same on every machine.
    """
    generator = random.Random(0)
    count = len(problem.sizes)
    durations = [problem.duration(item) for item in range(count)]
    goal_units = goal // problem.unit

    def excess(candidate: Sequence[int]) -> int:
        ends = (offset + size - goal_units for offset, size in zip(candidate, problem.sizes, strict=True))
        return sum(end * duration for end, duration in zip(ends, durations, strict=True) if end > 0)

    best = list(offsets)
    sequence = sorted(range(count), key=best.__getitem__)
    height, above = problem.height(best), excess(best)
    for _ in range(moves):
        if height <= goal:
            break
        critical = [q for q, item in enumerate(sequence) if best[item] + problem.sizes[item] > goal_units]
        taken = generator.choice(critical) if generator.random() < 0.7 else generator.randrange(count)
        candidate = list(sequence)
        item = candidate.pop(taken)
        if generator.random() < 0.5:
            target = generator.randrange(taken + 1)
        else:
            target = taken + generator.randint(-20, 20)
        candidate.insert(max(target, 0), item)
        stacked = stack(problem, candidate, height)
        if stacked is None:
            continue
        cost = (problem.height(stacked), excess(stacked))
        if cost <= (height, above):
            height, above = cost
            best = stacked
            sequence = sorted(candidate, key=best.__getitem__)
    return best
