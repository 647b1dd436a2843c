"""A latency that no schedule beats: sizing with tiles made fluid, as a linear program.

Any part of a tile may stay in memory. What does not is loaded in any pieces and any order, at the best pace
that any tile is read at, as soon as there is room for it, and leaves after the tile's first use. All of this
is at least what a schedule can do, and all of it is linear:

    need(i)    bytes, not resident, of the tiles whose first use is at or before segment i
    loaded(i)  bytes loaded when segment i begins, those ahead at the beginning of the run included
    ended(i)   bytes loaded when it ends; what comes between that and the next one's beginning is waited for

    loaded(i) >= need(i)
    loaded(i) - need(i - 1) + resident + live bytes <= pool, and so for ended(i)
    seconds(i) >= computing, slowed by the reading beside it, and >= (ended(i) - loaded(i)) / pace
    sum of seconds and waits >= reading of all that is not resident, overheads included

Segments begin where tiles are first used. The least sum of seconds and waits is the bound. It depends on the
steps, the tiles and the pool, not on the residents and loads that a plan chose: a plan's latency over it says
how much another choice could gain at most.
"""

from __future__ import annotations

from itertools import pairwise

from occ.errors import InternalError
from occ.ir import Plan
from occ.passes.liveness import liveness
from occ.passes.prefetch import Problem, make_problem
from occ.passes.tiling import tile_uses

TOLERANCE = 1e-6
"""Relative error that the solver's answer may have; the bound is lower by so much."""


def least_latency_of(plan: Plan) -> float:
    """Seconds of a run that no schedule of a plan's steps and tiles beats in the arena its budget allows."""
    sizing, budget = plan.sizing, plan.budget
    if not sizing.loads:
        return plan.prediction.compute
    outside = budget.total - budget.arena
    arena = budget.arena if budget.limit is None else max(budget.arena, budget.limit - outside)
    problem = make_problem(
        sizing.tiles,
        tile_uses(plan.program, sizing.tiles),
        liveness(plan.program).live_nbytes,
        [cost.seconds for cost in plan.costs],
        plan.reader,
        arena,
    )
    return least_latency(problem)


def least_latency(problem: Problem) -> float:
    """Seconds of a run in the steady state that no schedule of `problem` beats.

    Solved by GLOP (0.2 s for 800 tiles). Raises InternalError where the pool holds no step with its tiles.
    """
    from ortools.linear_solver import pywraplp

    if not len(problem.tiles):
        return problem.compute
    solver = pywraplp.Solver.CreateSolver("GLOP")
    infinity = solver.infinity()
    # In units of the largest tile and of its reading, numbers are of similar size.
    byte, second = 1.0 / float(problem.nbytes.max()), 1.0 / float(problem.reads.max())
    nbytes, reads = (problem.nbytes * byte).tolist(), (problem.reads * second).tolist()
    pace = max(size / read for size, read in zip(nbytes, reads, strict=True))
    kept = [solver.NumVar(0.0, 1.0, "") for _ in problem.tiles]
    resident = solver.NumVar(0.0, infinity, "")
    pool = problem.pool_nbytes * byte
    solver.Add(resident == solver.Sum([size * part for size, part in zip(nbytes, kept, strict=True)]))

    first_used: dict[int, list[int]] = {}
    for tile, uses in enumerate(problem.uses.of_tile):
        if uses:
            first_used.setdefault(uses[0], []).append(tile)
    begins = sorted({0, *first_used})
    slowing = 1.0 - 1.0 / problem.slowdown
    loaded = [solver.NumVar(0.0, infinity, "") for _ in (*begins, problem.steps)]
    need, latency = solver.NumVar(0.0, 0.0, ""), []
    for segment, (begin, end) in enumerate(pairwise([*begins, problem.steps])):
        gone = need
        used = first_used.get(begin, [])
        if used:
            need = solver.NumVar(0.0, infinity, "")
            solver.Add(need == gone + solver.Sum([nbytes[tile] * (1.0 - kept[tile]) for tile in used]))
            solver.Add(loaded[segment] >= need)
        before, after, following = loaded[segment], solver.NumVar(0.0, infinity, ""), loaded[segment + 1]
        live = (problem.base[begin:end] * byte).tolist()
        # Of a tile that is used in the segment's first step alone, nothing need be left in the others.
        solver.Add(before - gone + resident + live[0] <= pool)
        left = gone if end == begin + 1 else need
        solver.Add(before - left + resident + max(live) <= pool)
        solver.Add(after - left + resident + live[-1] <= pool)
        computing = float(problem.clock[end] - problem.clock[begin]) * second
        seconds = solver.NumVar(computing, infinity, "")
        reading = (after - before) * (1.0 / pace)
        solver.Add(after >= before)
        solver.Add(following >= after)
        solver.Add(seconds >= reading)
        if slowing > 0.0:
            solver.Add(seconds >= computing + slowing * reading)
        latency += [seconds, (following - after) * (1.0 / pace)]
    solver.Add(loaded[-1] == need + loaded[0])
    total = solver.Sum(latency)
    streamed = solver.Sum([read * (1.0 - part) for read, part in zip(reads, kept, strict=True)])
    solver.Add(total >= streamed)
    loads = solver.Sum([1.0 - part for part in kept])
    lost = problem.interruption * second
    solver.Add(total >= problem.compute * second + lost * loads + slowing * (streamed - lost * loads))
    solver.Minimize(total)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        raise InternalError(f"no latency bounds a pool of {problem.pool_nbytes} bytes from below")
    return float(solver.Objective().Value()) / second * (1.0 - TOLERANCE)
