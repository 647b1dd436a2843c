"""The first run: weights arrive while it goes on, and it waits for each before its first use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from occ.ir import Load
from occ.runtime_stub import storage
from occ.runtime_stub.integrity import DamageError
from occ.runtime_stub.program import Program, load
from tests.runtime.test_program import flip, write
from tests.tiny_plans import Example, mlp

SECONDS = 20.0
"""How long a test waits for what must happen."""


class Gate:
    """Reads wait until what they read is let through; `read` has the file offsets in the order of reading."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[int] = []
        self._open: set[int] = set()
        self._changed = threading.Condition()
        original = storage.WeightFile.read_pages

        def gated(file: storage.WeightFile, into: memoryview, offset: int) -> None:
            with self._changed:
                self.read.append(offset)
                self._changed.notify_all()
                assert self._changed.wait_for(lambda: offset in self._open, SECONDS)
            original(file, into, offset)

        monkeypatch.setattr(storage.WeightFile, "read_pages", gated)

    def let_through(self, *offsets: int) -> None:
        with self._changed:
            self._open.update(offsets)
            self._changed.notify_all()

    def wait_until_read(self, *offsets: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: set(offsets) <= set(self.read), SECONDS)


def resident_mlp() -> Example:
    """The MLP with all of its tiles resident, each in bytes of its own."""
    example = mlp()
    plan = example.plan
    nbytes = [tile.nbytes for tile in plan.sizing.tiles]
    weights = sum(nbytes)
    shift = weights - min(offset for _, offset in plan.buffer_offsets)
    return replace(
        example,
        plan=replace(
            plan,
            sizing=replace(plan.sizing, resident=(0, 1, 2), loads=()),
            tile_offsets=(0, nbytes[0], nbytes[0] + nbytes[1]),
            buffer_offsets=tuple((buffer, offset + shift) for buffer, offset in plan.buffer_offsets),
            budget=replace(plan.budget, arena=plan.budget.arena + shift),
        ),
    )


def offsets_of(example: Example) -> tuple[int, ...]:
    return tuple(tile.file_offset for tile in example.plan.sizing.tiles)


class Run(threading.Thread):
    """A run in a thread of its own."""

    def __init__(self, program: Program, inputs: Sequence[object]) -> None:
        super().__init__(daemon=True)
        self._program = program
        self._inputs = inputs
        self.result: object = None

    def run(self) -> None:
        self.result = self._program(*self._inputs)


def test_a_program_is_loaded_before_its_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = resident_mlp()
    first, second, biases = offsets_of(example)
    path = write(example, tmp_path / "model.occ")
    gate = Gate(monkeypatch)
    with load(path) as program:
        run = Run(program, example.inputs)
        run.start()
        gate.let_through(first, biases)
        # Two reads are under way at a time: the last begins when the first is through.
        gate.wait_until_read(first, second, biases)
        run.join(0.05)
        assert run.is_alive()
        gate.let_through(second)
        run.join(SECONDS)
        assert isinstance(run.result, torch.Tensor)
        assert torch.equal(run.result, example.expected[0])
        assert program.stats().nbytes_read == sum(tile.nbytes for tile in example.plan.sizing.tiles)
        program(*example.inputs)
        assert len(gate.read) == 3


def test_weights_arrive_in_the_order_of_their_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The biases lie last in the file and are used by the first step."""
    example = resident_mlp()
    first, second, biases = offsets_of(example)
    path = write(example, tmp_path / "model.occ")
    gate = Gate(monkeypatch)
    with load(path) as program:
        gate.wait_until_read(first, biases)
        assert second not in gate.read
        gate.let_through(first, second, biases)
        assert torch.equal(program(*example.inputs), example.expected[0])


def test_a_streamed_tile_is_not_kept_waiting_by_later_residents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tile 0 is streamed and lies first in the file: it goes before all residents but those under way."""
    example = resident_mlp()
    plan = example.plan
    load_of_0 = Load(0, 0, 0, 0)
    plan = replace(plan, sizing=replace(plan.sizing, resident=(1, 2), loads=(load_of_0,)))
    example = replace(example, plan=plan)
    first, second, biases = offsets_of(example)
    path = write(example, tmp_path / "model.occ")
    gate = Gate(monkeypatch)
    monkeypatch.setattr("occ.runtime_stub.loader.THREADS", 1)
    with load(path) as program:
        gate.wait_until_read(biases)
        run = Run(program, example.inputs)
        run.start()
        while not program._loader._queue:
            run.join(0.001)
        gate.let_through(first, second, biases)
        run.join(SECONDS)
        assert gate.read == [biases, first, second]
        assert isinstance(run.result, torch.Tensor)
        assert torch.equal(run.result, example.expected[0])


def test_a_damaged_resident_tile_is_never_computed_with(tmp_path: Path) -> None:
    """Neither in the first run nor in one after it; once the file is whole again, the program goes on."""
    example = resident_mlp()
    path = write(example, tmp_path / "model.occ")
    place = offsets_of(example)[1] + 77
    flip(path, place)
    with load(path) as program:
        for _ in range(2):
            with pytest.raises(DamageError, match="tile 1"):
                program(*example.inputs)
        flip(path, place)
        for _ in range(2):
            assert torch.equal(program(*example.inputs), example.expected[0])


def test_a_program_can_be_closed_while_its_weights_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = resident_mlp()
    path = write(example, tmp_path / "model.occ")
    gate = Gate(monkeypatch)
    program = load(path)
    gate.wait_until_read(offsets_of(example)[0])
    gate.let_through(*offsets_of(example))
    program.close()
