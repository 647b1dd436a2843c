"""The exact question "does it fit?", asked of OR-tools' CP-SAT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from occ.errors import InternalError
from occ.passes.placement.problem import Problem


class Verdict(Enum):
    """FITS comes with offsets, NEVER is a proof, OPEN means that the effort ran out."""

    FITS = "fits"
    NEVER = "never"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Answer:
    """Offsets are in units of the problem and empty unless the verdict is FITS. `work` is the deterministic
    time spent, in CP-SAT's own measure (very roughly ten seconds of one core each)."""

    verdict: Verdict
    offsets: tuple[int, ...]
    work: float


def fits(problem: Problem, height: int, order: Sequence[int], hint: Sequence[int], work: float) -> Answer:
    """Ask whether the items can be placed within `height` bytes, for at most `work` of deterministic time.

    One rectangle per item and span, `add_no_overlap_2d` over all of them, and a search that gives the item
    with the lowest possible offset that offset first, ties by `order` (a permutation of the items). One
    worker and no clock: the same question has the same answer everywhere. `hint` holds offsets of some
    placement (units), which may be higher than `height`.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    starts = {}
    columns, rows = [], []
    for item in order:
        size, alignment = problem.sizes[item], problem.alignments[item]
        highest = (height + problem.pads[item]) // problem.unit - size
        if highest < 0:
            return Answer(Verdict.NEVER, (), 0.0)
        if alignment == 1:
            start = model.new_int_var(0, highest, f"offset{item}")
            offset: cp_model.LinearExprT = start
        else:
            start = model.new_int_var(0, highest // alignment, f"multiple{item}")
            offset = start * alignment
        if hint:
            model.add_hint(start, min(hint[item], highest) // alignment)
        starts[item] = start
        row = model.new_fixed_size_interval_var(offset, size, f"bytes{item}")
        for first, last in problem.spans[item]:
            columns.append(model.new_fixed_size_interval_var(first, last - first, f"time{item}"))
            rows.append(row)
    model.add_no_overlap_2d(columns, rows)
    model.add_decision_strategy(
        list(starts.values()), cp_model.CHOOSE_LOWEST_MIN, cp_model.SELECT_MIN_VALUE
    )
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = work
    status = solver.solve(model)
    spent = float(solver.response_proto.deterministic_time)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        offsets = tuple(
            solver.value(starts[item]) * problem.alignments[item] for item in range(len(problem.sizes))
        )
        return Answer(Verdict.FITS, offsets, spent)
    if status == cp_model.INFEASIBLE:
        return Answer(Verdict.NEVER, (), spent)
    if status == cp_model.UNKNOWN:
        return Answer(Verdict.OPEN, (), spent)
    raise InternalError(f"CP-SAT answered {solver.status_name(status)} to a placement of {len(starts)} items")
