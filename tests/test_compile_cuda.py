"""Compiling for CUDA where there is no GPU: options, plans, programs, and runs on a simulated device."""

from __future__ import annotations

import ast
import copy
import json
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import occ
from occ import cli
from occ.accelerator import accelerator_from_json, reader_for
from occ.artifact import open_artifact
from occ.capture import capture
from occ.codegen.stretches import stretches_of
from occ.costs import Model
from occ.cuda_child import measured
from occ.devices import device_of
from occ.errors import BudgetError, UsageError
from occ.feed import Feed, parse_feed
from occ.ir import BufferKind, Plan, Reader
from occ.lower import lower
from occ.measure import case_of
from occ.modelled import operations
from occ.planned import Compiled
from occ.replanning import replan
from occ.target import read_target
from occ.units import PAGE
from occ.verify import PlanError, verify
from tests.cuda_target import PROFILE, nominal, on_simulated_device
from tests.small_models import build

TARGET = nominal()


def compiled(name: str, folder: Path, budget: Any = None, **options: Any) -> tuple[Compiled, Any]:
    """A small model's artifact, and the model."""
    model = build(name)
    made = occ.compile(
        model.module,
        model.example_inputs,
        budget,
        folder / f"{name}.occ",
        name=name,
        target=TARGET,
        **options,
    )
    return made, model


# Runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream_from", ["ssd", "host"])
@pytest.mark.parametrize("name", ["mlp", "shufflenet", "gpt2", "llama_decode"])
def test_programs_equal_eager_mode_on_a_simulated_device(name: str, stream_from: str, tmp_path: Path) -> None:
    made, model = compiled(name, tmp_path, "min", stream_from=stream_from)
    inputs = model.example_inputs
    args, keywords = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    reference = copy.deepcopy(model.module)
    order = "copies first" if stream_from == "ssd" else "kernels first"
    with on_simulated_device(made.path, order) as loaded:
        assert made.plan.sizing.loads
        for _ in range(3):
            with torch.no_grad():
                wanted = [t for t in tree_leaves(reference(*args, **keywords)) if isinstance(t, Tensor)]
            given = [t.clone() for t in tree_leaves((args, keywords)) if isinstance(t, Tensor)]
            for found, other in zip(loaded.run(given), wanted, strict=True):
                torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-4)
        assert loaded.program.stats().host_nbytes <= made.plan.budget.host


def test_with_all_weights_on_the_device_nothing_is_streamed(tmp_path: Path) -> None:
    made, model = compiled("densenet", tmp_path)
    with on_simulated_device(made.path, "random", seed=1) as loaded, torch.no_grad():
        wanted = model.module(*model.example_inputs)
        [found] = loaded.run([x.clone() for x in model.example_inputs])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not made.plan.sizing.loads
    assert made.plan.prediction.streamed_nbytes == 0


# Artifacts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet_v3", "unet", "swin", "gru_speech"])
def test_artifacts_are_sound_to_their_last_line(name: str, tmp_path: Path) -> None:
    made, _ = compiled(name, tmp_path)
    artifact = open_artifact(made.path)
    assert artifact.plan == made.plan
    with zipfile.ZipFile(made.path) as archive:
        kernels = archive.read("triton_kernels.py").decode()
        assert "native.c" not in archive.namelist()
    defined = {node.name for node in ast.walk(ast.parse(kernels)) if isinstance(node, ast.FunctionDef)}
    called = {
        node.attr
        for node in ast.walk(ast.parse(artifact.text))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "triton_kernels"
    }
    assert called
    assert called <= defined
    assert max(map(len, artifact.text.splitlines())) <= 120
    with on_simulated_device(made.path, "random"):
        pass  # all cells of the program and all kernels are compiled; no step runs


def test_the_manifest_says_what_the_runtime_needs(tmp_path: Path) -> None:
    made, _ = compiled("mlp", tmp_path, stream_from="host")
    machine = open_artifact(made.path).manifest["machine"]
    assert machine["device"] == "cuda"
    assert machine["stream_from"] == "host"
    assert machine["ring_nbytes"] % PAGE == 0
    assert machine["ring_nbytes"] > 0
    assert machine["graphs"] is True
    assert machine["cublas_workspace_nbytes"] == made.plan.budget.workspace


def test_an_artifact_is_planned_anew(tmp_path: Path) -> None:
    made, _ = compiled("mlp", tmp_path, stream_from="host")
    again = replan(made.path, "min", tmp_path / "small.occ", target=TARGET)
    assert again.plan.machine.stream_from == "host"
    assert again.plan.budget.total < made.plan.budget.total
    other = replan(made.path, "min", tmp_path / "ssd.occ", target=TARGET, stream_from="ssd")
    assert other.plan.machine.stream_from == "ssd"


def test_stretches_hold_only_what_can_be_replayed(tmp_path: Path) -> None:
    made, _ = compiled("mlp", tmp_path, "min")
    plan, program = made.plan, made.plan.program
    found = stretches_of(plan)
    cuts = {load.issue for load in plan.sizing.loads} | {load.deadline for load in plan.sizing.loads}
    for stretch in found:
        assert stretch.last - stretch.first >= 2
        assert not cuts & set(range(stretch.first + 1, stretch.last))
        for step in program.steps[stretch.first : stretch.last]:
            kinds = {program.buffers[program.values[id].buffer].kind for id in (*step.reads, *step.writes)}
            assert not kinds & {BufferKind.INPUT, BufferKind.OUTPUT}
    for before, after in pairwise(found):
        assert before.last <= after.first
    without = replace(plan, machine=replace(plan.machine, graphs=False))
    assert stretches_of(without) == ()
    resident, _ = compiled("mlp", tmp_path)
    assert stretches_of(resident.plan)


# Memories ------------------------------------------------------------------------------------------------


def test_the_host_budget_bounds_the_ring(tmp_path: Path) -> None:
    with pytest.raises(BudgetError) as caught:
        compiled("mlp", tmp_path, host_budget=100)
    made, _ = compiled("mlp", tmp_path, "min", host_budget=caught.value.smallest)
    assert made.plan.budget.host <= caught.value.smallest
    verify(made.plan)


def test_the_host_budget_bounds_the_store(tmp_path: Path) -> None:
    wide, _ = compiled("mlp", tmp_path, "min", stream_from="host")
    needed = wide.plan.budget.host
    with pytest.raises(BudgetError, match="--stream-from ssd"):
        compiled("mlp", tmp_path, "min", stream_from="host", host_budget=needed // 2)
    compiled("mlp", tmp_path, "min", stream_from="host", host_budget=needed)


def test_a_device_that_is_too_small_is_named(tmp_path: Path) -> None:
    assert TARGET.accelerator is not None
    small = replace(TARGET, accelerator=replace(TARGET.accelerator, total_nbytes=600_100_000))
    model = build("mlp")
    with pytest.raises(UsageError, match="give a --budget of at most"):
        occ.compile(model.module, model.example_inputs, None, tmp_path / "m.occ", target=small)


def test_workspaces_are_counted(tmp_path: Path) -> None:
    made, _ = compiled("resnet", tmp_path)
    assert TARGET.accelerator is not None
    cublas, cudnn = TARGET.accelerator.cublas_workspace_nbytes, TARGET.accelerator.convolution_nbytes
    assert made.plan.budget.workspace == cublas + cudnn
    for step, cost in zip(made.plan.program.steps, made.plan.costs, strict=True):
        if step.kernel == "cudnn_convolution":
            assert cost.workspace == cublas + cudnn
        if step.kernel == "loop":
            assert cost.workspace == 0


@pytest.fixture
def streamed_plan(tmp_path: Path) -> Plan:
    return compiled("mlp", tmp_path, "min", stream_from="host")[0].plan


@pytest.mark.parametrize(
    ("machine", "budget"),
    [
        ({"stream_from": "tape"}, {}),
        ({"ring_nbytes": 0}, {}),
        ({"ring_nbytes": 4097}, {}),
        ({"device": "tpu"}, {}),
        ({"device": "cpu"}, {}),
        ({"packing": "avx512"}, {}),
        ({}, {"host": 4096}),
        ({}, {"host_limit": 4096}),
    ],
)
def test_the_verifier_refuses(machine: dict[str, Any], budget: dict[str, Any], streamed_plan: Plan) -> None:
    verify(streamed_plan)
    wrong = replace(
        streamed_plan,
        machine=replace(streamed_plan.machine, **machine),
        budget=replace(streamed_plan.budget, **budget),
    )
    with pytest.raises(PlanError):
        verify(wrong)


def test_the_verifier_refuses_a_load_before_the_last_reader(streamed_plan: Plan) -> None:
    """Two loads share bytes of the arena: the later one, asked for a step too early, takes them from steps
    that were queued before and may not have ended on the device."""
    loads = streamed_plan.sizing.loads
    wrong = 0
    for index, load in enumerate(loads):
        if load.wraps or load.issue == 0:
            continue
        early = replace(load, issue=0)
        changed = tuple(sorted((*loads[:index], early, *loads[index + 1 :]), key=lambda each: each.issue))
        try:
            verify(replace(streamed_plan, sizing=replace(streamed_plan.sizing, loads=changed)))
        except PlanError:
            wrong += 1
    assert wrong


# Options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "stream_from", "host", "more", "text"),
    [
        ("cpu", "host", None, {}, "--stream-from host is for a device"),
        ("cpu", None, "1GB", {}, "--host-budget 1GB is for a device"),
        ("cuda", None, None, {"process_budget": "1GB"}, "give --budget for the device"),
        ("cuda", None, None, {"portable": True}, "--portable is about layouts"),
        ("cuda", "tape", None, {}, "ssd or host"),
        ("cuda", None, "lots", {}, "cannot read 'lots' as a size"),
        ("tpu", None, None, {}, "there is no device 'tpu'"),
    ],
)
def test_options_that_do_not_go_together(
    device: str, stream_from: str | None, host: str | None, more: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        parse_feed(device, stream_from, host, **more)


def test_a_feed_is_read() -> None:
    assert parse_feed("cuda", None, None) == Feed("ssd", None)
    assert parse_feed("cuda", "host", "2GB") == Feed("host", 2_000_000_000)
    assert device_of(None, TARGET) == "cuda"
    assert device_of(None, None) == "cpu"
    with pytest.raises(UsageError, match="is for cuda and the program for cpu"):
        device_of("cpu", TARGET)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_profile_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.py"
    model.write_text("import torch\nmodel = torch.nn.Linear(4, 4)\nexample_inputs = (torch.ones(1, 4),)\n")
    assert cli.main(["compile", str(model), "--device", "cuda", "-o", str(tmp_path / "m.occ")]) == 2
    assert "pass --target" in capsys.readouterr().err
    assert cli.main(["profile", "--device", "cuda", "-o", str(tmp_path / "p.json")]) == 2
    assert "there is no CUDA device" in capsys.readouterr().err


def test_the_command_line_compiles_and_inspects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.py"
    model.write_text(
        "import torch\nmodel = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU())\n"
        "example_inputs = (torch.ones(1, 64),)\n"
    )
    made = str(tmp_path / "m.occ")
    target = tmp_path / "here.json"
    TARGET.write(target)
    options = ["--target", str(target), "--stream-from", "host", "--host-budget", "1GB", "--json"]
    assert cli.main(["compile", str(model), "--budget", "min", *options, "-o", made]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["machine"]["device"] == "cuda"
    assert facts["budget"]["host"] <= facts["budget"]["host_limit"] == 1_000_000_000
    assert cli.main(["inspect", made]) == 0
    shown = capsys.readouterr().out
    assert "pinned = ring" in shown
    assert "streams from host" in shown


# The model of costs --------------------------------------------------------------------------------------


def test_the_nominal_profile_says_that_it_is_nominal(tmp_path: Path) -> None:
    target = read_target(PROFILE)
    assert target.device == "cuda"
    assert target.accelerator is not None
    assert not target.accelerator.measured
    assert "nominal" in target.summary()
    target.write(tmp_path / "again.json")
    assert read_target(tmp_path / "again.json") == target


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("memory_rate", 0.0),
        ("copy_slowdown", 0.5),
        ("launch", -1.0),
        ("total_nbytes", -1),
        ("product_rates", {"float16": 1e12}),
        ("colour", "green"),
    ],
)
def test_a_profile_of_no_device_is_refused(key: str, content: object, tmp_path: Path) -> None:
    facts = json.loads(PROFILE.read_text())
    facts["accelerator"][key] = content
    path = tmp_path / "p.json"
    path.write_text(json.dumps(facts))
    with pytest.raises(UsageError, match="is not a target profile"):
        read_target(path)
    with pytest.raises((KeyError, ValueError)):
        accelerator_from_json(facts["accelerator"])


def test_weights_come_at_the_pace_of_the_slower_stage() -> None:
    assert TARGET.accelerator is not None
    link = TARGET.accelerator
    storage = Reader(1e9, 1e-4, 2.0)
    assert reader_for(storage, link, "host") == link.copier
    both = reader_for(storage, link, "ssd")
    assert both.bandwidth == 1e9
    assert both.overhead == pytest.approx(1e-4 + link.copy_overhead)
    assert both.slowdown == link.copy_slowdown


class Products(nn.Module):
    """One step of each kind that multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(6, 5)

    def forward(self, x: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = torch.nn.functional.scaled_dot_product_attention
        return self.conv(x), self.linear(x), attention(q, q, q, is_causal=True)


def test_operations_are_counted(tmp_path: Path) -> None:
    inputs = (torch.randn(1, 3, 6, 6), torch.randn(1, 2, 8, 16))
    made = occ.compile(Products(), inputs, None, tmp_path / "m.occ", target=TARGET)
    program = made.plan.program
    counted = {step.kernel: operations(program, step) for step in program.steps}
    assert counted["cudnn_convolution"] == 2 * (8 * 4 * 4) * (3 * 3 * 3)
    assert counted["linear"] == 2 * (3 * 6) * 6 * 5
    assert counted["native_attention"] == 2 * 2 * (2 * 8 * 8 * 16) // 2


def test_costs_are_the_larger_of_computing_and_moving() -> None:
    assert TARGET.accelerator is not None
    model = build("mlp")
    assert isinstance(model.example_inputs, tuple)
    captured = capture(model.module, (model.example_inputs, {}))
    program = lower(captured, "mlp", pack=False, native=True, device="cuda").program
    with Model(TARGET, TARGET.accelerator) as costs:
        plain = costs.measure(program, "default")
    slow = replace(TARGET.accelerator, memory_rate=TARGET.accelerator.memory_rate / 1000)
    with Model(TARGET, slow) as costs:
        slower = costs.measure(program, "default")
    assert all(one.seconds >= TARGET.accelerator.launch for one in plain)
    assert sum(one.seconds for one in slower) > sum(one.seconds for one in plain)


class Processor:
    """What measuring asks of a GPU, done by the processor."""

    place = torch.device("cpu")

    def seconds(self, calls: Any, count: int) -> float:
        calls()
        return 1.0 / count

    def peak_nbytes(self, action: Any) -> int:
        action()
        return 4096


def test_a_step_is_measured_as_it_is_called(tmp_path: Path) -> None:
    made, _ = compiled("mlp", tmp_path)
    program = made.plan.program
    with on_simulated_device(made.path, "random") as loaded:
        module = loaded.program._globals["triton_kernels"]
        for step in program.steps:
            case = case_of(program, step, "cuda")
            found = measured(json.loads(json.dumps(case.request)), Processor(), module)
            assert found == {"seconds": pytest.approx(0.05), "workspace": 4096}
