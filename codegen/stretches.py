"""Stretches of steps that a CUDA graph can replay as one: launching them one by one costs the host more time
than some of them take the device."""

from __future__ import annotations

from dataclasses import dataclass

from occ.codegen.cuda_routes import can_be_replayed
from occ.ir import BufferKind, Plan, Program, Step

LEAST_STEPS = 2
MOST_STEPS = 400
"""Steps of one stretch, whose text is one function."""

_CALLERS = frozenset({BufferKind.INPUT, BufferKind.OUTPUT})


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps [first, last), between which nothing is loaded or waited for."""

    first: int
    last: int

    @property
    def name(self) -> str:
        return f"stretch_{self.first}"


def stretches_of(plan: Plan) -> tuple[Stretch, ...]:
    """The longest stretches, in order; none without graphs. Their steps touch no tensor of the caller, whose
    address changes from run to run, and no load of a streamed tile or wait for one stands between them."""
    if not plan.machine.graphs:
        return ()
    cuts = {load.issue for load in plan.sizing.loads} | {load.deadline for load in plan.sizing.loads}
    found: list[Stretch] = []
    first = 0
    steps = plan.program.steps
    for index in range(len(steps) + 1):
        ends = index == len(steps) or not _fits(plan.program, steps[index])
        if ends or index in cuts or index - first >= MOST_STEPS:
            if index - first >= LEAST_STEPS:
                found.append(Stretch(first, index))
            first = index + 1 if ends else index
    return tuple(found)


def _fits(program: Program, step: Step) -> bool:
    kinds = {program.buffers[program.values[id].buffer].kind for id in (*step.reads, *step.writes)}
    return not step.stored and can_be_replayed(step.kernel) and not kinds & _CALLERS
