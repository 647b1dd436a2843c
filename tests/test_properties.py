"""Random programs at random budgets: whatever is planned is verified, and runs as the model says."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from occ.drafts import PlanningTarget
from occ.errors import BudgetError
from occ.ir import Plan, Program, Reader, Sizing, StepCost
from occ.passes.liveness import liveness
from occ.passes.placement.portfolio import place
from occ.passes.sizing import size, smallest_pool
from occ.planning import plan as plan_program
from occ.planning import smallest_budget
from occ.rewrite import rewrite
from occ.units import ALIGNMENT, PAGE, round_up
from occ.verify import PlanError, verify
from tests.programs import MACHINE, choices, placement_items, plan_of, programs, random_plan
from tests.reference_machine import PlannedMachine, Results, run_unplanned

RUNS = 3

thorough = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def run_planned(plan: Plan, seed: int) -> list[Results]:
    machine = PlannedMachine(plan, seed)
    return [machine.run(run) for run in range(RUNS)]


TARGET = PlanningTarget(
    measure=lambda program, spin, resident=False: [
        StepCost(1e-3 * (i % 5 + 1), 0) for i in range(len(program.steps))
    ],
    reader=Reader(bandwidth=1e7, overhead=1e-4),
    machine=MACHINE,
    streaming_spin="passive",
)


@given(st.data(), programs())
@thorough
def test_a_rewritten_program_computes_the_same(data: st.DataObject, program: Program) -> None:
    rewritten = rewrite(program, data.draw(choices(program)))
    assert run_unplanned(rewritten, 1) == run_unplanned(program, 1)


@given(st.data(), programs(), st.integers(0, 2**32))
@thorough
def test_a_correct_plan_is_accepted_and_computes_the_same(
    data: st.DataObject, program: Program, seed: int
) -> None:
    plan = random_plan(program, data.draw(choices(program)), seed)
    verify(plan)
    assert run_planned(plan, seed) == run_unplanned(program, RUNS)


@given(programs(max_operations=5), st.floats(0.0, 1.0), st.integers(0, 2**32))
@settings(parent=thorough, max_examples=25)
def test_what_is_planned_for_a_budget_is_accepted_and_computes_the_same(
    program: Program, share: float, seed: int
) -> None:
    smallest = smallest_budget(program, TARGET)
    largest = max(smallest, plan_program(program, None, TARGET).budget.total)
    made = plan_program(program, smallest + int(share * (largest - smallest)), TARGET)
    verify(made)
    assert run_planned(made, seed) == run_unplanned(program, RUNS)


@given(programs(max_operations=5))
@settings(parent=thorough, max_examples=10)
def test_the_smallest_budget_is_what_the_error_says(program: Program) -> None:
    smallest = smallest_budget(program, TARGET)
    verify(plan_program(program, smallest, TARGET))
    with pytest.raises(BudgetError) as refused:
        plan_program(program, smallest - 1, TARGET)
    assert refused.value.smallest == smallest


@given(st.data(), programs(), st.floats(0.0, 1.0), st.integers(0, 2**32))
@thorough
def test_any_choices_can_be_planned(data: st.DataObject, program: Program, share: float, seed: int) -> None:
    """Also splits and gathers that the search would never choose."""
    choice = data.draw(choices(program))
    rewritten = rewrite(program, choice)
    alive = liveness(rewritten)
    floor = smallest_pool(rewritten, alive).nbytes
    pool = floor + int(share * (alive.peak_nbytes + rewritten.file_nbytes - floor))
    sizing = size(rewritten, alive, TARGET.measure(rewritten, "passive"), TARGET.reader, pool)
    assert isinstance(sizing, Sizing)
    items = placement_items(rewritten, sizing)
    made = plan_of(rewritten, sizing, items, place(tuple(items.values()), effort=0), choice)
    verify(made)
    assert run_planned(made, seed) == run_unplanned(program, RUNS)


@given(st.data(), programs(), st.integers(0, 2**32))
@settings(parent=thorough, max_examples=200)
def test_a_damaged_plan_is_rejected_or_still_computes_the_same(
    data: st.DataObject, program: Program, seed: int
) -> None:
    damaged = damage(random_plan(program, data.draw(choices(program)), seed), Random(seed))
    assume(damaged is not None)
    assert damaged is not None
    try:
        verify(damaged)
    except PlanError:
        return
    expected = run_unplanned(program, RUNS)
    assert run_planned(damaged, seed) == expected
    assert run_planned(damaged, seed + 1) == expected


def damage(plan: Plan, random: Random) -> Plan | None:
    """The plan with one thing moved; None where it has no such thing."""
    what = random.choice(
        ["buffer", "tile", "issue", "deadline", "wrap", "last use", "drop", "resident", "swap"]
    )
    sizing, arena = plan.sizing, plan.budget.arena
    if what == "buffer" and plan.buffer_offsets:
        offsets = list(plan.buffer_offsets)
        number = random.randrange(len(offsets))
        offsets[number] = (offsets[number][0], random.randrange(0, round_up(arena, PAGE) + 1, ALIGNMENT))
        return replace(plan, buffer_offsets=tuple(offsets))
    if what == "tile" and sizing.tiles:
        tile_offsets = list(plan.tile_offsets)
        tile_offsets[random.randrange(len(tile_offsets))] = random.randrange(0, arena + 1, PAGE)
        return replace(plan, tile_offsets=tuple(tile_offsets))
    if what == "resident" and sizing.resident:
        return replace(plan, sizing=replace(sizing, resident=sizing.resident[1:]))
    if what == "swap" and len(sizing.tiles) > 1:
        return replace(plan, tile_offsets=plan.tile_offsets[::-1])
    if not sizing.loads:
        return None
    loads = list(sizing.loads)
    number = random.randrange(len(loads))
    load, last = loads.pop(number), len(plan.program.steps) - 1
    if what == "issue":
        loads.append(replace(load, issue=random.randint(0, last)))
    elif what == "deadline":
        loads.append(replace(load, deadline=random.randint(load.deadline, load.last_use)))
    elif what == "wrap":
        loads.append(replace(load, wraps=not load.wraps, issue=random.randint(0, last)))
    elif what == "last use":
        loads.append(replace(load, last_use=random.randint(load.deadline, last)))
    loads.sort(key=lambda load: load.issue)
    return replace(plan, sizing=replace(sizing, loads=tuple(loads)))
