"""Budgets that choose themselves, and the promise they rest on: more memory never makes a plan slower."""

from __future__ import annotations

from zlib import crc32

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from occ.capture import capture
from occ.drafts import PlanningTarget
from occ.errors import BudgetError, UsageError
from occ.goals import (
    RESOLUTION,
    NearlyUnlimited,
    Plans,
    Smallest,
    WithinLatency,
    WithinProcess,
    first_within,
    parse_goal,
    parse_seconds,
    plan_for,
)
from occ.ir import Reader, Step, StepCost
from occ.ladder import SAME
from occ.lower import lower
from occ.passes.timing import predict
from occ.planning import plan
from occ.units import PAGE
from occ.verify import verify
from tests.comparing import as_call
from tests.planners import CALL_SECONDS, MACHINE, CurvePlanner, plans, target
from tests.programs import Program, programs
from tests.report.planned import stack
from tests.small_models import build


def small_program(name: str) -> Program:
    model = build(name)
    return lower(capture(model.module.eval(), as_call(model.example_inputs)), name, pack=False).program


@pytest.mark.parametrize(
    ("budget", "slowdown", "latency", "goal"),
    [
        (None, None, None, None),
        ("unlimited", None, None, None),
        ("512MB", None, None, 512_000_000),
        (4096, None, None, 4096),
        ("min", None, None, Smallest()),
        (" Auto ", None, None, NearlyUnlimited(0.05)),
        ("auto", "30%", None, NearlyUnlimited(0.3)),
        ("auto", 0.1, None, NearlyUnlimited(0.1)),
        (None, None, "120ms", WithinLatency(0.12)),
        (None, None, 1.5, WithinLatency(1.5)),
    ],
)
def test_goals_are_read(
    budget: str | int | None, slowdown: str | None, latency: str | None, goal: object
) -> None:
    assert parse_goal(budget, slowdown, latency) == goal


@pytest.mark.parametrize(
    ("budget", "slowdown", "latency", "said"),
    [
        ("half", None, None, "min, auto or unlimited"),
        ("12XB", None, None, "512MB"),
        ("0", None, None, "above zero"),
        ("64MB", "5%", None, "--budget auto"),
        (None, "5%", None, "--budget auto"),
        ("64MB", None, "3ms", "cannot both"),
        ("auto", "fast", None, "5%"),
        (None, None, "soon", "120ms"),
        (None, None, "0ms", "120ms"),
        (None, None, -1.0, "120ms"),
    ],
)
def test_what_is_no_goal_is_refused(
    budget: str | None, slowdown: str | None, latency: str | float | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        parse_goal(budget, slowdown, latency)


@given(st.floats(1e-6, 1e3))
def test_seconds_are_read_as_python_writes_them(seconds: float) -> None:
    assert parse_seconds(seconds) == seconds
    assert parse_seconds(f"{seconds * 1e3:.12f}ms") == pytest.approx(seconds)


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.floats(0.0, 1.0))
def test_the_first_budget_within_a_latency_is_found_in_few_plans(low: int, more: int, share: float) -> None:
    least, most = low * PAGE, (low + more) * PAGE
    step = least + int(share * (most - least))
    planner = CurvePlanner(least, most, lambda budget: 1.0 if budget >= step else 2.0)
    found = first_within(1.0, planner)
    assert found.prediction.latency <= 1.0
    assert found.budget.limit is not None
    assert step <= found.budget.limit <= max(step * (1 + 2 * RESOLUTION), step + 2 * PAGE)
    assert len(planner.asked) <= 20


def test_the_smallest_budget_is_taken_where_it_meets_the_latency() -> None:
    planner = CurvePlanner(PAGE, 1000 * PAGE, lambda budget: 1.0)
    assert plan_for(WithinLatency(1.0), planner).budget.limit == PAGE
    assert plan_for(NearlyUnlimited(0.05), planner).budget.limit == PAGE


def test_a_latency_that_no_budget_meets_is_refused_with_the_numbers() -> None:
    planner = CurvePlanner(PAGE, 1000 * PAGE, lambda budget: 0.25)
    with pytest.raises(UsageError, match=r"latency of 100 ms .* take 250 ms"):
        plan_for(WithinLatency(0.1), planner)


def test_a_process_budget_stands_alone() -> None:
    assert parse_goal(None, process_budget="512MB") == WithinProcess(512_000_000)
    for other in (("1MB", None, None), (None, None, "1s"), ("auto", "5%", None)):
        with pytest.raises(UsageError, match="stands alone"):
            parse_goal(*other, process_budget="512MB")
    with pytest.raises(UsageError, match="512MB"):
        parse_goal(None, process_budget="half")


@given(
    st.integers(1, 10**4),
    st.integers(0, 10**4),
    st.integers(0, 10**7),
    st.integers(0, 10**6),
    st.integers(0, 10**8),
)
def test_a_process_budget_holds_whatever_objects_take(
    low: int, more: int, base: int, objects: int, spare: int
) -> None:
    """Objects are most at the smallest budget, as there are most parts."""
    least, most = low * PAGE, (low + more) * PAGE
    planner = CurvePlanner(least, most, lambda budget: 1.0, lambda used: base + objects * least // used)
    smallest = planner.smallest.budget.process_total
    found = plan_for(WithinProcess(smallest + spare), planner).budget
    assert found.process_total <= smallest + spare == found.process_limit
    assert found.limit is not None
    assert found.total <= found.limit == smallest + spare - found.process
    assert found.total >= min(most, least + spare)
    assert len(planner.asked) <= 3
    with pytest.raises(BudgetError) as error:
        plan_for(WithinProcess(smallest - 1), planner)
    assert error.value.smallest == smallest
    for nbytes in (smallest, least, smallest - least):
        assert str(nbytes) in str(error.value)


@pytest.mark.parametrize("bandwidth", [3e8, 3e9])
def test_goals_are_met_by_real_plans(bandwidth: float) -> None:
    made = plans(stack(16), Reader(bandwidth, 1e-5, 1.05))
    least, unlimited = plan_for(Smallest(), made), plan_for(None, made)
    nearly = plan_for(NearlyUnlimited(0.2), made)
    for found in (least, nearly):
        verify(found)
        assert found.budget.limit is not None
        assert found.budget.total <= found.budget.limit
        assert plan(stack(16), found.budget.limit, target(Reader(bandwidth, 1e-5, 1.05))) == found
    assert nearly.prediction.latency <= 1.2 * unlimited.prediction.latency
    assert least.budget.limit is not None
    with pytest.raises(BudgetError):
        plan_for(least.budget.limit - PAGE, made)


@pytest.mark.parametrize("name", ["stack", "mlp", "resnet", "bert", "gpt2", "lstm_lm"])
def test_more_memory_never_makes_a_plan_slower(name: str) -> None:
    made = plans(stack(30) if name == "stack" else small_program(name), Reader(1e9, 1e-5, 1.05))
    low, high = made.smallest.budget.total, made.plan(None).budget.total
    before = float("inf")
    for number in range(20):
        latency = made.plan(low + (high - low) * number // 19).prediction.latency
        assert latency <= before * (1 + SAME)
        before = latency


@given(programs(max_operations=6), st.integers(0, 9), st.sampled_from([1e8, 1e9, 1e10]))
@settings(max_examples=25, deadline=None)
def test_more_memory_never_makes_any_plan_slower(program: Program, salt: int, bandwidth: float) -> None:
    """Whatever the kernels cost: parts may be faster than the whole, either way of waiting, and any step
    beside reads."""

    def measure(made: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
        facts = ((step.kernel, nbytes_of(made, step), salt) for step in made.steps)
        return tuple(
            StepCost(
                (CALL_SECONDS + nbytes / 20e9) * uneven(kernel, nbytes, salt, spin),
                4096,
                slowdown=None if spin == "default" else 0.4 + uneven(kernel, nbytes, salt) + salt % 2,
            )
            for kernel, nbytes, salt in facts
        )

    made = Plans(program, PlanningTarget(measure, Reader(bandwidth, 1e-5, 1.2, 1e-5), MACHINE, "passive"))
    low, high = made.smallest.budget.total, made.plan(None).budget.total
    before = float("inf")
    for number in range(12):
        latency = made.plan(low + (high - low) * number // 11).prediction.latency
        assert latency <= before * (1 + SAME)
        before = latency


def test_where_parts_compute_faster_all_the_memory_there_is_makes_no_plan_slower() -> None:
    def measure(made: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
        return tuple(StepCost(1e-4 if "[" in step.name else 1e-3, 4096) for step in made.steps)

    made = Plans(linears(4), PlanningTarget(measure, Reader(1e10, 1e-6, 1.05, 1e-6), MACHINE, "passive"))
    most = made.plan(None).budget.total
    before = float("inf")
    for share in (0.9, 0.95, 0.99, 1.0, 1.2):
        found = made.plan(int(most * share))
        verify(found)
        assert found.prediction.latency <= before * (1 + SAME)
        before = found.prediction.latency


def test_a_plan_counts_on_the_slowdown_of_its_own_steps() -> None:
    def measure(made: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
        return tuple(
            StepCost(2e-3, 4096, 1.5) if "[" in step.name else StepCost(1e-3, 4096, None)
            for step in made.steps
        )

    source = linears(6)
    plans = Plans(source, PlanningTarget(measure, Reader(2e9, 1e-5, 1.2), MACHINE, "passive"))
    assert plans.plan(None).reader.slowdown == 1.2
    split = plans.smallest
    costs = split.costs
    assert any(cost.slowdown == 1.5 for cost in costs)
    taken = sum(cost.seconds * (cost.slowdown or 1.2) for cost in costs)
    assert split.reader.slowdown == pytest.approx(taken / sum(cost.seconds for cost in costs), abs=1e-4)
    assert predict(split.sizing, costs, split.reader) == split.prediction


def linears(count: int) -> Program:
    network = nn.Sequential(*(nn.Linear(512, 512) for _ in range(count))).eval()
    return lower(capture(network, ((torch.randn(1, 512),), {})), "linears", pack=False).program


def nbytes_of(program: Program, step: Step) -> int:
    """Bytes that a step reads and writes."""
    extents = (program.values[value].extent for value in (*step.reads, *step.outs))
    return sum(last - first for first, last in extents)


def uneven(*facts: object) -> float:
    """A number from 0.6 to 1.4 that depends on the facts alone."""
    return 0.6 + 0.8 * (crc32(repr(facts).encode()) % 1000) / 1000
