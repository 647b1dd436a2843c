"""Budgets that choose themselves: the smallest that works, the smallest that is nearly as fast as no limit,
the smallest that meets a latency.

More memory never makes a plan slower, so the budget at which a latency is first met is found by bisection
over whole pages between the smallest budget that works and the one that holds everything. It ends when the
two sides are 1 % apart, after about nine plans.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import Protocol, Union

from occ import planning
from occ.drafts import PlanningTarget
from occ.errors import BudgetError, UsageError
from occ.ir import Plan, Program
from occ.units import PAGE, format_bytes, format_seconds, parse_bytes, round_up

RESOLUTION = 0.01
"""Relative distance below which a bisection ends."""

SLOWDOWN = 0.05
"""How much slower than without a limit `auto` may be by default."""

PROCESS_ATTEMPTS = 3
"""Plans made for a process budget."""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Smallest:
    """The smallest budget that works."""


@dataclass(frozen=True, slots=True)
class NearlyUnlimited:
    """The smallest budget whose predicted latency is at most 1 + `slowdown` times that without a limit."""

    slowdown: float


@dataclass(frozen=True, slots=True)
class WithinLatency:
    """The smallest budget whose predicted latency is at most `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WithinProcess:
    """What is left of `nbytes` beside the interpreter, torch and the program's own objects."""

    nbytes: int


Goal = Union[None, int, Smallest, NearlyUnlimited, WithinLatency, WithinProcess]
"""What a plan is made for: no limit, so many bytes, or a budget that chooses itself."""


class Planner(Protocol):
    """Plans of one program for one target. Budgets are bytes; None is no limit."""

    @property
    def smallest(self) -> Plan:
        """A plan with the smallest budget that works; its `budget.total` is that."""
        ...

    def plan(self, limit: int | None, progress: Progress = ...) -> Plan:
        """Raises BudgetError where `limit` is below the smallest budget."""
        ...


class Plans:
    """The plans of one unsplit program for one target, each made once."""

    def __init__(self, source: Program, target: PlanningTarget) -> None:
        self._planner = planning.Planner(source, target)
        self._made: dict[int | None, Plan] = {}

    @property
    def smallest(self) -> Plan:
        """The plan at the smallest budget that works."""
        return self.plan(self._planner.smallest.budget.total)

    def plan(self, limit: int | None, progress: Progress = lambda line: None) -> Plan:
        """The fastest plan for `limit` bytes, or the one without a limit. Raises BudgetError."""
        if limit not in self._made:
            self._made[limit] = self._planner.plan(limit, progress)
        return self._made[limit]


def parse_goal(
    budget: str | int | None,
    slowdown: str | float | None = None,
    latency: str | float | None = None,
    process_budget: str | int | None = None,
) -> Goal:
    """Read a goal as users write it.

    `budget` is None, "unlimited", "min", "auto", a size such as "512MB" or bytes. `slowdown` goes with
    "auto": "5%" or 0.05. `latency` stands in place of a budget: "120ms" or seconds; so does `process_budget`,
    a size or bytes. Raises UsageError for anything else.
    """
    if process_budget is not None:
        if budget is not None or slowdown is not None or latency is not None:
            raise UsageError(
                f"a process budget of {process_budget} stands alone;"
                " leave out --budget, --slowdown and --latency"
            )
        return WithinProcess(parse_bytes(process_budget))
    word = budget.strip().lower() if isinstance(budget, str) else None
    if slowdown is not None and word != "auto":
        raise UsageError(f"a slowdown of {slowdown} goes with --budget auto and with no other budget")
    if latency is not None:
        if budget is not None:
            raise UsageError(
                f"a budget of {budget} and a latency of {latency} cannot both be asked for; leave out one"
            )
        return WithinLatency(parse_seconds(latency))
    if budget is None or word == "unlimited":
        return None
    if word == "min":
        return Smallest()
    if word == "auto":
        return NearlyUnlimited(SLOWDOWN if slowdown is None else parse_share(slowdown))
    try:
        return parse_bytes(budget)
    except UsageError as error:
        if word is not None and not any(letter.isdigit() for letter in word):
            raise UsageError(f"{error}, or min, auto or unlimited") from error
        raise


def parse_seconds(text: str | float) -> float:
    """Read `120ms`, `0.5s`, `800us` or a plain number of seconds. Raises UsageError for anything else."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*(us|ms|s|)\s*", str(text), re.IGNORECASE)
    seconds = float(match[1]) * _SECONDS[match[2].lower() or "s"] if match else 0.0
    if not (seconds > 0.0 and isfinite(seconds)):
        raise UsageError(f"cannot read {text!r} as a time above zero; write for example 120ms, 1.5s or 800us")
    return seconds


def parse_share(text: str | float) -> float:
    """Read `5%` or `0.05`. Raises UsageError for anything else."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", str(text))
    if match is None:
        raise UsageError(f"cannot read {text!r} as a share; write for example 5% or 0.05")
    return float(match[1]) / (100.0 if match[2] else 1.0)


def plan_for(goal: Goal, planner: Planner, progress: Progress = lambda line: None) -> Plan:
    """The plan for a goal; its `budget.limit` is the budget that was chosen.

    Raises BudgetError where a given budget is below the smallest, and UsageError where a latency cannot be
    met even without a limit.
    """
    if goal is None or isinstance(goal, int):
        return planner.plan(goal, progress)
    if isinstance(goal, Smallest):
        smallest = planner.smallest
        return planner.plan(smallest.budget.total)
    if isinstance(goal, WithinProcess):
        return within_process(goal.nbytes, planner, progress)
    unlimited = planner.plan(None)
    progress(
        f"without a limit: {format_bytes(unlimited.budget.total)}, predicted latency"
        f" {format_seconds(unlimited.prediction.latency)}"
    )
    if isinstance(goal, NearlyUnlimited):
        return first_within(unlimited.prediction.latency * (1.0 + goal.slowdown), planner, progress)
    if unlimited.prediction.latency > goal.seconds:
        raise UsageError(
            f"{unlimited.program.name} cannot meet a latency of {format_seconds(goal.seconds)} with any"
            f" budget: with all weights in memory ({format_bytes(unlimited.budget.total)}) it is predicted to"
            f" take {format_seconds(unlimited.prediction.latency)}, all of it computing; ask for that, or"
            " compile for more threads or a faster target"
        )
    return first_within(goal.seconds, planner, progress)


def within_process(nbytes: int, planner: Planner, progress: Progress = lambda line: None) -> Plan:
    """The plan whose whole process takes at most `nbytes` bytes; its `budget.limit` is what is left of them.

    What a process takes besides depends on the plan, if little: a plan in fewer parts has fewer objects,
    which leaves more for the next attempt. Raises BudgetError, with the smallest process budget, where
    `nbytes` is below that of the smallest plan; just that many bytes work.
    """
    smallest = planner.smallest
    if nbytes < smallest.budget.process_total:
        raise BudgetError(
            f"a process budget of {nbytes} bytes ({format_bytes(nbytes)}) is too small for"
            f" {smallest.program.name}: the interpreter, torch and the program's objects take"
            f" {smallest.budget.process} bytes ({format_bytes(smallest.budget.process)}) and the smallest"
            f" budget beside them is {smallest.budget.total} ({format_bytes(smallest.budget.total)}),"
            f" together {smallest.budget.process_total} ({format_bytes(smallest.budget.process_total)})",
            smallest.budget.process_total,
        )
    best, beside = smallest, smallest.budget.process
    for _ in range(PROCESS_ATTEMPTS):
        limit = nbytes - beside
        if limit < smallest.budget.total:
            break
        made = planner.plan(limit)
        if made.budget.process + limit > nbytes:
            beside = made.budget.process
            continue
        best = made
        if made.budget.process == beside:
            break
        beside = made.budget.process
    progress(
        f"of a process budget of {format_bytes(nbytes)}, {format_bytes(best.budget.process)} are for the"
        f" interpreter, torch and the program's objects"
    )
    limit = nbytes - best.budget.process
    return replace(best, budget=replace(best.budget, limit=limit, process_limit=nbytes))


def first_within(seconds: float, planner: Planner, progress: Progress = lambda line: None) -> Plan:
    """The plan at the smallest budget, to RESOLUTION, whose predicted latency is at most `seconds`.

    The plan without a limit must meet it. The budget is a number of whole pages above the smallest one, and
    planning for just that many bytes gives the same plan.
    """

    def at(limit: int) -> Plan:
        made = planner.plan(limit)
        progress(
            f"at {format_bytes(limit)}: predicted latency {format_seconds(made.prediction.latency)},"
            f" {'within' if made.prediction.latency <= seconds else 'above'} {format_seconds(seconds)}"
        )
        return made

    low = planner.smallest.budget.total
    least = at(low)
    if least.prediction.latency <= seconds:
        return least
    unlimited = planner.plan(None)
    high, best = max(low, unlimited.budget.total), None
    while high - low > max(PAGE, RESOLUTION * low):
        middle = low + round_up(max(int(sqrt(low) * sqrt(high)) - low, PAGE), PAGE)
        if middle >= high:
            break
        made = at(middle)
        if made.prediction.latency <= seconds:
            high, best = middle, made
        else:
            low = middle
    if best is not None:
        return best
    whole = planner.plan(high)
    if whole.prediction.latency <= seconds:
        return whole
    return replace(unlimited, budget=replace(unlimited.budget, limit=high))
