"""Traces: complete, sound, true to the plan, and of the same run as without them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from occ.artifact import open_artifact
from occ.codegen.bundle import write_artifact
from occ.ir import Plan
from occ.report.spans import picture
from occ.runtime_stub.chrome import FIRST_READER, STEPS, chrome_trace
from occ.runtime_stub.facts import plan_facts
from occ.runtime_stub.program import Program
from occ.runtime_stub.trace import StepTrace
from occ.serialize import plan_to_json
from tests.report.planned import planned, stack
from tests.runtime.chrome_checker import Event, check
from tests.tiny_plans import EXAMPLES, Example, mlp, run_program, save_inputs


def write(example: Example, folder: Path) -> Path:
    write_artifact(folder / "model.occ", example.plan, example.plan.program, example.weight_bytes)
    return folder / "model.occ"


def document(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plan_to_json(plan))["plan"]
    return found


def traced(example: Example, folder: Path, from_start: bool = True, runs_before: int = 0) -> list[Event]:
    """The checked events of a run in this process."""
    artifact = open_artifact(write(example, folder))
    trace = StepTrace(artifact.text)
    given = trace if from_start else None
    with Program(artifact.path, artifact.manifest, artifact.text, artifact.page_crcs, given) as program:
        for _ in range(runs_before):
            program.run(example.inputs)
        outputs = program.run(example.inputs, trace=trace)
        program.settle()
    for ours, expected in zip(outputs, example.expected, strict=True):
        assert torch.equal(ours, expected)
    return check(json.loads(json.dumps(chrome_trace(trace, document(example.plan)))))


def slices(events: list[Event], category: str) -> list[Event]:
    return [event for event in events if event["ph"] == "X" and event["cat"] == category]


@pytest.mark.parametrize("name", ["mlp", "embedding", "counter", "aliases"])
def test_every_step_is_there_once_and_in_order(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]()
    found = slices(traced(example, tmp_path), "step")
    steps = example.plan.program.steps
    assert [event["name"] for event in found] == [step.name for step in steps]
    for number, (event, step) in enumerate(zip(found, steps, strict=True)):
        assert event["tid"] == STEPS
        assert event["args"]["step"] == number
        assert event["args"]["module"] == step.module
        assert event["args"]["kernel"] == step.kernel
    for before, after in pairwise(found):
        assert before["ts"] + before["dur"] <= after["ts"] + 0.0015


def test_every_load_and_its_bytes_are_there(tmp_path: Path) -> None:
    example = mlp()
    events = traced(example, tmp_path)
    sizing = example.plan.sizing
    reads = slices(events, "read")
    # Before the first run: what stays, and the head. By the run: every load, the next run's head too.
    wanted = [
        *sizing.resident,
        *(load.tile for load in sizing.loads if load.wraps),
        *(load.tile for load in sizing.loads),
    ]
    assert sorted(event["args"]["tile"] for event in reads) == sorted(wanted)
    for event in reads:
        tile = sizing.tiles[event["args"]["tile"]]
        assert event["tid"] >= FIRST_READER
        assert event["args"]["bytes"] == event["args"]["part bytes"] == tile.nbytes
        assert event["args"]["arena address"] == example.plan.tile_offsets[tile.id]
        assert event["args"]["module"]
        assert event["args"]["queued us"] >= 0
    assert {event["args"]["tile"] for event in slices(events, "load")} == {0, 1}
    assert [event["args"]["tile"] for event in slices(events, "wait")] == [2, 0, 1]
    assert slices(events, "start")


def test_a_later_run_has_its_own_loads_only(tmp_path: Path) -> None:
    example = mlp()
    events = traced(example, tmp_path, from_start=False, runs_before=2)
    assert sorted(event["args"]["tile"] for event in slices(events, "read")) == [0, 1]
    # Its head was asked for by the run before, so only the other tile's arrow leads from load to wait.
    arrows = [event for event in events if event["ph"] in "sf"]
    assert [event["ph"] for event in arrows].count("f") == 2
    ends = {(event["id"], event["ph"]): event["tid"] for event in arrows}
    assert set(ends.values()) <= {STEPS, *range(FIRST_READER, FIRST_READER + 2)}


def test_rows_of_a_table_are_reads_too(tmp_path: Path) -> None:
    reads = slices(traced(EXAMPLES["embedding"](), tmp_path), "read")
    assert any(event["name"].startswith("rows of ") for event in reads)


def test_counters_are_the_plan_and_the_reads(tmp_path: Path) -> None:
    example = mlp()
    events = traced(example, tmp_path)
    counters = [event for event in events if event["ph"] == "C"]
    in_use = [sum(e["args"].values()) for e in counters if e["name"].startswith("arena")]
    total = picture(example.plan).occupancy().total
    assert in_use[0] == total[0]
    assert set(in_use) <= set(total)
    rates = [(e["ts"], e["args"]["MB/s"]) for e in counters if e["name"].startswith("read bandwidth")]
    assert rates[-1][1] == 0.0
    moved = sum(rate * (after - at) for (at, rate), (after, _) in pairwise(rates))
    asked = sum(event["args"]["part bytes"] for event in slices(events, "read"))
    assert moved == pytest.approx(asked, rel=0.02)


@pytest.mark.parametrize(
    "plan",
    [planned(stack(12), share) for share in (0.2, 0.5, None)] + [make().plan for make in EXAMPLES.values()],
)
def test_bytes_in_use_are_those_of_the_report(plan: Plan) -> None:
    facts = plan_facts(document(plan))
    steps = range(len(plan.program.steps))
    occupancy = picture(plan).occupancy()
    assert tuple(sum(column[i] for column in facts.in_use.values()) for i in steps) == occupancy.total
    assert tuple(tile.nbytes for tile in facts.tiles) == tuple(tile.nbytes for tile in plan.sizing.tiles)


def test_the_artifact_writes_it_by_itself(tmp_path: Path) -> None:
    example = mlp()
    path = write(example, tmp_path)
    done = run_program(path, *save_inputs(example, tmp_path), "--trace", str(tmp_path / "t.json"))
    assert (done.returncode, done.stderr) == (0, "")
    events = check(json.loads((tmp_path / "t.json").read_text()))
    assert len(slices(events, "step")) == len(example.plan.program.steps)


def test_a_run_that_fails_ends_the_recording(tmp_path: Path) -> None:
    example = EXAMPLES["embedding"]()
    artifact = open_artifact(write(example, tmp_path))
    with Program(artifact.path, artifact.manifest, artifact.text, artifact.page_crcs) as program:
        trace = StepTrace(program.text)
        wrong = [torch.full_like(tensor, 10**6) for tensor in example.inputs]
        with pytest.raises(IndexError):
            program.run(wrong, trace=trace)
        asked = len(trace.jobs)
        program.run(example.inputs)
        assert len(trace.jobs) == asked


def test_statements_over_several_lines_and_calls_are_one_step(tmp_path: Path) -> None:
    text = "\n".join(
        [
            "# %% the run",
            "def steps_0():",
            "    # 0",
            "    load(3)     # a: 1 kB to 0x0, for step 0",
            "    first(",
            "        1, 2)",
            "    second.copy_(3)                 # 0 0x0-0x10",
            "",
            "    # 12 heads",
            "    wait(3)",
            "    third(4,",
            "        5)                          # 1",
        ]
    )
    calls: list[object] = []
    namespace: dict[str, Any] = {
        "load": calls.append,
        "wait": calls.append,
        "first": lambda a, b: calls.append((a, b)),
        "third": lambda a, b: calls.append((a, b)),
        "second": type("Out", (), {"copy_": lambda self, x: calls.append(x)})(),
    }
    exec(text, namespace)
    trace = StepTrace(text)
    [section] = trace.sections("program.py", [namespace["steps_0"]], namespace)
    section()
    assert calls == [3, (1, 2), 3, 3, (4, 5)]
    assert [(each.kind, each.number, each.text) for each in trace.events()] == [
        ("load", 3, "load(3)"),
        ("step", 0, "0 first"),
        ("step", 0, "0 second.copy_"),
        ("wait", 3, "wait(3)"),
        ("step", 1, "1 third"),
    ]
