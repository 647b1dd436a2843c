"""Programs run in this process: results, failing runs, threads, memory given back."""

from __future__ import annotations

import gc
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from occ.codegen.bundle import write_artifact
from occ.ir import BufferKind, Ref
from occ.runtime_stub import hugepages, storage
from occ.runtime_stub.arena import Arena
from occ.runtime_stub.errors import (
    HandleError,
    IndexRangeError,
    InputError,
    MachineError,
    NotEnoughMemoryError,
)
from occ.runtime_stub.integrity import DamageError
from occ.runtime_stub.memory import available_nbytes
from occ.runtime_stub.program import Program, load
from occ.runtime_stub.trace import StepTrace
from tests.damaging import flip
from tests.tiny_plans import (
    EXAMPLES,
    TABLE_ROWS,
    Draft,
    Example,
    aliases,
    counter,
    embedding,
    mlp,
    plan_of,
    program_of,
    step,
)


def write(example: Example, path: Path) -> str:
    write_artifact(path, example.plan, example.plan.program, example.weight_bytes)
    return str(path)


@contextmanager
def loaded(example: Example, folder: Path) -> Iterator[Program]:
    with load(write(example, folder / "model.occ")) as program:
        yield program


def twice(program: Program, example: Example) -> None:
    for _ in range(2):
        assert torch.equal(program(*example.inputs), example.expected[0])


def loader_threads() -> int:
    return sum(thread.name.startswith("occ-loader") for thread in threading.enumerate())


@pytest.mark.parametrize("name", ["mlp", "embedding", "aliases"])
def test_runs_repeat(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]()
    with loaded(example, tmp_path) as program:
        for _ in range(4):
            outputs = program.run(example.inputs)
            assert all(torch.equal(a, b) for a, b in zip(outputs, example.expected, strict=True))


def test_called_as_the_module_was(tmp_path: Path) -> None:
    example = mlp()
    with loaded(example, tmp_path) as program:
        assert torch.equal(program(*example.inputs), example.expected[0])
        assert torch.equal(program(x=example.inputs[0]), example.expected[0])


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "input 'x' is missing; the model takes x"),
        ((1, 2), {}, "2 positional inputs were passed and 1 are taken"),
        ((torch.zeros(4, 256),), {"x": 1}, "passed twice"),
        ((torch.zeros(4, 256),), {"z": 1}, "'z' is unknown"),
        ((3,), {}, "must be a float32 tensor of shape .4, 256., not int"),
        ((torch.zeros(4, 255),), {}, "not a float32 tensor of shape .4, 255."),
        ((torch.zeros(4, 256, dtype=torch.float64),), {}, "not a float64 tensor"),
        ((torch.zeros(4, 256, device="meta"),), {}, "on cpu, not one on meta"),
    ],
)
def test_wrong_inputs(args: Any, kwargs: Any, message: str, tmp_path: Path) -> None:
    with loaded(mlp(), tmp_path) as program:
        with pytest.raises(InputError, match=message):
            program(*args, **kwargs)
        assert torch.equal(program(*mlp().inputs), mlp().expected[0])


def test_inputs_of_another_layout_are_copied(tmp_path: Path) -> None:
    example = mlp()
    strided = example.inputs[0].t().contiguous().t()
    with loaded(example, tmp_path) as program:
        assert torch.equal(program(strided), example.expected[0])
        assert torch.equal(program(example.inputs[0].requires_grad_()), example.expected[0])


def test_inputs_are_used_where_they_are(tmp_path: Path) -> None:
    example = aliases()
    x = example.inputs[0]
    with loaded(example, tmp_path) as program:
        same, row, y, y_t = program(x)
        assert same is x
        assert row.data_ptr() == x[1].data_ptr()
        assert y_t.data_ptr() == y.data_ptr()
    assert torch.equal(y, -x)  # the caller's, so it outlives the program


def test_outputs_are_fresh_or_the_callers(tmp_path: Path) -> None:
    example = mlp()
    with loaded(example, tmp_path) as program:
        first, second = program(*example.inputs), program(*example.inputs)
        assert first.data_ptr() != second.data_ptr()
        mine = torch.empty(4, 64)
        assert program(*example.inputs, out={"y": mine}).data_ptr() == mine.data_ptr()
        assert torch.equal(mine, example.expected[0])
        for out, message in (
            ({"y": torch.empty(4, 63)}, "must be a float32 tensor"),
            ({"y": torch.empty(64, 4).t()}, "must have strides"),
            ({"z": mine}, "is no output"),
        ):
            with pytest.raises(InputError, match=message):
                program(*example.inputs, out=out)


def test_an_output_may_not_lie_on_an_input(tmp_path: Path) -> None:
    x = aliases().inputs[0]
    with loaded(aliases(), tmp_path) as program, pytest.raises(InputError, match="shares memory"):
        program(x, out={"y": x})


def test_a_mutated_input_is_the_callers_whatever_its_layout(tmp_path: Path) -> None:
    draft = Draft()
    x_ = draft.value("x", BufferKind.INPUT, "float32", 2, 3)
    y_ = draft.value("y", BufferKind.OUTPUT, "float32", 2, 3)
    steps = [step("neg", x_, self=Ref(x_)), step("neg", y_, self=Ref(x_))]
    plan = plan_of(program_of(draft, steps, [x_], [y_]), {}, arena=0)
    with loaded(Example(plan, {}, (), ()), tmp_path) as program:
        for x in (torch.ones(2, 3), torch.ones(3, 2).t(), torch.ones(2, 3, requires_grad=True)):
            assert program(x).tolist() == [[1.0] * 3] * 2
            assert x.tolist() == [[-1.0] * 3] * 2


def test_outputs_take_part_in_autograd(tmp_path: Path) -> None:
    with loaded(mlp(), tmp_path) as program:
        y = program(*mlp().inputs)
    scale = torch.ones(64, requires_grad=True)
    (y * scale).sum().backward()
    assert scale.grad is not None


def test_nothing_of_a_run_is_kept(tmp_path: Path) -> None:
    with loaded(mlp(), tmp_path) as program:
        program(*mlp().inputs)
        gc.collect()
        names = ("x", "y")
        assert all(program._globals[name] is None for name in names)


def test_state_is_kept_and_reset(tmp_path: Path) -> None:
    example = counter()
    with loaded(example, tmp_path) as program:
        for count in (1, 2, 3):
            program(*example.inputs)
            assert program._globals["total"].tolist() == [1.0 + count, 2.0 + count, 3.0 + count, 4.0 + count]
            assert program._globals["zeros"].tolist() == [-count] * 4
        program.reset()
        program(*example.inputs)
        assert program._globals["total"].tolist() == [2.0, 3.0, 4.0, 5.0]


def test_a_failed_run_is_forgotten(tmp_path: Path) -> None:
    example = mlp()
    with loaded(example, tmp_path) as program:
        sections = program._globals["SECTIONS"]

        def fail() -> None:
            raise KeyboardInterrupt

        program._globals["SECTIONS"] = (fail, *sections)
        with pytest.raises(KeyboardInterrupt):
            program(*example.inputs)
        program._globals["SECTIONS"] = (*sections, fail)
        with pytest.raises(KeyboardInterrupt):
            program(*example.inputs)
        program._globals["SECTIONS"] = sections
        for _ in range(3):
            assert torch.equal(program(*example.inputs), example.expected[0])


def test_a_failed_run_leaves_state_unknown(tmp_path: Path) -> None:
    example = counter()
    with loaded(example, tmp_path) as program:
        sections = program._globals["SECTIONS"]

        def fail() -> None:
            raise RuntimeError("in the middle")

        program._globals["SECTIONS"] = (*sections, fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            program(*example.inputs)
        program._globals["SECTIONS"] = sections
        with pytest.raises(HandleError, match="call reset"):
            program(*example.inputs)
        program.reset()
        program(*example.inputs)
        with pytest.raises(InputError):
            program(torch.zeros(5))
        program(*example.inputs)  # a run that never began does no harm


@pytest.mark.parametrize("index", [-1, TABLE_ROWS, 1 << 40])
def test_indices_are_checked_before_reading(index: int, tmp_path: Path) -> None:
    example = embedding()
    ids = example.inputs[0].clone()
    with loaded(example, tmp_path) as program:
        before = program.stats().nbytes_read
        ids[7] = index
        with pytest.raises(IndexRangeError, match=f"index {index} is outside table 'wte.weight'.*1000 rows"):
            program(ids)
        assert program.stats().nbytes_read == before
        assert torch.equal(program(*example.inputs), example.expected[0])


@pytest.mark.parametrize(
    "ids",
    [
        torch.zeros(40, dtype=torch.int64),
        torch.full((40,), TABLE_ROWS - 1),
        torch.arange(960, 1000),
        torch.arange(999, -1, -25),
        torch.tensor([10, 10, 11] * 13 + [10]),
    ],
)
def test_gathers(ids: Tensor, tmp_path: Path) -> None:
    example = embedding()
    with loaded(example, tmp_path) as program:
        assert torch.equal(program(ids), example.weights[1][ids])


def test_a_damaged_page_of_a_table_is_never_used(tmp_path: Path) -> None:
    example = embedding()
    with loaded(example, tmp_path) as program:
        program(*example.inputs)
        flip(program.path, int(example.inputs[0][0]) * 384)
        with pytest.raises(DamageError, match=r"of table 'wte\.weight' has CRC-32"):
            program(*example.inputs)


@pytest.mark.parametrize("place", [5, 524288 + 5, 655360 + 5])
def test_a_damaged_tile_is_never_used(place: int, tmp_path: Path) -> None:
    path = write(mlp(), tmp_path / "model.occ")
    flip(path, place)
    threads = loader_threads()
    with pytest.raises(DamageError, match=r"tile \d .* has CRC-32"), load(path) as program:
        program(*mlp().inputs)
    assert loader_threads() == threads


@pytest.mark.parametrize("place", [5, 524288 + 5])
def test_tiles_are_checked_again_after_the_file_changed(place: int, tmp_path: Path) -> None:
    example = mlp()
    with loaded(example, tmp_path) as program:
        program(*example.inputs)
        program(*example.inputs)
        flip(program.path, place)
        with pytest.raises(DamageError, match="CRC-32"):
            twice(program, example)  # the head of the next run may have been read before the change
        flip(program.path, place)
        assert torch.equal(program(*example.inputs), example.expected[0])


def test_a_file_cut_off_under_a_running_program(tmp_path: Path) -> None:
    example = mlp()
    with loaded(example, tmp_path) as program:
        program(*example.inputs)
        with open(program.path, "r+b") as file:
            file.truncate(524288 + 4096)
        with pytest.raises(DamageError, match="ends at byte 528384"):
            program(*example.inputs)


def test_a_read_error_comes_out_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = mlp()
    with loaded(example, tmp_path) as program:
        program(*example.inputs)

        def broken(*_: object) -> int:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(storage.os, "preadv", broken)
        with pytest.raises(DamageError, match=r"cannot read \d+ bytes at \d+ .*Input/output error"):
            program(*example.inputs)
        monkeypatch.undo()
        assert torch.equal(program(*example.inputs), example.expected[0])


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = mlp()
    real = storage.os.preadv

    def short(descriptor: int, views: list[memoryview], offset: int) -> int:
        return real(descriptor, [views[0][:8192]], offset)

    monkeypatch.setattr(storage.os, "preadv", short)
    with loaded(example, tmp_path) as program:
        assert torch.equal(program(*example.inputs), example.expected[0])


@pytest.mark.parametrize("refused_at", ["open", "read"])
def test_without_direct_reads(refused_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has no O_DIRECT, or one that says so only when it is used."""
    real_open, real_read = storage.os.open, storage.os.preadv
    direct: set[int] = set()

    def no_direct(path: str, flags: int, *rest: int) -> int:
        if flags & storage.os.O_DIRECT and refused_at == "open":
            raise OSError(22, "Invalid argument")
        descriptor = real_open(path, flags, *rest)
        if flags & storage.os.O_DIRECT:
            direct.add(descriptor)
        return descriptor

    def no_read(descriptor: int, views: list[memoryview], offset: int) -> int:
        if descriptor in direct:
            raise OSError(22, "Invalid argument")
        return real_read(descriptor, views, offset)

    monkeypatch.setattr(storage.os, "open", no_direct)
    monkeypatch.setattr(storage.os, "preadv", no_read)
    for example in (mlp(), embedding()):
        with loaded(example, tmp_path) as program:
            for _ in range(2):
                assert torch.equal(program(*example.inputs), example.expected[0])
            assert not program.stats().direct


def test_on_a_memory_file_system() -> None:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        pytest.skip("no /dev/shm on this machine")
    path = folder / f"occ-test-{threading.get_native_id()}.occ"
    try:
        with load(write(mlp(), path)) as program:
            assert torch.equal(program(*mlp().inputs), mlp().expected[0])
    finally:
        path.unlink(missing_ok=True)


def test_two_threads_share_a_handle(tmp_path: Path) -> None:
    example = mlp()
    wrong: list[object] = []
    with loaded(example, tmp_path) as program:

        def many(scale: float) -> None:
            x = example.inputs[0] * scale
            first = program(x)
            for _ in range(30):
                if not torch.equal(program(x), first):
                    wrong.append(scale)

        threads = [threading.Thread(target=many, args=(scale,)) for scale in (1.0, -2.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_close_ends_everything(tmp_path: Path) -> None:
    threads = loader_threads()
    program = load(write(mlp(), tmp_path / "model.occ"))
    program(*mlp().inputs)
    assert loader_threads() > threads
    program.close()
    program.close()
    assert loader_threads() == threads
    with pytest.raises(HandleError, match="was closed"):
        program(*mlp().inputs)
    with pytest.raises(HandleError, match="was closed"):
        program.reset()


def test_a_forgotten_handle_is_closed(tmp_path: Path) -> None:
    threads = loader_threads()
    program = load(write(mlp(), tmp_path / "model.occ"))
    del program
    gc.collect()
    assert loader_threads() == threads


def resident_nbytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_the_arena_is_taken_at_once_and_given_back() -> None:
    nbytes = 64 << 20
    before = resident_nbytes()
    arena = Arena(nbytes)
    assert resident_nbytes() - before > nbytes - (4 << 20)
    view = arena.view(4096, torch.float32, (3, 5), (1, 3))
    assert view.data_ptr() == arena.address + 4096
    assert arena.address % 4096 == 0
    arena.close()
    assert resident_nbytes() - before < 4 << 20  # although a view is still held
    assert view.sum() == 0


def test_too_large_an_arena_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    left, _ = available_nbytes()
    assert left is not None
    with pytest.raises(NotEnoughMemoryError, match="available"):
        Arena(1 << 50)
    monkeypatch.setattr(hugepages, "available_nbytes", lambda: (4096, "in control group /x"))
    with pytest.raises(
        NotEnoughMemoryError, match="takes 8192 bytes and 4096 are available in control group /x"
    ):
        Arena(8192)


def test_another_release_of_torch_is_refused(tmp_path: Path) -> None:
    example = mlp()
    plan = replace(example.plan, machine=replace(example.plan.machine, torch="1.9.0+cpu"))
    with pytest.raises(MachineError, match=r"compiled for torch 1\.9\.0"):
        load(write(replace(example, plan=plan), tmp_path / "model.occ"))


def test_a_trace_has_every_step_and_load(tmp_path: Path) -> None:
    example = mlp()
    with loaded(example, tmp_path) as program:
        program(*example.inputs)
        trace = StepTrace(program.text)
        program.run(example.inputs, trace=trace)
        program.run(example.inputs)
    names = [name for name, _, _ in trace.statements()]
    assert names == [
        "wait(2)",
        "wait(0)",
        "0 torch.addmm",
        "load(1)",
        "1 torch.clamp_min",
        "wait(1)",
        "2 torch.addmm",
        "load(0)",
        "3 torch.tanh",
    ]
    assert all(began <= ended for _, began, ended in trace.statements())
    assert sorted({job.tile.id for job in trace.jobs}) == [0, 1]


def test_checksums_are_those_of_zlib(tmp_path: Path) -> None:
    example = mlp()
    with loaded(example, tmp_path) as program:
        content = Path(program.path).read_bytes()
        for tile, crc in zip(example.plan.sizing.tiles, program.manifest["tile_crcs"], strict=True):
            assert crc == zlib.crc32(content[tile.file_offset : tile.file_offset + tile.nbytes])
