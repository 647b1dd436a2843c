"""Every kind of network, compiled at several budgets, equals eager; plans hold when they run."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import occ
from occ.codegen.kernels import kernel_named
from occ.costs import Model
from occ.errors import BudgetError
from occ.ir import Plan, Program, StepCost
from occ.target import Target
from tests.comparing import as_call, relative_difference, tensors_in, tolerance
from tests.small_models import SMALL, build

SHARE = 0.25


def compiled(name: str, path: Path, budget: int | None, **options: object) -> Plan:
    model = build(name)
    return occ.compile(
        model.module, as_call(model.example_inputs), budget=budget, output=path, name=name, **options
    ).plan


def at_share(name: str, path: Path, share: float) -> Plan:
    """A plan at `share` of the demand, or at the smallest budget where that is larger."""
    model = build(name)
    call = as_call(model.example_inputs)
    whole = occ.compile(model.module, call, budget=None, output=path, name=name)
    try:
        return occ.replan(path, int(share * whole.source.demand), path).plan
    except BudgetError as error:
        return occ.replan(path, error.smallest, path).plan


@pytest.mark.parametrize("name", sorted(SMALL))
def test_equals_eager_at_a_quarter_of_the_demand(name: str, tmp_path: Path) -> None:
    model = build(name)
    args, kwargs = as_call(model.example_inputs)
    plan = at_share(name, tmp_path / "m.occ", SHARE)
    eager = copy.deepcopy(model.module)
    allowed = tolerance(model.module, model.example_inputs)
    with occ.load(tmp_path / "m.occ") as program, torch.no_grad():
        # The first run follows a cold start, the others are the steady state; states go on.
        for _ in range(3):
            expected = tensors_in(eager(*args, **kwargs))
            found = tensors_in(program(*args, **kwargs))
            assert relative_difference(found, expected) <= allowed
        assert program.stats().arena_nbytes == plan.budget.arena


@pytest.mark.parametrize("name", ["mlp", "resnet", "bert", "gpt2", "llama_decode", "lstm_lm", "unet"])
def test_equals_eager_at_the_smallest_budget_and_not_below(name: str, tmp_path: Path) -> None:
    model = build(name)
    args, kwargs = as_call(model.example_inputs)
    with pytest.raises(BudgetError) as refused:
        compiled(name, tmp_path / "m.occ", 4096)
    assert not list(tmp_path.iterdir())
    plan = compiled(name, tmp_path / "m.occ", refused.value.smallest)
    assert plan.budget.total <= refused.value.smallest
    with pytest.raises(BudgetError) as below:
        compiled(name, tmp_path / "below.occ", refused.value.smallest - 4096)
    assert below.value.smallest == refused.value.smallest
    with occ.load(tmp_path / "m.occ") as program, torch.no_grad():
        expected = tensors_in(copy.deepcopy(model.module)(*args, **kwargs))
        assert relative_difference(tensors_in(program(*args, **kwargs)), expected) <= 1e-4


@pytest.mark.parametrize("name", ["resnet", "bert", "llama"])
def test_portable_weights_equal_eager(name: str, tmp_path: Path) -> None:
    model = build(name)
    args, kwargs = as_call(model.example_inputs)
    plan = compiled(name, tmp_path / "m.occ", None, portable=True)
    assert not plan.machine.packing
    with pytest.raises(BudgetError) as refused:
        occ.replan(tmp_path / "m.occ", 4096, tmp_path / "s.occ")
    smaller = occ.replan(tmp_path / "m.occ", refused.value.smallest, tmp_path / "s.occ").plan
    assert smaller.sizing.loads
    for path in (tmp_path / "m.occ", tmp_path / "s.occ"):
        with occ.load(path) as program, torch.no_grad():
            expected = tensors_in(model.module(*args, **kwargs))
            assert relative_difference(tensors_in(program(*args, **kwargs)), expected) <= 1e-4


class EvenCosts(Model):
    """Every step takes a millisecond, so that nothing is gained by splitting one."""

    def __init__(self, target: Target, *_: object) -> None:
        self.target = target

    def measure(self, program: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
        return tuple(StepCost(1e-3, 4096) for _ in program.steps)


@pytest.mark.parametrize("name", ["resnet", "bert", "gpt2"])
def test_plans_with_equal_records_give_equal_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("occ.planned.measurer_for", EvenCosts)
    model = build(name)
    args, kwargs = as_call(model.example_inputs)
    large = compiled(name, tmp_path / "large.occ", None)
    small = at_share(name, tmp_path / "small.occ", 0.5)
    assert small.sizing.loads
    results = []
    for path in (tmp_path / "large.occ", tmp_path / "small.occ"):
        with occ.load(path) as program:
            results.append(tensors_in(program(*args, **kwargs)))
    # A row looked up is the same row, from memory or from the file.
    records = [
        [(kernel_named(s.kernel).name.replace("gather", "embedding"), s.name) for s in plan.program.steps]
        for plan in (large, small)
    ]
    assert records[0] == records[1]
    for left, right in zip(*results, strict=True):
        assert torch.equal(left, right)
