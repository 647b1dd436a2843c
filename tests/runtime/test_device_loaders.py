"""Programs on a simulated device: what its loaders promise, in the cruellest order that events allow."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from occ.runtime_stub import staged, storage
from occ.runtime_stub.errors import HandleError, IndexRangeError, InputError
from occ.runtime_stub.hostmemory import least_ring_nbytes
from occ.runtime_stub.integrity import DamageError
from occ.runtime_stub.jobs import PAGE
from occ.runtime_stub.staged import StagedLoader
from tests.damaging import flip
from tests.runtime.device_plans import RING, chain, on_cuda, write
from tests.runtime.simulated_device import ORDERS, Race, Simulated, SimulatedDevice, read_weights, simulated
from tests.tiny_plans import EXAMPLES, TABLE_ROWS, Example, counter, embedding, mlp

SOURCES = ("ssd", "host", "integrated")


def device_for(source: str, order: str, seed: int = 0) -> SimulatedDevice:
    return SimulatedDevice(order, seed, integrated=source == "integrated")


def example_for(example: Example, source: str, ring_nbytes: int = RING) -> Example:
    return on_cuda(example, "host" if source == "host" else "ssd", ring_nbytes)


def loader_threads() -> int:
    return sum(thread.name.startswith("occ-loader") for thread in threading.enumerate())


def twice(loaded: Simulated, example: Example) -> None:
    for _ in range(2):
        loaded.run(example.inputs)


def run_thrice(
    path: str, device: SimulatedDevice, example: Example, edit: Callable[[str], str] = lambda text: text
) -> None:
    with simulated(path, device, edit) as loaded:
        for _ in range(3):
            loaded.run(example.inputs)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["mlp", "embedding", "aliases"])
def test_runs_equal_eager(name: str, source: str, order: str, tmp_path: Path) -> None:
    """The host asks for several runs before the device is made to do anything."""
    example = EXAMPLES[name]()
    device = device_for(source, order)
    with simulated(write(example_for(example, source), tmp_path), device) as loaded:
        results = [loaded.program.run(example.inputs) for _ in range(4)]
        device.idle()
        for outputs in results:
            assert all(torch.equal(a, b) for a, b in zip(outputs, example.expected, strict=True))
        host_nbytes = loaded.program.stats().host_nbytes
    streamed = {"mlp": 655360, "embedding": 384 * TABLE_ROWS + 1024, "aliases": 0}[name]
    assert (
        host_nbytes
        == {
            "ssd": RING,
            "host": RING + streamed,
            "integrated": 2 * 2 * PAGE if name == "embedding" else 0,
        }[source]
    )


@pytest.mark.parametrize("source", SOURCES)
def test_state_is_kept_and_reset(source: str, tmp_path: Path) -> None:
    example = counter()
    device = device_for(source, "copies first")
    with simulated(write(example_for(example, source), tmp_path), device) as loaded:
        for count in (1, 2, 3):
            [y] = loaded.run(example.inputs)
            assert y.tolist() == [1.0, 2.0, 3.0, 4.0]
            total = loaded.program._globals["total"]
            assert total.tolist() == [1.0 + count, 2.0 + count, 3.0 + count, 4.0 + count]
        loaded.program.run(example.inputs)
        loaded.program.reset()
        assert total.tolist() == [1.0, 2.0, 3.0, 4.0]
        loaded.run(example.inputs)
        assert total.tolist() == [2.0, 3.0, 4.0, 5.0]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    layers=st.integers(1, 8),
    slots=st.integers(1, 3),
    ring_pages=st.sampled_from([1, 2, 3, 7, 64]),
    order=st.sampled_from(ORDERS),
    source=st.sampled_from(SOURCES),
)
def test_any_plan_with_any_ring(
    seed: int, layers: int, slots: int, ring_pages: int, order: str, source: str, tmp_path: Path
) -> None:
    example = chain(seed, layers, slots)
    device = device_for(source, order, seed)
    with simulated(write(example_for(example, source, ring_pages * PAGE), tmp_path), device) as loaded:
        results = [loaded.program.run(example.inputs)[0] for _ in range(3)]
        device.idle()
    for y in results:
        assert torch.equal(y, example.expected[0])


def test_the_host_runs_ahead_but_not_without_bound(tmp_path: Path) -> None:
    example = mlp()
    device = SimulatedDevice("copies first")
    steps = len(example.plan.program.steps)
    with simulated(write(on_cuda(example, "host"), tmp_path), device) as loaded:
        for _ in range(20):
            loaded.program.run(example.inputs)
    assert steps < device.most_behind <= 3 * steps


def test_reads_go_on_while_the_arena_is_in_use(tmp_path: Path) -> None:
    """With kernels as late as they can be, the tile for the end of the run, which overwrites what the first
    step reads, is read as soon as it is asked for: before any step of the run has ended."""
    example = mlp()
    device = SimulatedDevice("copies first")
    with simulated(write(on_cuda(example, ring_nbytes=4 << 20), tmp_path), device) as loaded:
        loader = loaded.program._loader
        loaded.program.run(example.inputs)
        with_head = sum(tile.nbytes for tile in example.plan.sizing.tiles) + 524288
        for _ in range(1000):
            if loader.nbytes_read == with_head:
                break
            threading.Event().wait(0.005)
        assert loader.nbytes_read == with_head
        compute: Any = device.compute
        assert compute.done < compute.put


# Programs and loaders that are wrong, which the device has to find out.


def without(text: str, statement: str) -> tuple[str, str]:
    """A program without the only line of `statement`, and that line."""
    [line] = re.findall(rf"^ +{re.escape(statement)} .*\n", text, flags=re.MULTILINE)
    return text.replace(line, ""), line


def loaded_before(text: str, tile: int, step: int) -> str:
    """A program with the load of a tile in front of a step."""
    text, load = without(text, f"load({tile})")
    reader = re.search(rf"^ +torch\.addmm.*# {step} ", text, flags=re.MULTILINE)
    assert reader is not None
    return text[: reader.start()] + load + text[reader.start() :]


def missing_wait(text: str) -> str:
    return without(text, "wait(1)")[0]


def early_load(text: str) -> str:
    """The load of tile 1 before the step that reads what it overwrites."""
    return loaded_before(text, tile=1, step=0)


def missing_load(text: str) -> str:
    return without(text, "load(1)")[0]


def twice_the_head(text: str) -> str:
    """The load for the next run before the last reader of this one."""
    return loaded_before(text, tile=0, step=2)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("source", ["ssd", "host"])
@pytest.mark.parametrize("edit", [missing_wait, early_load, missing_load, twice_the_head])
def test_a_wrong_program_is_found(
    edit: Callable[[str], str], source: str, order: str, tmp_path: Path
) -> None:
    example = mlp()
    device = device_for(source, order)
    with pytest.raises(AssertionError):
        run_thrice(write(example_for(example, source), tmp_path), device, example, edit)
    assert any(isinstance(failure, Race) for failure in device.failures)


def test_the_copies_wait_for_the_steps_before_their_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader that leaves out the edge is found."""
    real = SimulatedDevice.wait

    def forgetful(self: SimulatedDevice, stream: object, event: object) -> None:
        if stream is not self.copies:
            real(self, stream, event)

    monkeypatch.setattr(SimulatedDevice, "wait", forgetful)
    for source in ("ssd", "host"):
        (folder := tmp_path / source).mkdir()
        device = device_for(source, "kernels first")
        with pytest.raises(AssertionError):
            run_thrice(write(example_for(mlp(), source), folder), device, mlp())
        assert any("nothing puts them in order" in str(failure) for failure in device.failures)


def test_the_ring_is_not_refilled_before_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader that frees bytes of the ring too early is found."""
    example = mlp()

    def hasty(self: StagedLoader) -> None:
        event = self._copied.popleft()
        if event is not None:
            self._device.release(event)
        self._ring.give_back()
        self._arrived.notify_all()

    monkeypatch.setattr(staged.StagedLoader, "_free_oldest", hasty)
    device = SimulatedDevice("kernels first")
    with pytest.raises(AssertionError):
        run_thrice(write(on_cuda(example, ring_nbytes=4 * PAGE), tmp_path), device, example)
    assert any("were overwritten before their copy" in str(failure) for failure in device.failures)


# Damage and errors.


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("ring_nbytes", [8 * PAGE, 4 << 20])
@pytest.mark.parametrize("place", [5, 524288 + 5, 655360 + 5])
def test_a_damaged_tile_is_never_used(place: int, ring_nbytes: int, source: str, tmp_path: Path) -> None:
    example = mlp()
    path = write(example_for(example, source, ring_nbytes), tmp_path)
    device = device_for(source, "copies first")
    device.file_bytes = read_weights(path, example.plan)
    flip(path, place)
    with simulated(path, device) as loaded:
        for _ in range(2):
            with pytest.raises(DamageError, match=r"tile \d .* has CRC-32"):
                loaded.run(example.inputs)
        flip(path, place)
        for _ in range(3):
            assert torch.equal(loaded.run(example.inputs)[0], example.expected[0])


@pytest.mark.parametrize("ring_nbytes", [8 * PAGE, 4 << 20])
@pytest.mark.parametrize("place", [5, 524288 + 5])
def test_tiles_are_checked_again_after_the_file_changed(place: int, ring_nbytes: int, tmp_path: Path) -> None:
    example = mlp()
    path = write(on_cuda(example, "ssd", ring_nbytes), tmp_path)
    with simulated(path, SimulatedDevice("random", 3)) as loaded:
        for _ in range(2):
            loaded.run(example.inputs)
        loaded.program.settle()
        flip(path, place)
        with pytest.raises(DamageError, match="CRC-32"):
            twice(loaded, example)  # the head of the next run may have been read before the change
        flip(path, place)
        assert torch.equal(loaded.run(example.inputs)[0], example.expected[0])


@pytest.mark.parametrize("source", SOURCES)
def test_a_read_error_comes_out_of_the_run(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first run: one from pinned memory reads nothing later."""
    example = mlp()
    real = storage.os.preadv
    broken = True

    def sometimes(*args: Any) -> int:
        if broken:
            raise OSError(5, "Input/output error")
        return real(*args)

    path = write(example_for(example, source), tmp_path)
    device = device_for(source, "copies first")
    device.file_bytes = read_weights(path, example.plan)
    monkeypatch.setattr(storage.os, "preadv", sometimes)
    with simulated(path, device) as loaded:
        with pytest.raises(DamageError, match=r"cannot read \d+ bytes at \d+ .*Input/output error"):
            loaded.run(example.inputs)
        broken = False
        assert torch.equal(loaded.run(example.inputs)[0], example.expected[0])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("source", SOURCES)
def test_a_failed_run_is_forgotten(source: str, order: str, tmp_path: Path) -> None:
    example = mlp()
    with simulated(write(example_for(example, source), tmp_path), device_for(source, order)) as loaded:
        program = loaded.program
        sections = program._globals["SECTIONS"]

        def fail() -> None:
            raise KeyboardInterrupt

        for broken in ((fail, *sections), (*sections, fail)):
            program._globals["SECTIONS"] = broken
            with pytest.raises(KeyboardInterrupt):
                program.run(example.inputs)
        program._globals["SECTIONS"] = sections
        for _ in range(3):
            assert torch.equal(loaded.run(example.inputs)[0], example.expected[0])


@pytest.mark.parametrize("source", SOURCES)
def test_close_ends_everything(source: str, tmp_path: Path) -> None:
    threads = loader_threads()
    with simulated(write(example_for(mlp(), source), tmp_path), device_for(source, "copies first")) as loaded:
        loaded.program.run(mlp().inputs)
        assert loader_threads() > threads
        loaded.program.close()
        assert loader_threads() == threads
        with pytest.raises(HandleError, match="was closed"):
            loaded.program.run(mlp().inputs)


# Rows of tables.


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("ring_nbytes", [least_ring_nbytes([(0, 384, TABLE_ROWS)]), RING])
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
def test_gathers(ids: torch.Tensor, ring_nbytes: int, source: str, tmp_path: Path) -> None:
    example = embedding()
    device = device_for(source, "copies first")
    with simulated(write(example_for(example, source, ring_nbytes), tmp_path), device) as loaded:
        results = [loaded.program.run([ids])[0] for _ in range(2)]
        device.idle()
        assert all(torch.equal(y, example.weights[1][ids]) for y in results)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("index", [-1, TABLE_ROWS, 1 << 40])
def test_indices_are_checked_before_reading(index: int, source: str, tmp_path: Path) -> None:
    example = embedding()
    ids = example.inputs[0].clone()
    with simulated(write(example_for(example, source), tmp_path), device_for(source, "random")) as loaded:
        before = loaded.program.stats().nbytes_read
        ids[7] = index
        with pytest.raises(IndexRangeError, match=f"index {index} is outside table 'wte.weight'.*1000 rows"):
            loaded.run([ids])
        assert loaded.program.stats().nbytes_read == before
        assert torch.equal(loaded.run(example.inputs)[0], example.expected[0])


def test_a_damaged_page_of_a_table_is_never_used(tmp_path: Path) -> None:
    example = embedding()
    path = write(on_cuda(example), tmp_path)
    with simulated(path, SimulatedDevice("copies first")) as loaded:
        loaded.run(example.inputs)
        flip(path, int(example.inputs[0][0]) * 384)
        with pytest.raises(DamageError, match=r"of table 'wte\.weight' has CRC-32"):
            loaded.run(example.inputs)
        flip(path, int(example.inputs[0][0]) * 384)
        assert torch.equal(loaded.run(example.inputs)[0], example.expected[0])


def test_a_damaged_table_is_not_kept_in_host_memory(tmp_path: Path) -> None:
    path = write(on_cuda(embedding(), "host"), tmp_path)
    flip(path, 5)
    device = SimulatedDevice("copies first")
    with (
        pytest.raises(DamageError, match=r"of table 'wte\.weight' has CRC-32"),
        suppress(HandleError),
        simulated(path, device),
    ):
        pass
    device.check_left()


def test_a_ring_without_room_for_a_row_is_refused(tmp_path: Path) -> None:
    device = SimulatedDevice()
    with (
        pytest.raises(ValueError, match="no room for a page"),
        simulated(write(on_cuda(embedding(), ring_nbytes=2 * PAGE), tmp_path), device),
    ):
        pass
    device.check_left()


def test_outputs_are_checked(tmp_path: Path) -> None:
    example = mlp()
    with simulated(write(on_cuda(example), tmp_path), SimulatedDevice()) as loaded:
        mine = torch.empty(4, 64)
        loaded.program.run(example.inputs, {"y": mine})
        loaded.device.idle()
        assert torch.equal(mine, example.expected[0])
        with pytest.raises(InputError, match="must be a float32 tensor"):
            loaded.program.run(example.inputs, {"y": torch.empty(4, 63)})
