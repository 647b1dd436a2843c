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
from occ.units import round_up

CLIMB_PLACEMENTS = 1_000_000
"""Items that the local search stacks per unit of effort: about one second of one core."""

CPSAT_WORK = 2.0
"""CP-SAT's deterministic time per unit of effort: about twenty seconds of one core."""

CPSAT_ITEMS = 4_000
"""Beyond so many items CP-SAT is not asked."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Offsets in units of the problem. `floor` is a proven lower bound on the height, in bytes."""

    offsets: tuple[int, ...]
    height: int
    floor: int
    method: str


def place(items: Sequence[PlacementItem], *, height_limit: int | None = None, effort: int = 1) -> Placement:
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
    goal = round_up(bound, problem.unit) if limit is None else max(bound, limit)
    best = _dives(problem, bound, goal)
    if best.height > goal and effort > 0:
        offsets = tuple(climb(problem, best.offsets, goal, CLIMB_PLACEMENTS * effort))
        height = problem.height(offsets)
        if height < best.height:
            best = Solution(offsets, height, bound, "local search")
    if effort > 0 and len(problem.sizes) <= CPSAT_ITEMS:
        if limit is None:
            best = _lowest(problem, best, goal, CPSAT_WORK * effort)
        elif bound <= limit < best.height:
            best, _ = _ask(problem, best, problem.snap(limit), CPSAT_WORK * effort)
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


def _lowest(problem: Problem, best: Solution, goal: int, work: float) -> Solution:
    """Ask CP-SAT for `goal`, then for heights, in whole units, between what is open and what is reached.

    The first question may take three quarters of the work, each further one half of what is left. Whether the
    last bytes can be saved, those by which the highest item's padding may differ, gets a small share.
    """
    unit = problem.unit
    small, share = work / 20, work * 3 / 4
    low = target = goal // unit
    while low * unit < best.height and share >= small:
        best, spent = _ask(problem, best, target * unit, share)
        work -= spent
        share = work / 2
        if target * unit < best.height:
            low = target + 1
        target = (low + -(-best.height // unit)) // 2
    while best.floor < best.height < best.floor + unit:
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
