"""Splits, gathers and bands, written out for small programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from occ.errors import InternalError
from occ.gathers import gather_row_nbytes
from occ.ir import Arg, BufferKind, Choices, Program, Ref, SplitAxis, Value
from occ.passes.banding import part_rows
from occ.rewrite import origins, rewrite
from occ.units import PAGE
from tests.programs import Builder
from tests.reference_machine import run_unplanned


def linear(*, staged: bool = False, extent: int = 10, granule: int = 4) -> Program:
    """y = x W, cut along the rows of W, which are the columns of y."""
    b = Builder()
    out = b.tensor(BufferKind.OUTPUT, (2, 10))
    args: dict[str, Arg] = {
        "x": Ref(b.input((2, 16))),
        "weight": Ref(b.weight((10, 16))),
        "bias": Ref(b.weight((10,))),
    }
    axis = SplitAxis("features", extent, granule, (("weight", 0), ("bias", 0)), (1,), staged)
    b.step((out,), args, kernel="linear", splits=(axis,), scratch=(b.tensor(BufferKind.SCRATCH, (7,)),))
    b.output(out)
    return b.build()


def split(program: Program, parts: int, axis: str = "features") -> Program:
    return rewrite(program, Choices(splits=((0, axis, parts),)))


def operand(program: Program, step: int, name: str) -> Value:
    arg = dict(program.steps[step].args)[name]
    assert isinstance(arg, Ref)
    return program.values[arg.value]


def result(program: Program, step: int) -> Value:
    return program.values[program.steps[step].outs[0]]


@pytest.mark.parametrize(
    ("extent", "granule", "parts", "rows"),
    [
        (8, 1, 3, ((0, 2), (2, 5), (5, 8))),
        (10, 4, 2, ((0, 4), (4, 10))),
        (10, 4, 3, ((0, 4), (4, 8), (8, 10))),
        (10, 16, 1, ((0, 10),)),
    ],
)
def test_parts_begin_at_granules(
    extent: int, granule: int, parts: int, rows: tuple[tuple[int, int], ...]
) -> None:
    assert part_rows(SplitAxis("rows", extent, granule, (), (0,)), parts) == rows


def test_no_choice_changes_nothing() -> None:
    program = linear()
    assert rewrite(program, Choices()) == program
    assert split(program, 1) == program


def test_a_split_slices_operands_and_results() -> None:
    program = linear()
    parts = split(program, 3)
    assert [step.name for step in parts.steps] == ["step0[1/3]", "step0[2/3]", "step0[3/3]"]
    assert {step.module for step in parts.steps} == {"block.step0"}
    assert {step.scratch for step in parts.steps} == {program.steps[0].scratch}
    assert all(step.splits == () for step in parts.steps)
    assert [operand(parts, i, "weight").extent for i in range(3)] == [(0, 256), (256, 512), (512, 640)]
    assert [operand(parts, i, "bias").shape for i in range(3)] == [(4,), (4,), (2,)]
    assert [operand(parts, i, "x").id for i in range(3)] == [operand(program, 0, "x").id] * 3
    middle = result(parts, 1)
    assert (middle.offset, middle.shape, middle.strides) == (16, (2, 4), (10, 1))
    assert middle.buffer == result(program, 0).buffer
    assert parts.buffers == program.buffers
    assert parts.values[: len(program.values)] == program.values


def test_a_staged_split_computes_in_dense_scratch() -> None:
    program = linear(staged=True)
    parts = split(program, 2)
    assert [step.kernel for step in parts.steps] == ["linear", "copy", "linear", "copy"]
    assert parts.steps[1].name == "step0[1/2] store"
    (stage,) = parts.buffers[len(program.buffers) :]
    assert (stage.kind, stage.nbytes) == (BufferKind.SCRATCH, 2 * 6 * 4)
    for step, columns in ((0, 4), (2, 6)):
        computed = result(parts, step)
        assert (computed.buffer, computed.offset) == (stage.id, 0)
        assert (computed.shape, computed.strides) == ((2, columns), (columns, 1))
        assert operand(parts, step + 1, "source") == computed
        assert result(parts, step + 1).shape == (2, columns)
        assert result(parts, step + 1).buffer == result(program, 0).buffer


def test_a_staged_result_keeps_its_order_in_memory() -> None:
    b = Builder()
    shape, channels_last = (1, 6, 3, 3), (54, 1, 18, 6)
    out = b.value(b.buffer(BufferKind.OUTPUT, 6 * 9 * 4), shape, strides=channels_last)
    axis = SplitAxis("channels", 6, 1, (), (1,), staged=True)
    b.step((out,), {"x": Ref(b.input((2, 2)))}, splits=(axis,))
    parts = split(b.build(), 3, "channels")
    assert result(parts, 0).shape == (1, 2, 3, 3)
    assert result(parts, 0).strides == (18, 1, 6, 2)
    assert result(parts, 1).strides == channels_last
    assert result(parts, 3).offset == 2 * 4


def accumulate(*, staged: bool, sliced: bool = True) -> Program:
    """y += f(x), cut along the columns of y."""
    b = Builder()
    x = b.input((2, 3))
    held = b.mix((2, 10), x)
    out = b.value(b.values[held].buffer, (2, 10))
    operands = (("residual", 1),) if sliced else ()
    axis = SplitAxis("columns", 10, 1, operands, (1,), staged)
    b.step((out,), {"x": Ref(x), "residual": Ref(held)}, kernel="add", splits=(axis,))
    return b.build()


def test_a_staged_accumulation_loads_what_the_result_held() -> None:
    parts = rewrite(accumulate(staged=True), Choices(splits=((1, "columns", 2),)))
    assert [step.kernel for step in parts.steps] == ["mix", "copy", "add", "copy", "copy", "add", "copy"]
    assert parts.steps[1].name == "step1[1/2] load residual"
    assert result(parts, 1) == operand(parts, 2, "residual") == result(parts, 2)
    assert operand(parts, 1, "source").extent == result(parts, 3).extent


def test_every_step_has_an_origin() -> None:
    assert origins(accumulate(staged=True), Choices()) == (0, 1)
    assert origins(accumulate(staged=True), Choices(splits=((1, "columns", 2),))) == (0, 1, 1, 1, 1, 1, 1)


def test_an_accumulation_that_is_not_staged_stays_in_place() -> None:
    parts = rewrite(accumulate(staged=False), Choices(splits=((1, "columns", 2),)))
    assert [step.kernel for step in parts.steps] == ["mix", "add", "add"]
    assert operand(parts, 2, "residual").extent == result(parts, 2).extent


def test_a_result_over_an_uncut_operand_is_no_axis() -> None:
    program = accumulate(staged=False, sliced=False)
    with pytest.raises(InternalError, match="residual, which lies in the same bytes"):
        rewrite(program, Choices(splits=((1, "columns", 2),)))


@pytest.mark.parametrize(
    ("row_nbytes", "stride", "file_offset", "pages"),
    [
        (4096, 4096, 0, 1),
        (2048, 2048, 4096, 1),
        (3072, 3072, 0, 2),
        (100, 100, 0, 2),
        (4096, 4096, 64, 2),
        (5000, 8192, 0, 2),
        (8192, 8192, 128, 3),
    ],
)
def test_pages_of_one_row(row_nbytes: int, stride: int, file_offset: int, pages: int) -> None:
    assert gather_row_nbytes(row_nbytes, stride, file_offset) == pages * PAGE
    touched = {
        (start + row_nbytes - 1) // PAGE - start // PAGE + 1
        for start in range(file_offset, file_offset + 2 * PAGE * stride, stride)
    }
    assert max(touched) == pages


def embedding(count: int) -> Program:
    b = Builder()
    out = b.tensor(BufferKind.OUTPUT, (count, 768))
    args: dict[str, Arg] = {"weight": Ref(b.weight((90, 768))), "indices": Ref(b.input((count,), "int64"))}
    b.step((out,), args, kernel="embedding")
    b.output(out)
    return b.build()


@pytest.mark.parametrize(("count", "rows"), [(3, 3), (80, 64)])
def test_a_gather_reads_the_file_through_bounded_scratch(count: int, rows: int) -> None:
    program = embedding(count)
    (step,) = rewrite(program, Choices(gathers=(0,))).steps
    assert (step.kernel, step.stored, step.reads) == ("gather", (1,), (2,))
    (buffer,) = rewrite(program, Choices(gathers=(0,))).buffers[len(program.buffers) :]
    assert (buffer.kind, buffer.nbytes) == (BufferKind.SCRATCH, rows * 2 * PAGE)


def experts(rows: int) -> Program:
    b = Builder()
    out = b.tensor(BufferKind.OUTPUT, (rows, 96))
    args: dict[str, Arg] = {
        "input": Ref(b.input((rows, 64))),
        "weight": Ref(b.weight((8, 64, 96))),
        "experts": Ref(b.input((rows,), "int64")),
    }
    b.step((out,), args, kernel="grouped_product")
    b.output(out)
    return b.build()


@pytest.mark.parametrize(("rows", "slots"), [(1, 1), (2, 2), (40, 2)])
def test_experts_in_the_file_have_room_for_two(rows: int, slots: int) -> None:
    program = experts(rows)
    made = rewrite(program, Choices(gathers=(0,)))
    [step] = made.steps
    before = dict(program.steps[0].args)
    assert step.kernel == "stored_product"
    assert dict(step.args) == {**before, "matrix": (64, 96), "strides": (96, 1)}
    assert [Ref(value) for value in step.stored] == [before["weight"]]
    assert [Ref(value) for value in step.reads] == [before["input"], before["experts"]]
    [buffer] = made.buffers[len(program.buffers) :]
    # Matrices of six pages each, from the beginning of one.
    assert (buffer.kind, buffer.nbytes) == (BufferKind.SCRATCH, slots * 6 * PAGE)


def wrong_axis(program: Program) -> Program:
    return split(program, 2, "heads")


def too_many_parts(program: Program) -> Program:
    return split(program, 4)


def no_parts(program: Program) -> Program:
    return split(program, 0)


def no_such_step(program: Program) -> Program:
    return rewrite(program, Choices(splits=((7, "features", 2),)))


def split_twice(program: Program) -> Program:
    return rewrite(program, Choices(splits=((0, "features", 2), (0, "features", 3))))


def gather_of_a_product(program: Program) -> Program:
    return rewrite(program, Choices(gathers=(0,)))


def axis_longer_than_its_operand(program: Program) -> Program:
    return split(linear(extent=12), 2)


def axis_of_no_operand(program: Program) -> Program:
    (step,) = program.steps
    axis = replace(step.splits[0], operands=(("filter", 0),))
    return split(replace(program, steps=(replace(step, splits=(axis,)),)), 2)


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (wrong_axis, "has no axis heads to split along; it offers: features"),
        (
            too_many_parts,
            "cannot be split into 4 parts along features: 10 rows in granules of 4 allow 1 to 3",
        ),
        (no_parts, "cannot be split into 0 parts"),
        (no_such_step, "step 7"),
        (split_twice, "chosen twice"),
        (gather_of_a_product, "gather step 0 names a step that reads no rows"),
        (axis_longer_than_its_operand, "does not have as many along dimension 0"),
        (axis_of_no_operand, "slices filter, which is no operand of it"),
    ],
)
def test_a_choice_that_is_not_offered(choose: Callable[[Program], Program], message: str) -> None:
    with pytest.raises(InternalError, match=message):
        choose(linear())


# Bands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granule", [1, 2, 5])
@pytest.mark.parametrize(("rows", "seen"), [(12, (6, 16)), (12, (4, 24)), (12, (24, 4)), (7, (14, 4))])
def test_a_band_over_rows_that_one_step_joins_or_divides(
    rows: int, seen: tuple[int, int], granule: int
) -> None:
    """One step writes rows; another reads several of them as one, or each as several."""
    b = Builder()
    written = b.tensor(BufferKind.ACTIVATION, (rows, 8))
    read = b.value(b.values[written].buffer, seen)
    result = b.tensor(BufferKind.OUTPUT, (seen[0], 8))
    for source, out, extent, least in (
        (b.input((rows, 8)), written, rows, granule),
        (read, result, seen[0], 1),
    ):
        axis = SplitAxis("rows", extent, least, (("x", 0),), (0,))
        args: dict[str, Arg] = {"x": Ref(source), "salt": out, "rows": ((0,), (("x", 0),))}
        b.step((out,), args, splits=(axis,))
    b.output(result)
    program = b.build()
    wanted = run_unplanned(program, 2)
    for parts in range(2, seen[0] + 1):
        banded = rewrite(program, Choices(bands=((0, 1, "rows", parts),)))
        assert run_unplanned(banded, 2) == wanted
        scale = max(1, rows // seen[0])
        if parts == 2 and (rows // 2) % scale == 0 and granule < 5:
            sizes = [buffer.nbytes for buffer in banded.buffers[len(program.buffers) :]]
            assert max(sizes) < program.buffers[program.values[written].buffer].nbytes
