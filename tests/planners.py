"""Planners for tests: real ones with costs that need no measuring, and one with a curve of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from occ.drafts import PlanningTarget
from occ.errors import BudgetError
from occ.goals import Plans
from occ.ir import BufferKind, Machine, Plan, Program, Reader, StepCost
from tests.report.planned import planned, stack

MACHINE = Machine("cpu", 1, "default", "2.13.0", "any", "0" * 64)
READER = Reader(bandwidth=2e9, overhead=2e-5, slowdown=1.05)
CALL_SECONDS = 5e-6


def costs(program: Program, spin: str = "passive", resident: bool = False) -> tuple[StepCost, ...]:
    """A fixed time a step, and 20 GB/s for what it touches; of a table only the rows it gives."""
    found = []
    for step in program.steps:
        values = [program.values[value] for value in (*step.reads, *step.outs)]
        if step.kernel in ("embedding", "gather"):
            values = [v for v in values if program.buffers[v.buffer].kind is not BufferKind.WEIGHT]
        nbytes = sum(value.extent[1] - value.extent[0] for value in values)
        found.append(StepCost(CALL_SECONDS + nbytes / 20e9, 4096))
    return tuple(found)


def target(reader: Reader = READER) -> PlanningTarget:
    return PlanningTarget(costs, reader, MACHINE, "passive")


def plans(program: Program, reader: Reader = READER) -> Plans:
    return Plans(program, target(reader))


@dataclass
class CurvePlanner:
    """Plans whose latency is `curve(budget)`, from `least` bytes on; `most` is what no limit takes. Beside
    the budget their process takes `process(budget)` bytes. Every budget that is planned for is noted in
    `asked`."""

    least: int
    most: int
    curve: Callable[[int], float]
    process: Callable[[int], int] = lambda budget: 0
    asked: list[int | None] = field(default_factory=list)
    _like: Plan = field(default_factory=lambda: planned(stack(2)))

    @property
    def smallest(self) -> Plan:
        return self._made(self.least, self.least)

    def plan(self, limit: int | None, progress: Callable[[str], None] = lambda line: None) -> Plan:
        self.asked.append(limit)
        if limit is not None and limit < self.least:
            raise BudgetError("too small", self.least)
        return self._made(limit, self.most if limit is None else min(limit, self.most))

    def _made(self, limit: int | None, used: int) -> Plan:
        other = self._like.budget.total - self._like.budget.arena
        latency = self.curve(used)
        return replace(
            self._like,
            budget=replace(self._like.budget, limit=limit, arena=used - other, process=self.process(used)),
            prediction=replace(self._like.prediction, latency=latency),
        )
