"""The exact question "does it fit?", asked of OR-tools' CP-SAT."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from itertools import count

from occ.errors import InternalError
from occ.passes.placement.problem import Problem
from occ.passes.placement.skyline import orders, shaken_order

FIRST_SHARE = 0.05
SHARE = 0.15
"""Deterministic time for one try with one order; the first ones only catch what is easy."""


class Verdict(Enum):
    """FITS comes with offsets, NEVER is a proof, OPEN means that the effort ran out."""

    FITS = "fits"
    NEVER = "never"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Answer:
    """Offsets are in units of the problem and empty unless the verdict is FITS. `work` is the deterministic
    time spent, in CP-SAT's own measure (roughly ten to fifteen seconds of one core each)."""

    verdict: Verdict
    offsets: tuple[int, ...]
    work: float


def is_here() -> bool:
    """Whether OR-tools is installed; a machine that only runs programs may do without."""
    return find_spec("ortools") is not None


def fits(problem: Problem, height: int, work: float) -> Answer:
    """Ask whether the items can be placed within `height` bytes, for at most `work` of deterministic time.

    With one order of precedence the search can take a thousand times as long as with another, and which one
    is quick cannot be seen beforehand. So many orders get a small share of the work each: those of the dives
    first, then shaken ones. No clock is involved: the same question has the same answer on every machine.
    """
    plain = orders(problem)[:3]
    spent = 0.0
    for number in count():
        if number < len(plain):
            order, share = plain[number], FIRST_SHARE
        else:
            order, share = shaken_order(problem, number - len(plain)), SHARE
        answer = _search(problem, height, order, min(share, work - spent))
        spent += answer.work
        if answer.verdict is not Verdict.OPEN or spent >= work:
            break
    return Answer(answer.verdict, answer.offsets, spent)


def _search(problem: Problem, height: int, order: Sequence[int], work: float) -> Answer:
    """One try: a rectangle per item and span, `add_no_overlap_2d` over all of them, and a search that gives
    the item with the lowest possible offset that offset first, ties by `order`; then CP-SAT's own way.

    A placement that is too high is not given as a hint: with one, none of five hard instances was solved.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    multiples: dict[int, cp_model.IntVar] = {}
    columns, rows = [], []
    for item in order:
        size, alignment = problem.sizes[item], problem.alignments[item]
        highest = (height + problem.pads[item]) // problem.unit - size
        if highest < 0:
            return Answer(Verdict.NEVER, (), 0.0)
        multiple = model.new_int_var(0, highest // alignment, f"item{item}")
        multiples[item] = multiple
        start = multiple if alignment == 1 else multiple * alignment
        row = model.new_fixed_size_interval_var(start, size, f"bytes{item}")
        for first, last in problem.spans[item]:
            columns.append(model.new_fixed_size_interval_var(first, last - first, f"time{item}"))
            rows.append(row)
    model.add_no_overlap_2d(columns, rows)
    model.add_decision_strategy(
        list(multiples.values()), cp_model.CHOOSE_LOWEST_MIN, cp_model.SELECT_MIN_VALUE
    )
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.linearization_level = 0
    solver.parameters.max_deterministic_time = work
    # CP-SAT would take SIGINT for itself and end only the search; and no signal handler of Python's runs
    # while the main thread is in it, so the search has a thread of its own.
    solver.parameters.catch_sigint_signal = False
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(solver.solve, model)
        try:
            status = search.result()
        except BaseException:
            solver.stop_search()
            raise
    spent = float(solver.response_proto.deterministic_time)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        items = range(len(problem.sizes))
        offsets = tuple(solver.value(multiples[item]) * problem.alignments[item] for item in items)
        return Answer(Verdict.FITS, offsets, spent)
    if status == cp_model.INFEASIBLE:
        return Answer(Verdict.NEVER, (), spent)
    if status == cp_model.UNKNOWN:
        return Answer(Verdict.OPEN, (), max(spent, work))
    raise InternalError(f"CP-SAT answered {solver.status_name(status)} to a placement of {len(order)} items")
