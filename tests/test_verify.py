"""Every promise of a plan, broken once: the verifier finds it and says where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from occ.ir import BufferKind, Choices, Load, Plan, Program, Ref, Sizing, SplitAxis, StepCost, Tile
from occ.rewrite import rewrite
from occ.units import ALIGNMENT, PAGE
from occ.verify import PlanError, verify
from tests.programs import Builder, fitted_plan

HUGE = (8, PAGE)
"""A weight of eight rows of four pages."""


def model() -> Program:
    """x -> two layers with weights of 128 KiB -> an update of state -> the output; steps 0 to 4."""
    b = Builder()
    x = b.input((4, 8))
    hidden = b.mix((4, 100), x, b.weight(HUGE, 1))
    wide = b.mix((4, 200), hidden, b.weight(HUGE, 1))
    cache = b.state((4, 4))
    b.step((b.value(b.values[cache].buffer, (4, 4)),), {"x": Ref(wide), "cache": Ref(cache)})
    last = b.mix((4, 100), wide, hidden)
    out = b.tensor(BufferKind.OUTPUT, (4, 100))
    b.step((out,), {"x": Ref(last), "cache": Ref(cache)})
    b.output(out)
    return b.build()


def tiles_of(program: Program) -> tuple[Tile, ...]:
    """One tile per weight of eight grains."""
    return tuple(
        Tile(number, first, first + 8, program.grains[first].file_offset, 8 * 4 * PAGE)
        for number, first in enumerate(range(0, len(program.grains), 8))
    )


STREAMED = (Load(1, 1, 1, 1), Load(0, 3, 0, 0, wraps=True))


def plan(loads: tuple[Load, ...] = STREAMED, resident: tuple[int, ...] = ()) -> Plan:
    program = model()
    sizing = Sizing(tiles_of(program), resident, loads, 0)
    return fitted_plan(program, sizing)


def buffer_id(made: Plan, name: str) -> int:
    return next(buffer.id for buffer in made.program.buffers if buffer.name == name)


def with_offset(made: Plan, buffer: int, offset: int) -> Plan:
    moved = tuple((b, offset if b == buffer else at) for b, at in made.buffer_offsets)
    return replace(made, buffer_offsets=moved)


def with_loads(made: Plan, *loads: Load) -> Plan:
    return replace(made, sizing=replace(made.sizing, loads=loads))


def with_program(made: Plan, **changes: object) -> Plan:
    return replace(made, program=replace(made.program, **changes))  # type: ignore[arg-type]


def test_both_tiles_share_bytes_when_streamed() -> None:
    made = plan()
    verify(made)
    assert made.tile_offsets[0] == made.tile_offsets[1]


def test_resident_tiles_do_not_share_bytes() -> None:
    made = plan(loads=(), resident=(0, 1))
    verify(made)
    assert made.tile_offsets[0] != made.tile_offsets[1]


def test_a_tile_may_be_loaded_twice_a_run() -> None:
    b = Builder()
    shared, between = b.weight(HUGE, 1), b.weight(HUGE, 1)
    x = b.mix((4, 4), b.input((4, 4)), shared)
    x = b.mix((4, 4), x, between)
    out = b.tensor(BufferKind.OUTPUT, (4, 4))
    b.step((out,), {"x": Ref(x), "weight": Ref(shared)})
    b.output(out)
    program = b.build()
    loads = (Load(0, 0, 0, 0), Load(1, 1, 1, 1), Load(0, 2, 2, 2))
    sizing = Sizing(tiles_of(program), (), loads, 0)
    made = fitted_plan(program, sizing)
    verify(made)
    assert made.tile_offsets[0] == made.tile_offsets[1]
    with pytest.raises(PlanError, match=r"step 2 \(step2\) reads v0 in tile 0, which is not loaded"):
        verify(with_loads(made, *loads[:2]))


def test_two_live_buffers_on_the_same_bytes() -> None:
    made = plan()
    hidden, wide = buffer_id(made, "activation2"), buffer_id(made, "activation4")
    with pytest.raises(PlanError, match=r"buffer activation4 takes bytes .* in use by buffer activation2"):
        verify(with_offset(made, wide, dict(made.buffer_offsets)[hidden]))


def test_a_buffer_over_a_tile_that_the_step_reads() -> None:
    made = plan()
    with pytest.raises(PlanError, match=r"step 1 .* in use by the load of tile 1"):
        verify(with_offset(made, buffer_id(made, "activation4"), made.tile_offsets[1]))


def test_a_buffer_over_state() -> None:
    made = plan()
    state = made.program.states[0].buffer
    with pytest.raises(PlanError, match=r"in use by buffer state5"):
        verify(with_offset(made, buffer_id(made, "activation2"), dict(made.buffer_offsets)[state]))


def test_a_load_before_the_last_reader_of_its_bytes() -> None:
    made = plan()
    with pytest.raises(
        PlanError, match=r"load of tile 1 takes bytes .* before step 0.* by the load of tile 0"
    ):
        verify(with_loads(made, Load(1, 0, 1, 1), STREAMED[1]))


def test_a_load_whose_deadline_is_after_its_first_use() -> None:
    with pytest.raises(PlanError, match=r"step 1 \(step1\) reads v3 in tile 1, which is not loaded"):
        verify(with_loads(plan(), Load(1, 1, 2, 2), STREAMED[1]))


def test_a_load_for_this_run_that_was_for_the_next() -> None:
    with pytest.raises(PlanError, match=r"submitted at step 3 in the same run, and is due at step 0"):
        verify(with_loads(plan(), STREAMED[0], replace(STREAMED[1], wraps=False)))


def test_a_tile_that_nothing_loads() -> None:
    with pytest.raises(PlanError, match=r"step 0 \(step0\) reads v1 in tile 0, which is not loaded"):
        verify(with_loads(plan(), STREAMED[0]))


def test_loads_out_of_order() -> None:
    with pytest.raises(PlanError, match=r"stands in the queue behind that of tile 0"):
        verify(with_loads(plan(), *reversed(STREAMED)))


def test_a_load_of_a_resident_tile() -> None:
    made = plan(loads=STREAMED[:1], resident=(0,))
    with pytest.raises(PlanError, match=r"tile 0 is loaded at every run, but is resident"):
        verify(with_loads(made, *STREAMED))


def test_a_step_that_reads_the_wrong_tile() -> None:
    made = plan()
    first, second = made.sizing.tiles
    swapped = (replace(second, id=0), replace(first, id=1))
    with pytest.raises(PlanError, match=r"is not loaded"):
        verify(replace(made, sizing=replace(made.sizing, tiles=swapped)))


def test_a_weight_cut_across_tiles() -> None:
    made = plan()
    first, second = made.sizing.tiles
    half = first.nbytes // 2
    cut = (
        replace(first, last_grain=4, nbytes=half),
        second,
        Tile(2, 4, 8, first.file_offset + half, half),
    )
    with pytest.raises(PlanError, match=r"reads v1, whose bytes 0-131072 are not all in one tile"):
        verify(replace(made, sizing=replace(made.sizing, tiles=cut), tile_offsets=(*made.tile_offsets, 0)))


def tampered_tile(**changes: int) -> Callable[[Plan], Plan]:
    def tamper(made: Plan) -> Plan:
        first, *rest = made.sizing.tiles
        return replace(made, sizing=replace(made.sizing, tiles=(replace(first, **changes), *rest)))

    return tamper


def tampered_grain(**changes: int) -> Callable[[Plan], Plan]:
    def tamper(made: Plan) -> Plan:
        first, second, *rest = made.program.grains
        return with_program(made, grains=(first, replace(second, **changes), *rest))

    return tamper


def tampered_budget(**changes: int) -> Callable[[Plan], Plan]:
    def tamper(made: Plan) -> Plan:
        return replace(made, budget=replace(made.budget, **changes))

    return tamper


def tampered_first_value(**changes: object) -> Callable[[Plan], Plan]:
    def tamper(made: Plan) -> Plan:
        first, *rest = made.program.values
        return with_program(made, values=(replace(first, **changes), *rest))  # type: ignore[arg-type]

    return tamper


def workspace_not_counted(made: Plan) -> Plan:
    return replace(made, costs=(StepCost(0.0, 12345), *made.costs[1:]))


def buffer_without_offset(made: Plan) -> Plan:
    return replace(made, buffer_offsets=made.buffer_offsets[1:])


def buffer_with_two_offsets(made: Plan) -> Plan:
    return replace(made, buffer_offsets=made.buffer_offsets + made.buffer_offsets[:1])


def unaligned_buffer(made: Plan) -> Plan:
    return with_offset(made, made.buffer_offsets[0][0], ALIGNMENT // 2)


def unaligned_tile(made: Plan) -> Plan:
    return replace(made, tile_offsets=(ALIGNMENT, *made.tile_offsets[1:]))


def tile_past_the_arena(made: Plan) -> Plan:
    return replace(made, tile_offsets=(made.tile_offsets[0] + 16 * PAGE, *made.tile_offsets[1:]))


def output_that_is_an_activation(made: Plan) -> Plan:
    (output,) = made.program.outputs
    return with_program(made, outputs=(replace(output, value=2),))


def undeclared_state(made: Plan) -> Plan:
    return with_program(made, states=())


def state_past_the_file(made: Plan) -> Plan:
    (state,) = made.program.states
    return with_program(made, states=(replace(state, file_offset=made.program.file_nbytes),))


def step_without_a_value(made: Plan) -> Plan:
    first, *rest = made.program.steps
    return with_program(made, steps=(replace(first, args=(("x", Ref(99)),)), *rest))


def step_that_writes_a_weight(made: Plan) -> Plan:
    first, *rest = made.program.steps
    return with_program(made, steps=(replace(first, outs=(1,)), *rest))


def step_that_writes_an_input(made: Plan) -> Plan:
    first, *rest = made.program.steps
    return with_program(made, steps=(replace(first, scratch=(0,)), *rest))


def steps_in_the_wrong_order(made: Plan) -> Plan:
    first, second, *rest = made.program.steps
    return with_program(made, steps=(second, first, *rest))


def step_that_is_missing(made: Plan) -> Plan:
    return replace(with_program(made, steps=made.program.steps[:-1]), costs=made.costs[:-1])


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (tampered_tile(nbytes=31 * PAGE), "tile 0 is 126976 bytes at byte 0"),
        (tampered_tile(file_offset=PAGE), "tile 0 is 131072 bytes at byte 4096"),
        (tampered_tile(first_grain=1), "tile 0 is 131072 bytes at byte 0 of the file, but its grains take"),
        (tampered_tile(last_grain=99), "tile 0 at position 0 holds grains 0-99 of 16"),
        (tampered_tile(last_grain=9, nbytes=36 * PAGE), "tiles 0 and 1 overlap"),
        (tampered_tile(id=7), "tile 7 at position 0"),
        (tampered_grain(file_offset=0), "begins before the end of the one before, 16384"),
        (tampered_grain(first=0), "does not follow the one before"),
        (tampered_grain(nbytes=10**9), "the file 262144"),
        (tampered_grain(weight=0), "belongs to no weight"),
        (tampered_budget(arena=PAGE * 32), "of an arena of 131072"),
        (tampered_budget(arena=10**6), "in pages of 4096"),
        (tampered_budget(outputs=0), "counts 0 bytes of outputs"),
        (tampered_budget(loader=-1), "-1 of loader buffers"),
        (tampered_budget(limit=PAGE), "more than its budget of 4096"),
        (tampered_first_value(offset=PAGE), "value v0 spans bytes 4096-4224 of buffer input0, which has 128"),
        (tampered_first_value(dtype="float8"), "value v0 is no tensor"),
        (tampered_first_value(strides=(1,)), "value v0 is no tensor"),
        (tampered_first_value(id=3), "at position 0 has id 3"),
        (workspace_not_counted, "the largest workspace 12345"),
        (buffer_without_offset, "has no offset in the arena"),
        (buffer_with_two_offsets, "two offsets"),
        (unaligned_buffer, "no multiple of 64"),
        (unaligned_tile, "no multiple of 4096"),
        (tile_past_the_arena, "of an arena of"),
        (output_that_is_an_activation, "output y0 is not a value that the caller owns"),
        (undeclared_state, "states declared"),
        (state_past_the_file, "initial bytes of state cache0"),
        (step_without_a_value, r"step 0 \(step0\) refers to value 99"),
        (step_that_writes_a_weight, r"step 0 \(step0\) writes a weight"),
        (step_that_writes_an_input, r"step 0 \(step0\) writes an input"),
        (steps_in_the_wrong_order, "reads v2, and no earlier step writes all of it"),
        (step_that_is_missing, "no step writes all of output y0"),
    ],
)
def test_what_is_tampered_with_is_named(tamper: Callable[[Plan], Plan], message: str) -> None:
    made = plan()
    with pytest.raises(PlanError, match=message):
        verify(tamper(made))


def test_a_budget_that_is_met_exactly() -> None:
    made = plan()
    verify(replace(made, budget=replace(made.budget, limit=made.budget.total)))


def strided_pieces(*, heads: int) -> Program:
    """Columns of one matrix written head by head, `heads` of three, each in two row parts."""
    b = Builder()
    x = b.input((4, 6))
    buffer = b.buffer(BufferKind.ACTIVATION, 4 * 6 * 4)
    for head in range(heads):
        for row in (0, 2):
            piece = b.value(buffer, (2, 2), offset=(row * 6 + head * 2) * 4, strides=(6, 1))
            b.step((piece,), {"x": Ref(x)})
    out = b.tensor(BufferKind.OUTPUT, (4, 6))
    b.step((out,), {"x": Ref(b.value(buffer, (4, 6)))})
    b.output(out)
    return b.build()


def test_written_before_read_is_exact_for_interleaved_pieces() -> None:
    for heads, whole in ((3, True), (2, False)):
        program = strided_pieces(heads=heads)
        sizing = Sizing((), (), (), 0)
        made = fitted_plan(program, sizing)
        if whole:
            verify(made)
        else:
            with pytest.raises(PlanError, match="no earlier step writes all of it"):
                verify(made)


def gathered() -> Plan:
    b = Builder()
    out = b.tensor(BufferKind.OUTPUT, (3, 768))
    args = {"weight": Ref(b.weight((50, 768))), "indices": Ref(b.input((3,), "int64"))}
    b.step((out,), dict(args), kernel="embedding")
    b.output(out)
    choice = Choices(gathers=(0,))
    program = rewrite(b.build(), choice)
    sizing = Sizing((), (), (), 0)
    return fitted_plan(program, sizing, choice)


def test_a_gather_needs_no_tile_but_a_table_in_the_file() -> None:
    made = gathered()
    verify(made)
    with pytest.raises(
        PlanError, match=r"reads v1 from the file up to its byte 153600, but the file holds 0"
    ):
        verify(with_program(made, grains=()))


def test_the_scratch_of_a_gather_is_at_a_page() -> None:
    made = gathered()
    ((scratch, _),) = made.buffer_offsets
    with pytest.raises(PlanError, match="no multiple of 4096"):
        verify(with_offset(made, scratch, ALIGNMENT))


def test_inputs_change_only_at_the_end() -> None:
    b = Builder()
    x = b.input((4, 4))
    y = b.mix((4, 4), x)
    b.step((x,), {"source": Ref(y)}, kernel="copy")
    out = b.tensor(BufferKind.OUTPUT, (4, 4))
    b.step((out,), {"x": Ref(y)})
    b.output(out)
    program = b.build()
    sizing = Sizing((), (), (), 0)
    made = fitted_plan(program, sizing)
    with pytest.raises(PlanError, match=r"step 2 \(step2\) writes an input or follows a step that does"):
        verify(made)
    first, copy, last = program.steps
    verify(with_program(made, steps=(first, last, copy)))


def test_a_long_program_is_verified() -> None:
    """Thousands of steps and loads, each of whose bytes are used again at once."""
    b = Builder()
    x = b.input((4, 16))
    for _ in range(1500):
        weight = b.weight((8, 1024), 8)
        out = b.tensor(BufferKind.ACTIVATION, (4, 8))
        axis = SplitAxis("features", 8, 4, (("weight", 0),), (1,))
        b.step((out,), {"x": Ref(x), "weight": Ref(weight)}, splits=(axis,))
        x = out
    out = b.tensor(BufferKind.OUTPUT, (4, 8))
    b.step((out,), {"x": Ref(x)})
    b.output(out)
    choice = Choices(splits=tuple((step, "features", 2) for step in range(1500)))
    program = rewrite(b.build(), choice)
    tiles = tuple(
        Tile(number, number, number + 1, grain.file_offset, grain.nbytes)
        for number, grain in enumerate(program.grains)
    )
    loads = tuple(Load(tile.id, 2 * tile.id, 2 * tile.id, 2 * tile.id + 1) for tile in tiles)
    sizing = Sizing(tiles, (), loads, 0)
    made = fitted_plan(program, sizing, choice)
    verify(made)
    assert made.budget.arena == 32 * 1024 + PAGE
