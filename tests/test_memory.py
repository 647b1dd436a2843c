"""Planned bytes against measured bytes: the allocator's count, and the budget's sum."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import occ
from benchmarks.control_group import NotPermittedError, control_group
from occ.runtime_stub.hugepages import HUGE_PAGE
from tests.comparing import as_call
from tests.memory_oracle import footprint
from tests.small_models import build
from tests.test_end_to_end import at_share

OBJECTS_NBYTES = 64 << 10
"""What the interpreter's own objects may take during a run: tensors' headers, frames, lists."""

PROGRAM_NBYTES = 4 << 20
"""What the program itself takes once loaded: its code, its views of the arena, the manifest."""

AROUND_NBYTES = 2 * HUGE_PAGE
"""What the counter counts of an arena's mapping before and behind its pages: addresses, and no memory
(tests/runtime/test_arena.py)."""

RUN = """
    import torch
    from occ.runtime_stub.program import load
    inputs = torch.load({inputs!r}, weights_only=True)
    program = load({path!r})
    for _ in range(3):
        outputs = program.run(inputs)
    del outputs
"""


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize(
    "name", ["resnet", "mobilenet_v3", "unet", "bert", "gpt2", "llama_decode", "vit", "lstm_lm", "yolo"]
)
def test_a_run_takes_no_more_than_its_budget_says(name: str, share: float, tmp_path: Path) -> None:
    model = build(name)
    args, kwargs = as_call(model.example_inputs)
    plan = at_share(name, tmp_path / "m.occ", share)
    torch.save([*args, *kwargs.values()], tmp_path / "inputs.pt")
    setup = RUN.format(inputs=str(tmp_path / "inputs.pt"), path=str(tmp_path / "m.occ"))
    taken = footprint(setup, "outputs = program.run(inputs)", tmp_path)
    budget = plan.budget
    assert taken.peak <= budget.outputs + budget.workspace + OBJECTS_NBYTES


@pytest.mark.parametrize("name", ["resnet", "bert", "llama"])
def test_the_arena_and_the_loader_take_what_the_budget_says(name: str, tmp_path: Path) -> None:
    """From before the load to after a run: arena, outputs, workspace, loader, and the program's own text."""
    model = build(name)
    args, kwargs = as_call(model.example_inputs)
    plan = at_share(name, tmp_path / "m.occ", 0.5)
    torch.save([*args, *kwargs.values()], tmp_path / "inputs.pt")
    setup = f"""
        import torch
        from occ.runtime_stub.program import load
        from occ.bench import warm_up
        inputs = torch.load({str(tmp_path / "inputs.pt")!r}, weights_only=True)
        warm_up()
        other = load({str(tmp_path / "m.occ")!r})
        other.run(inputs)
        other.close()
        del other
    """
    statement = f"program = load({str(tmp_path / 'm.occ')!r}); outputs = program.run(inputs)"
    taken = footprint(setup, statement, tmp_path)
    assert plan.budget.arena <= taken.peak <= plan.budget.total + PROGRAM_NBYTES + AROUND_NBYTES


def test_replanning_changes_the_arena_and_nothing_else(tmp_path: Path) -> None:
    whole = at_share("resnet", tmp_path / "m.occ", 1.0)
    small = occ.replan(tmp_path / "m.occ", whole.budget.total * 3 // 4, tmp_path / "s.occ").plan
    assert small.budget.total <= whole.budget.total * 3 // 4
    assert small.program.grains == whole.program.grains
    assert small.budget.outputs == whole.budget.outputs


SLACK_NBYTES = 24_000_000
WORKER = Path(__file__).parents[1] / "benchmarks" / "cgroup_worker.py"


def test_a_control_group_holds_the_budget_and_nothing_grows(tmp_path: Path) -> None:
    """64 MB of weights in a quarter of it: keeping them all, or any twice, would end the process."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(16)))
    inputs = (torch.randn(4, 1024),)
    path = tmp_path / "m.occ"
    budget = occ.compile(module, inputs, "16MB", path).plan.budget
    torch.save((inputs, {}), tmp_path / "inputs.pt")
    command = [sys.executable, str(WORKER), str(path), str(tmp_path / "inputs.pt"), "200", "30"]
    try:
        with control_group() as group:
            process = subprocess.Popen(
                group.joined(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            group.allow(group.usage() + budget.total + SLACK_NBYTES)
            answer, _ = process.communicate("go\n", timeout=300)
            assert process.returncode == 0
    except NotPermittedError as error:
        pytest.skip(f"NOT TESTED: {error}")
    assert json.loads(answer)["growth"] <= 2 << 20
