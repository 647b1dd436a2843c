"""The text of a program: its form, and that nothing in a plan can break out of it."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from occ.codegen.emit import emit
from occ.codegen.names import identifiers
from occ.codegen.text import operand, wrap
from occ.errors import InternalError
from occ.ir import Buffer, BufferKind, Plan, Ref, Step, Symbol, Value
from occ.runtime_stub.cells import cells_of
from tests.tiny_plans import EXAMPLES, mlp


def long_plan(steps: int) -> Plan:
    """A chain of `steps` additions in one activation, with a long dotted name."""
    plan = mlp().plan
    program = plan.program
    name = "model.encoder.layers.0.attention.self.query.projection.with.a.long.name"
    chain = tuple(
        Step(f"add_{i}", f"model.layers.{i // 7}", "add", (("self", Ref(5)), ("other", Ref(5))), (5,))
        for i in range(steps)
    )
    values = tuple(replace(value, name=name) if value.buffer == 5 else value for value in program.values)
    return replace(
        plan,
        program=replace(program, steps=chain, values=values),
        sizing=replace(plan.sizing, loads=(), resident=(0, 1, 2)),
        costs=plan.costs[:1] * steps,
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_lines_fit_and_cells_are_python(name: str) -> None:
    plan = EXAMPLES[name]().plan
    text = emit(plan)
    assert text == emit(plan)
    assert max(map(len, text.splitlines())) <= 120
    assert "".join(cell for _, cell in cells_of(text)) == text
    for _, cell in cells_of(text):
        ast.parse(cell)


def test_loads_and_waits_stand_where_the_plan_puts_them() -> None:
    lines = emit(mlp().plan).splitlines()
    order = [line.split("#")[0].strip() for line in lines]
    steps = [text for text in order if text.startswith(("load(", "wait(", "torch."))]
    kinds = [text if text[:4] in ("load", "wait") else "step" for text in steps]
    # Tile 2 stays: only the first run may have to wait for it.
    assert kinds == ["wait(2)", "wait(0)", "step", "load(1)", "step", "wait(1)", "step", "load(0)", "step"]


def test_sections_are_short_and_the_whole_is_wrapped() -> None:
    text = emit(long_plan(250))
    assert max(map(len, text.splitlines())) <= 120
    assert "steps_0,\n    steps_1,\n    steps_2,\n" in text
    titles = [cell.splitlines()[0] for _, cell in cells_of(text)]
    assert "# %% steps 200 to 249" in titles


def test_hostile_names_stay_inside_comments_and_strings() -> None:
    plan = mlp().plan
    bad = 'x"""\nimport os # \\ \u2028 %%\n# %% cell'
    program = plan.program
    hostile = replace(
        plan,
        program=replace(
            program,
            name=bad,
            buffers=tuple(replace(buffer, name=bad) for buffer in program.buffers),
            values=tuple(replace(value, name=bad) for value in program.values),
            steps=tuple(replace(step, module=bad, name=bad) for step in program.steps),
            inputs=tuple(replace(entry, name=bad) for entry in program.inputs),
            outputs=tuple(replace(entry, name=bad) for entry in program.outputs),
        ),
        machine=replace(plan.machine, cpu=bad),
    )
    tree = ast.parse(emit(hostile))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert imported == ["torch"]
    titles = [cell.splitlines()[0] for _, cell in cells_of(emit(hostile))]
    assert "# %% cell" not in titles


def test_a_weight_in_two_tiles_is_refused() -> None:
    plan = mlp().plan
    tiles = tuple(replace(tile, nbytes=4096) for tile in plan.sizing.tiles)
    with pytest.raises(InternalError, match="no single tile"):
        emit(replace(plan, sizing=replace(plan.sizing, tiles=tiles)))


def test_an_output_in_the_arena_is_refused() -> None:
    plan = mlp().plan
    buffers = tuple(
        Buffer(buffer.id, buffer.name, BufferKind.ACTIVATION, buffer.nbytes)
        if buffer.kind is BufferKind.OUTPUT
        else buffer
        for buffer in plan.program.buffers
    )
    offsets = (*plan.buffer_offsets, (7, 0))
    with pytest.raises(InternalError, match="not the caller's"):
        emit(replace(plan, program=replace(plan.program, buffers=buffers), buffer_offsets=offsets))


def test_identifiers_are_unique_and_legal() -> None:
    names = [
        "x",
        "x",
        "h.0.weight",
        "0.weight",
        "print",
        "TILES",
        "steps_1",
        "lambda",
        "é",
        "",
        "x_2",
        "a" * 90,
    ]
    found = list(identifiers(dict(enumerate(names))).values())
    assert len(set(found)) == len(found)
    assert all(name.isidentifier() and name.isascii() for name in found)
    assert found[:4] == ["x", "x_2", "h_0_weight", "v0_weight"]
    assert not {"print", "TILES", "steps_1", "lambda"} & set(found)


def test_operands() -> None:
    def name_of(id: int) -> str:
        return f"v{id}"

    assert operand((Ref(1), None, (2,), -0.5), name_of) == "(v1, None, (2,), -0.5)"
    assert operand(Symbol("torch.int64"), name_of) == "torch.int64"
    assert operand(float("-inf"), name_of) == "-inf"
    assert operand("a'b", name_of) == '"a\'b"'


def test_wrapping_keeps_the_statement() -> None:
    text = f"torch.cat(({', '.join(f'name_{i}' for i in range(40))}), 1, out=value, mode='a, (b, \\', c')"
    lines = wrap(text, 4, 60)
    assert max(map(len, lines)) <= 60
    assert ast.dump(ast.parse("\n".join(lines).strip())) == ast.dump(ast.parse(text))


def test_values_outside_the_arena_have_no_address() -> None:
    """A view of an input at an offset, and one of an output whose buffer no output spans."""
    plan = EXAMPLES["aliases"]().plan
    program = plan.program
    half = Value(len(program.values), "half", 1, 12, "float32", (3,), (1,))
    outputs = (replace(program.outputs[0], value=half.id, name="half"),)
    changed = replace(program, values=(*program.values, half), outputs=outputs, output_tree={"tensor": 0})
    text = emit(replace(plan, program=changed))
    assert "(None, torch.uint8, (24,), (1,))," in text
    assert "half = view_of(output_1_bytes, torch.float32, (3,), (1,), 12)" in text
