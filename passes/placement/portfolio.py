"""From items to verified offsets: bound, dives, local search, CP-SAT, in the order of what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from occ.ir import Placement, PlacementItem
from occ.passes.placement.bound import max_load
from occ.passes.placement.cpsat import Verdict, fits
from occ.passes.placement.problem import Problem, column_starts, problem_of
from occ.passes.placement.search import climb
from occ.passes.placement.skyline import conflicts, dive, orders
from occ.passes.placement.validate import check_items, check_placement

CLIMB_PLACEMENTS = 1_000_000
"""Items that the local search stacks per unit of effort: about one second of one core."""

CPSAT_WORK = 2.0
"""CP-SAT's deterministic time per unit of effort: about twenty seconds of one core."""

CPSAT_RECTANGLES = 4_000
"""Beyond so many items building the model alone takes longer than the heuristics do."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Offsets in units of the problem. `floor` is a proven lower bound on the height, in bytes."""

    offsets: tuple[int, ...]
    height: int
    floor: int
    method: str


def place(
    items: Sequence[PlacementItem], *, height_limit: int | None = None, effort: int = 1
) -> Placement:
    """Give every item an offset so that no two share bytes at any step, as low as the effort allows.

    `height_limit` (bytes) is all that the caller needs: the search ends with the first placement within it,
    and after answering that question if there is none. Without one the search is for the least height.
    `effort` scales the counted work of the local search and of CP-SAT; 0 leaves the dives alone. A placement
    that is not within the limit is returned all the same: see `height`. The same arguments give the same
    result on every machine. Raises InternalError where an item breaks its contract, or where the answer
    fails the check that all answers go through.
    """
    check_items(items)
    filled = [index for index, item in enumerate(items) if item.nbytes and item.ranges]
    stacked, rest = _always_live([items[index] for index in filled])
    offsets = [0] * len(items)
    base = 0
    for position in stacked:
        offsets[filled[position]] = base
        base += items[filled[position]].nbytes
    if not rest:
        placement = Placement(tuple(offsets), base, base, True, "dive")
    else:
        problem = problem_of([items[filled[position]] for position in rest])
        bound = max_load(problem)
        limit = None if height_limit is None else height_limit - base
        solution = _solve(problem, bound, limit, effort)
        for position, offset in zip(rest, solution.offsets, strict=True):
            offsets[filled[position]] = base + offset * problem.unit
        placement = Placement(
            offsets=tuple(offsets),
            height=base + solution.height,
            bound=base + bound,
            optimal=solution.height == solution.floor,
            method=solution.method,
        )
    check_placement(items, placement)
    return placement


def _always_live(items: Sequence[PlacementItem]) -> tuple[list[int], list[int]]:
    """Positions of the items that can lie at the bottom at no cost, and of the others.

    These are live whenever anything is, and as many bytes as keep everything above them aligned: in any
    placement they can be taken out, what was above moved down, and all of it moved up on top of them.
    """
    if not items:
        return [], []
    multiple = math.lcm(*(item.alignment for item in items))
    columns = len(column_starts(items))
    everything = problem_of(items)
    always = [
        everything.duration(position) == columns and item.nbytes % multiple == 0
        for position, item in enumerate(items)
    ]
    stacked = [position for position, whole in enumerate(always) if whole]
    return stacked, [position for position, whole in enumerate(always) if not whole]


def _solve(problem: Problem, bound: int, limit: int | None, effort: int) -> Solution:
    goal = bound if limit is None else max(bound, limit)
    best = _dives(problem, bound, goal)
    if best.height > goal and effort > 0:
        offsets = tuple(climb(problem, best.offsets, goal, CLIMB_PLACEMENTS * effort))
        height = problem.height(offsets)
        if height < best.height:
            best = Solution(offsets, height, bound, "local search")
    within_reach = limit is None or limit >= bound
    if best.height > goal and effort > 0 and within_reach and len(problem.sizes) <= CPSAT_RECTANGLES:
        best = _bisect(problem, best, goal, limit is not None, CPSAT_WORK * effort)
    return best


def _dives(problem: Problem, bound: int, goal: int) -> Solution:
    neighbours = conflicts(problem)
    best: Solution | None = None
    for order in orders(problem):
        offsets = tuple(dive(problem, neighbours, order))
        height = problem.height(offsets)
        if best is None or height < best.height:
            best = Solution(offsets, height, bound, "dive")
        if height <= goal:
            break
    assert best is not None
    return best


def _bisect(problem: Problem, best: Solution, goal: int, only_goal: bool, work: float) -> Solution:
    """Ask CP-SAT for the goal, then, unless that is `only_goal`, for heights between what is open and what
    is reached; half of the work that is left goes into each question."""
    low = goal
    target = problem.snap(goal)
    while target < best.height:
        verdict, offsets, spent = _ask(problem, best, target, work if only_goal else work / 2)
        work -= spent
        if verdict is Verdict.FITS:
            best = Solution(offsets, problem.height(offsets), best.floor, "cp-sat")
        elif verdict is Verdict.NEVER:
            best = replace(best, floor=problem.snap(target + 1))
        if verdict is not Verdict.FITS:
            low = problem.snap(target + 1)
        if only_goal or work <= 0:
            break
        target = max(low, problem.snap((low + best.height) // 2 + 1 - problem.unit))
    return best


def _ask(
    problem: Problem, best: Solution, height: int, work: float
) -> tuple[Verdict, tuple[int, ...], float]:
    """One question, put with several orders of precedence one after another: which one is quick differs from
    problem to problem by a factor of a hundred, so each gets a share, and the first gets the rest."""
    ...
