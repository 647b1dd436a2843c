"""The curve of latency over memory, and running its plans."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from occ.cli import main
from occ.errors import InternalError, UsageError
from occ.ir import Plan, Reader
from occ.sweep import default_budgets, knee_of, parse_budgets, sweep, table
from occ.trial import trial
from occ.units import PAGE
from tests.planners import plans
from tests.report.planned import planned, stack

NET = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 10))
example_inputs = (torch.randn(4, 256),)
"""


@given(st.integers(1, 10**5), st.integers(0, 10**6))
def test_default_budgets_go_from_the_smallest_to_unlimited(low: int, more: int) -> None:
    least, most = low * PAGE, (low + more) * PAGE
    budgets = default_budgets(least, most)
    assert budgets[0] == least
    assert budgets[-1] == most
    assert list(budgets) == sorted(set(budgets))
    assert len(budgets) <= 12
    assert all(budget % PAGE == 0 for budget in budgets)


def test_budgets_are_read_from_a_list() -> None:
    assert parse_budgets("64MB,128 MB,1GiB") == (64_000_000, 128_000_000, 2**30)
    with pytest.raises(UsageError, match="512MB"):
        parse_budgets("64MB,,1MB")


def test_a_curve_that_falls_and_then_is_flat_has_its_knee_there() -> None:
    budgets = [10, 20, 40, 80, 160, 320]
    assert knee_of(budgets, [8.0, 4.0, 2.0, 1.9, 1.8, 1.7]) == 2
    assert knee_of(budgets, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]) is None
    assert knee_of(budgets, [32.0, 16.0, 8.0, 4.0, 2.0, 1.0]) is None
    assert knee_of([10, 20], [2.0, 1.0]) is None


def test_points_say_what_the_plans_are() -> None:
    planner = plans(stack(12))
    swept = sweep(planner)
    assert swept.points[0].budget == swept.smallest
    assert swept.points[-1].budget == swept.unlimited
    assert swept.points[-1].loads == 0
    for point in swept.points:
        plan = planner.plan(point.budget)
        assert point.arena == plan.budget.arena
        assert point.used <= point.budget
        assert point.predicted == plan.prediction.latency
        assert point.predicted >= point.least_latency * (1 - 1e-9)
    assert json.loads(json.dumps(swept.as_dict()))["points"][0]["budget"] == swept.smallest


def test_budgets_that_are_too_small_are_listed_and_the_others_planned() -> None:
    planner = plans(stack(6))
    least = planner.smallest.budget.total
    swept = sweep(planner, [2 * least, PAGE, 2 * least])
    assert swept.too_small == (PAGE,)
    assert [point.budget for point in swept.points] == [2 * least]
    assert f"too small; the smallest that works is {least} bytes" in table(swept)
    with pytest.raises(UsageError, match=f"smallest that works is {least} "):
        sweep(planner, [PAGE])


def test_what_was_run_is_in_the_table() -> None:
    ran: list[int] = []

    def run(plan: Plan, eager: bool) -> tuple[float, float | None]:
        ran.append(plan.budget.arena)
        assert not eager
        return 0.0123, None

    planner = plans(stack(6), Reader(1e8, 0.0, 1.0))
    swept = sweep(planner, None, run)
    assert ran == [point.arena for point in swept.points]
    assert table(swept).count("12.3 ms") == len(swept.points)
    assert "measured" not in table(sweep(planner))


def test_eager_runs_once_beside_a_plan_that_streams_nothing() -> None:
    beside: list[int] = []

    def run(plan: Plan, eager: bool) -> tuple[float, float | None]:
        if eager:
            beside.append(len(plan.sizing.loads))
        return 0.0123, 0.0456 if eager else None

    planner = plans(stack(6), Reader(1e8, 0.0, 1.0))
    least = planner.smallest.budget.total
    for budgets in (None, [least, 2 * least]):
        swept = sweep(planner, budgets, run, with_eager=True)
        assert swept.eager == 0.0456
        assert beside == [0]
        assert "eager: 45.6 ms" in table(swept)
        beside.clear()
    assert sweep(planner, None, run).eager is None


def test_the_knee_is_marked_in_the_table() -> None:
    swept = replace(sweep(plans(stack(6))), knee=2)
    lines = table(swept).splitlines()
    assert [number for number, line in enumerate(lines) if line.endswith("  knee")] == [3]
    assert lines[-1].startswith("knee: ")


def test_a_plan_that_does_not_run_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    def write(path: Path, plan: Plan) -> None:
        path.write_text("no artifact")

    with pytest.raises(InternalError, match=r"does not run: .*plan\.occ"):
        trial(planned(stack(2)), write, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_measures_a_model_and_an_artifact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(NET)
    net, artifact, page = (str(tmp_path / name) for name in ("net.py", "net.occ", "curve.html"))
    argv = ["sweep", net, "--threads", "1", "--budgets", "1kB,1.5MB", "--measure", "--runs", "2"]
    assert main([*argv, "--html", page, "--json"]) == 0
    swept = json.loads(capsys.readouterr().out)
    [point] = swept["points"]
    assert swept["eager"] > 0
    assert swept["demand"] > swept["smallest"] / 2
    assert point["measured"] > 0
    assert point["least_latency"] <= point["predicted"] * (1 + 1e-6)
    assert point["streamed_nbytes"] > 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix) == ["curve.html", "net.py"]

    assert main(["compile", net, "--threads", "1", "--budget", "auto", "-o", artifact]) == 0
    capsys.readouterr()
    assert main(["sweep", artifact, "--budgets", "1.5MB", "--json"]) == 0
    [again] = json.loads(capsys.readouterr().out)["points"]
    assert again["arena"] == point["arena"]
    assert main(["sweep", artifact, "--portable"]) == 2
    assert "leave out --weights and --portable" in capsys.readouterr().err
