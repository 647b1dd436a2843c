"""Plans and programs as JSON and back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from occ.errors import ArtifactError
from occ.ir import Ref, SplitAxis, Step, StepCost, Symbol
from occ.serialize import plan_from_json, plan_to_json, program_from_json, program_to_json
from tests.tiny_plans import EXAMPLES, mlp


@pytest.mark.parametrize("name", EXAMPLES)
def test_round_trip(name: str) -> None:
    plan = EXAMPLES[name]().plan
    assert plan_from_json(plan_to_json(plan)) == plan
    assert program_from_json(program_to_json(plan.program).encode()) == plan.program


def test_every_kind_of_operand() -> None:
    plan = mlp().plan
    args = (
        ("nothing", None),
        ("flag", True),
        ("one", 1),
        ("unit", 1.0),
        ("infinite", -math.inf),
        ("text", 'a "quoted" é'),
        ("nested", (Ref(0), (Symbol("torch.int64"), ()), math.inf)),
        ("op", Symbol("aten.sort.default")),
        ("custom", Symbol("torch.ops.torchvision.nms.default")),
        ("dtype=", Symbol("torch.float8_e4m3fn")),
    )
    axis = SplitAxis("rows", 4, 2, (("input", 0),), (0,), staged=True)
    steps = (Step("s", "m", "k", args, (5,), (5,), (1,), (axis,)), *plan.program.steps[1:])
    changed = replace(plan, program=replace(plan.program, steps=steps), costs=(StepCost(math.inf, 0),) * 4)
    again = plan_from_json(plan_to_json(changed))
    assert again == changed
    assert [type(arg) for _, arg in again.program.steps[0].args[:4]] == [type(None), bool, int, float]


def test_a_line_per_step_and_stable_text() -> None:
    program = mlp().plan.program
    many = replace(program, steps=program.steps * 3000)
    text = program_to_json(many)
    assert program_from_json(text) == many
    assert sum('"kernel"' in line for line in text.splitlines()) == 12000
    assert text == program_to_json(program_from_json(text))


def _set(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("format", to=1),
        _set("format", to="2"),
        _set("extra", to=1),
        _set("plan", to=[]),
        _set("plan", "costs", to=[]),
        _set("plan", "costs", 0, to={"seconds": "1", "workspace": 0}),
        _set("plan", "tile_offsets", 0, to=-1),
        _set("plan", "tile_offsets", 0, to=1.0),
        _set("plan", "machine", "threads", to=0),
        _set("plan", "machine", "spin", to="1; rm"),
        _set("plan", "reader", to=None),
        _set("plan", "reader", "bandwidth", to=0.0),
        _set("plan", "reader", "overhead", to={"float": "nan"}),
        _set("plan", "reader", "slowdown", to=0.5),
        _set("plan", "reader", "interruption", to=-1.0),
        _set("plan", "reader", "lag", to=-1.0),
        _set("plan", "reader", "response", to=-1.0),
        _set("plan", "program", "buffers", 0, "kind", to="heap"),
        _set("plan", "program", "buffers", 0, "id", to=True),
        _set("plan", "program", "values", 0, "buffer", to=99),
        _set("plan", "program", "values", 0, "shape", to=[1]),
        _set("plan", "program", "values", 0, "shape", to=[1 << 60, 1]),
        _set("plan", "program", "values", 0, "dtype", to="float31"),
        _set("plan", "program", "values", 0, "surprise", to=0),
        _set("plan", "program", "steps", 0, "outs", to=[99]),
        _set("plan", "program", "steps", 0, "args", 0, to=["a", {"value": 99}]),
        _set("plan", "program", "steps", 0, "args", 0, to=["a", {"values": 1}]),
        _set("plan", "program", "steps", 0, "args", 0, to=["a", {"symbol": "torch.load"}]),
        _set("plan", "program", "steps", 0, "args", 0, to=["a", {"symbol": "__import__('os')"}]),
        _set("plan", "program", "steps", 0, "args", 0, to=["a", {"symbol": "torch.ops.load_library"}]),
        _set("plan", "program", "steps", 0, "args", 0, to=["a", {"symbol": "torch.ops.x.__self__.y"}]),
        _set("plan", "program", "steps", 0, "args", 0, to=["a=exit(),b", 1]),
        _set("plan", "program", "steps", 0, "args", 0, to=["a", {"float": "1"}]),
        _set("plan", "program", "inputs", 0, "value", to=99),
        _set("plan", "program", "grains", 0, "weight", to=-1),
        _set("plan", "program", "input_tree", to={"tensor": 0}),
        _set("plan", "program", "output_tree", to={"tensor": 1}),
        _set("plan", "program", "output_tree", to={"tensor": 0, "constant": 1}),
        _set("plan", "program", "output_tree", to={"set": []}),
        _set("plan", "sizing", "resident", to=[3]),
        _set("plan", "sizing", "tiles", 0, "last_grain", to=9),
        _set("plan", "sizing", "loads", 0, "last_use", to=4),
        _set("plan", "buffer_offsets", 0, to=[99, 0]),
        _set("plan", "budget", "arena", to=1 << 60),
    ],
)
def test_malformed_plans_are_refused(change: Callable[[Any], None]) -> None:
    document = json.loads(plan_to_json(mlp().plan))
    change(document)
    with pytest.raises(ArtifactError) as caught:
        plan_from_json(json.dumps(document))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[", "null", "[" * 100_000, b"\xff\xfe", '{"format": 3, "plan": NaN}'])
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ArtifactError):
        plan_from_json(text)


def test_lost_fields_are_named() -> None:
    document = json.loads(plan_to_json(mlp().plan))
    del document["plan"]["program"]["steps"][0]["kernel"]
    with pytest.raises(ArtifactError, match="lacks 'kernel'"):
        plan_from_json(json.dumps(document))
