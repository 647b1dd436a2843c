"""From items to verified offsets: bound, dives, local search, CP-SAT, in the order of what they cost."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from occ.ir import Placement, PlacementItem
from occ.passes.placement.bound import max_load
from occ.passes.placement.cpsat import Verdict, fits, is_here
from occ.passes.placement.problem import Problem, problem_of
from occ.passes.placement.search import climb
from occ.passes.placement.skyline import conflicts, dive, orders, shaken_order
from occ.passes.placement.validate import check_items, check_placement
from occ.units import round_up

SHAKEN_DIVES = 32
"""Dives at most after those with the plain orders."""

DIVE_PLACEMENTS = 50_000
"""Items that these dives place at most: about half a second of one core."""

CLIMB_PLACEMENTS = 1_000_000
"""Items that the local search stacks per unit of effort at most: about one second of one core."""

CLIMB_MOVES_PER_ITEM = 20
"""Moves per item and unit of effort after which the local search of a small problem ends."""

CPSAT_WORK = 2.0
"""CP-SAT's deterministic time per unit of effort: about twenty to thirty seconds of one core."""

CPSAT_USUAL_ITEMS = 2_000
"""With more items a unit of deterministic time takes longer, so that they get less of it."""

CPSAT_MOST_ITEMS = 20_000
"""Beyond so many items building the model alone takes longer than the heuristics do: CP-SAT is not asked."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Offsets in units of the problem. `floor` is a proven lower bound on the height, in bytes."""

    offsets: tuple[int, ...]
    height: int
    floor: int
    method: str


def place(items: Sequence[PlacementItem], *, height_limit: int | None = None, effort: float = 1) -> Placement:
    """Give every item an offset so that no two share bytes at any step, as low as the effort allows.

    `height_limit` (bytes) is all that the caller needs: the search ends with the first placement within it,
    and after answering that question if there is none. Without one the search is for the least height.
    `effort` scales the counted work of the local search and of CP-SAT; 0 leaves the dives alone. A placement
    that is not within the limit is returned all the same: see `height`. The same arguments give the same
    result on every machine. Raises InternalError where an item breaks its contract, or where the answer
    fails the check that all answers go through.
    """
    check_items(items)
    stacked, rest = _always_live(items, [i for i, item in enumerate(items) if item.nbytes and item.ranges])
    offsets = [0] * len(items)
    base = 0
    for index in stacked:
        offsets[index] = base
        base += items[index].nbytes
    if not rest:
        placement = Placement(tuple(offsets), base, base, True, "dive")
    else:
        problem = problem_of([items[index] for index in rest])
        bound = max_load(problem)
        limit = None if height_limit is None else height_limit - base
        solution = _solve(problem, bound, limit, effort)
        for index, offset in zip(rest, solution.offsets, strict=True):
            offsets[index] = base + offset * problem.unit
        placement = Placement(
            offsets=tuple(offsets),
            height=base + solution.height,
            bound=base + bound,
            optimal=solution.height == solution.floor,
            method=solution.method,
        )
    check_placement(items, placement)
    return placement


def _always_live(items: Sequence[PlacementItem], indices: Sequence[int]) -> tuple[list[int], list[int]]:
    """Those of the given items that can lie at the bottom at no cost, and the others, as indices.

    The former are live whenever anything is, and as many bytes as keep everything above them aligned: in any
    placement they can be taken out, what was above moved down, and all of it moved up on top of them.
    """
    if not indices:
        return [], []
    chosen = [items[index] for index in indices]
    multiple = math.lcm(*(item.alignment for item in chosen))
    problem = problem_of(chosen)
    stacked: list[int] = []
    rest: list[int] = []
    for position, index in enumerate(indices):
        whole = problem.duration(position) == problem.columns
        (stacked if whole and items[index].nbytes % multiple == 0 else rest).append(index)
    return stacked, rest


def _solve(problem: Problem, bound: int, limit: int | None, effort: float) -> Solution:
    best = _dives(problem, bound, bound if limit is None else max(bound, limit))
    goal = round_up(bound, problem.granule) if limit is None else max(bound, limit)
    if best.height > goal and effort > 0:
        count = len(problem.sizes)
        moves = round(min(CLIMB_PLACEMENTS // count, CLIMB_MOVES_PER_ITEM * count) * effort)
        offsets = tuple(climb(problem, best.offsets, goal, moves))
        height = problem.height(offsets)
        if height < best.height:
            best = Solution(offsets, height, bound, "local search")
    if effort > 0 and len(problem.sizes) <= CPSAT_MOST_ITEMS and is_here():
        work = CPSAT_WORK * effort * min(1.0, CPSAT_USUAL_ITEMS / len(problem.sizes))
        if limit is None:
            best = _lowest(problem, best, work)
        elif bound <= limit < best.height:
            best, _ = _ask(problem, best, limit, work)
    return best


def _dives(problem: Problem, bound: int, goal: int) -> Solution:
    neighbours = conflicts(problem)
    shaken = min(SHAKEN_DIVES, DIVE_PLACEMENTS // len(problem.sizes))
    tries = chain(orders(problem), (shaken_order(problem, number) for number in range(shaken)))
    best = Solution((), sys.maxsize, bound, "dive")
    for order in tries:
        offsets = tuple(dive(problem, neighbours, order))
        height = problem.height(offsets)
        if height < best.height:
            best = replace(best, offsets=offsets, height=height)
        if height <= goal:
            break
    return best


def _lowest(problem: Problem, best: Solution, work: float) -> Solution:
    """Ask CP-SAT for the bound, then for heights between what is open and what is reached, all of them
    multiples of the coarsest alignment (a page where there are tiles), at last for the bytes within one.

    The first question may take three quarters of the work, each further one half of what is left; those for
    the last bytes, which an arena of whole pages hardly ever saves, a small share until one stays open.
    """
    granule = problem.granule
    small, share = work / 20, work * 3 / 4
    low = target = -(-best.floor // granule)
    while low * granule < best.height and share >= small:
        best, spent = _ask(problem, best, target * granule, share)
        work -= spent
        share = work / 2
        if target * granule < best.height:
            low = target + 1
        target = (low + -(-best.height // granule)) // 2
    while best.floor < best.height < best.floor + granule:
        before = best
        best, _ = _ask(problem, best, best.floor, small)
        if best == before:
            break
    return best


def _ask(problem: Problem, best: Solution, height: int, work: float) -> tuple[Solution, float]:
    """The better of `best` and what CP-SAT finds within `height` bytes, and the work that this took."""
    answer = fits(problem, height, work)
    if answer.verdict is Verdict.FITS:
        best = Solution(answer.offsets, problem.height(answer.offsets), best.floor, "cp-sat")
    elif answer.verdict is Verdict.NEVER:
        best = replace(best, floor=problem.snap(height + 1))
    return best, answer.work
