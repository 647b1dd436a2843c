"""Plans without a limit: as fast as any with all weights resident, and no larger than that takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from occ.drafts import Drafts, Measure
from occ.ir import BufferKind, Choices, Program, Ref, SplitAxis, StepCost
from occ.planning import plan
from occ.units import PAGE
from occ.unlimited import SAME_SPEED, resident_draft
from occ.verify import verify
from tests.planners import target
from tests.programs import Builder, programs
from tests.reference_machine import PlannedMachine, run_unplanned

ROWS = 64


def wide_in_the_middle() -> Program:
    """Rows of four pages between rows of 64 bytes, all computed by themselves; one page of weights."""
    b = Builder()
    axis = SplitAxis("rows", ROWS, 1, (("x", 0),), (0,))
    before = b.input((ROWS, 16))
    for number, columns in enumerate((PAGE, PAGE, 16)):
        last = number == 2
        out = b.tensor(BufferKind.OUTPUT if last else BufferKind.ACTIVATION, (ROWS, columns))
        args = {"x": Ref(before), "salt": number, "rows": ((0,), (("x", 0),))}
        if last:
            args["weight"] = Ref(b.weight((PAGE // 4,)))
        b.step((out,), args, splits=(axis,))
        before = out
    b.output(before)
    return b.build()


def measure(call: float) -> Measure:
    """`call` seconds for every step, and 20 GB/s for what it writes."""

    def costs(program: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
        written = (
            sum(program.values[out].extent[1] - program.values[out].extent[0] for out in step.outs)
            for step in program.steps
        )
        return tuple(StepCost(call + nbytes / 20e9, 0) for nbytes in written)

    return costs


def test_bands_that_cost_no_time_are_taken() -> None:
    program = wide_in_the_middle()
    made = plan(program, None, replace(target(), measure=measure(0.0)))
    verify(made)
    assert made.choices.bands
    assert not made.sizing.loads
    assert made.budget.arena < ROWS * 4 * PAGE
    machine = PlannedMachine(made, 0)
    assert [machine.run(run) for run in range(2)] == run_unplanned(program, 2)


def test_bands_that_cost_time_are_left() -> None:
    made = plan(wide_in_the_middle(), None, replace(target(), measure=measure(1e-4)))
    assert made.choices == Choices()
    assert made.budget.arena > 2 * ROWS * 4 * PAGE


@pytest.mark.parametrize("call", [0.0, 1e-4])
def test_all_stays_where_there_is_as_much_room(call: float) -> None:
    """A limit that holds the plan without one is no reason to load anything."""
    program, on = wide_in_the_middle(), replace(target(), measure=measure(call))
    unlimited = plan(program, None, on)
    within = plan(program, unlimited.budget.total, on)
    assert not within.sizing.loads
    assert within.prediction.latency <= unlimited.prediction.latency


@given(programs(max_operations=6), st.sampled_from([0.0, 1e-8, 1e-6, 1e-4]))
@settings(max_examples=40, deadline=None)
def test_it_is_neither_slower_nor_larger_than_the_whole_program(program: Program, call: float) -> None:
    drafts = Drafts(program, replace(target(), measure=measure(call)))
    whole, found = drafts.resident(Choices()), resident_draft(drafts)
    assert found.compute <= SAME_SPEED * whole.compute
    assert found.liveness.peak_nbytes <= whole.liveness.peak_nbytes
