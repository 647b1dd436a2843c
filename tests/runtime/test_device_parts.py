"""The parts that a program on a device is made of, each by itself: ring, sizes, sources, graphs, traces."""

from __future__ import annotations

import inspect
import json
import linecache
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from occ.runtime_stub.chrome import chrome_trace
from occ.runtime_stub.device import Graph
from occ.runtime_stub.errors import MachineError
from occ.runtime_stub.graphs import Graphs
from occ.runtime_stub.hostmemory import (
    RING_NBYTES,
    host_nbytes,
    least_ring_nbytes,
    ring_of,
    rows_nbytes,
    store_nbytes,
)
from occ.runtime_stub.integrity import read_member
from occ.runtime_stub.jobs import PAGE, StagedJob
from occ.runtime_stub.machine import check_machine
from occ.runtime_stub.ring import Ring
from occ.runtime_stub.sources import forget, module_of
from occ.runtime_stub.trace import StepTrace
from tests.runtime.device_plans import chain, on_cuda, write
from tests.runtime.simulated_device import SimulatedDevice, simulated
from tests.tiny_plans import Example, mlp


@pytest.mark.parametrize("seed", range(20))
def test_a_ring_gives_each_byte_to_one(seed: int) -> None:
    """Against a list of who has which byte."""
    random = Random(seed)
    nbytes = random.randint(1, 12)
    ring = Ring(100, nbytes)
    owner: list[int | None] = [None] * nbytes
    taken: list[tuple[int, int]] = []
    for number in range(300):
        if taken and random.random() < 0.5:
            address, count = taken.pop(0)
            owner[address : address + count] = [None] * count
            ring.give_back()
        wanted = random.randint(1, nbytes)
        assert ring.free == owner.count(None)
        found = ring.take(wanted)
        if found is None:
            assert owner.count(None) < wanted
            assert taken
            continue
        address, count = found[0] - 100, found[1]
        assert 0 < count <= wanted
        assert count == wanted or address + count == nbytes
        assert owner[address : address + count] == [None] * count
        owner[address : address + count] = [number] * count
        taken.append((address, count))


def test_a_ring_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="holds nothing"):
        Ring(0, 0)


def test_bytes_of_the_host() -> None:
    tiles = [(0, 3 * PAGE), (3 * PAGE, PAGE), (4 * PAGE, 2 * PAGE)]
    table = (6 * PAGE + 512, 384, 100)  # touches pages 6 to 15
    assert store_nbytes(tiles, [1], [table]) == 5 * PAGE + 10 * PAGE
    assert host_nbytes("ssd", 8 * PAGE, tiles, [1], [table]) == 8 * PAGE
    assert host_nbytes("host", 8 * PAGE, tiles, [1], [table]) == 8 * PAGE + 15 * PAGE
    assert ring_of(0, tiles, []) == 6 * PAGE
    assert ring_of(0, [(0, 1 << 30)], []) == RING_NBYTES
    assert ring_of(0, [], []) == least_ring_nbytes([]) == PAGE
    # A row and the pages that it touches, and a page to read tiles through.
    assert least_ring_nbytes([table, (0, 5000, 3)]) == PAGE + 2 * 3 * PAGE
    assert rows_nbytes(64 * PAGE, [table]) == 8 * PAGE
    assert rows_nbytes(64 * PAGE, []) == 0


def test_sources_are_found_by_a_compiler() -> None:
    text = "import math\n\n\ndef twice(x):\n    # as it stands\n    return 2 * x\n"
    module = module_of(text, "<kernels of a test>", "occ_kernels_of_a_test")
    assert module.twice(4) == 8
    assert inspect.getsource(module.twice) == "def twice(x):\n    # as it stands\n    return 2 * x\n"
    assert sys.modules[module.__name__] is module
    forget(module)
    assert module.__name__ not in sys.modules
    assert "<kernels of a test>" not in linecache.cache


def test_a_missing_compiler_is_said_in_one_line() -> None:
    with pytest.raises(MachineError, match=r"cannot be imported .*no_such_compiler.*; pip install triton"):
        module_of("import no_such_compiler\n", "<kernels>", "occ_kernels_of_a_test")
    assert "occ_kernels_of_a_test" not in sys.modules


def test_any_torch_will_do_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE", "TORCH_CUBLASLT_UNIFIED_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "of the user")
    check_machine({"device": "cuda", "torch": "1.9.0", "product_nbytes": 1 << 20})
    import os

    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == "of the user"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    check_machine({"device": "cuda", "torch": "1.9.0", "product_nbytes": 1 << 20})
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":1024:1"


def test_without_a_device_there_is_one_line(tmp_path: Path) -> None:
    from occ.runtime_stub.program import load

    if torch.cuda.is_available():
        pytest.skip("there is a device here")
    with pytest.raises(MachineError, match=r"compiled for cuda and torch .* finds no CUDA device here"):
        load(write(on_cuda(chain(1)), tmp_path))


# Graphs.


class Recorder:
    """A device that captures by noting what ran, where it can."""

    def __init__(self, able: bool) -> None:
        self.able = able
        self.captures = 0

    def capture(self, function: Callable[[], None]) -> Graph | None:
        self.captures += 1
        return Replay(function) if self.able else None


class Replay:
    replays = 0

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def replay(self) -> None:
        Replay.replays += 1
        self._function()


@pytest.mark.parametrize("able", [True, False])
def test_a_stretch_is_captured_once(able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replay, "replays", 0)
    device = Recorder(able)
    graphs = Graphs(device)  # type: ignore[arg-type]
    ran = []

    def stretch_0() -> None:
        ran.append(0)

    for count in range(1, 6):
        graphs.replay(stretch_0)
        assert len(ran) == count
    assert device.captures == 1
    assert Replay.replays == (4 if able else 0)
    assert graphs.refused == ([] if able else ["stretch_0"])


def resident_chain() -> Example:
    """A chain whose weights all stay, so that all of it but its ends is one stretch."""
    example = chain(3, layers=7)
    plan = example.plan
    offsets, end = [], plan.budget.arena
    for tile in plan.sizing.tiles:
        offsets.append(end)
        end += tile.nbytes
    sizing = replace(plan.sizing, resident=tuple(tile.id for tile in plan.sizing.tiles), loads=())
    budget = replace(plan.budget, arena=end)
    return replace(example, plan=replace(plan, sizing=sizing, tile_offsets=tuple(offsets), budget=budget))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("order", ["copies first", "kernels first"])
def test_replayed_stretches_compute_the_same(order: str, streamed: bool, tmp_path: Path) -> None:
    example = on_cuda(chain(3, 7) if streamed else resident_chain(), graphs=True)
    device = SimulatedDevice(order)
    with simulated(write(example, tmp_path), device) as loaded:
        results = [loaded.program.run(example.inputs)[0] for _ in range(5)]
        device.idle()
        for y in results:
            assert torch.equal(y, example.expected[0])
    stretches = loaded.program.text.count("    replay(stretch_")
    assert stretches > 0 or streamed
    # Not in the run that warms up; from the second on each is replayed.
    assert device.replays == 4 * stretches


@pytest.mark.parametrize("source", ["ssd", "host"])
def test_a_trace_has_the_copies(source: str, tmp_path: Path) -> None:
    example = on_cuda(mlp(), source)
    with simulated(write(example, tmp_path), SimulatedDevice("copies first")) as loaded:
        loaded.run(example.inputs)
        trace = StepTrace(loaded.program.text)
        loaded.program.run(example.inputs, trace=trace)
        plan = json.loads(read_member(loaded.program.path, "plan.json"))["plan"]
    jobs = [job for job in trace.jobs if isinstance(job, StagedJob)]
    # That of tile 0, for the next run, may be on its way when the run ends.
    assert [job.tile.id for job in jobs] == [1, 0]
    assert sum(copy.nbytes for copy in jobs[0].copies) == jobs[0].tile.nbytes
    assert not jobs[0].marks
    events = chrome_trace(trace, plan)["traceEvents"]
    assert "copies" in [event["args"].get("name") for event in events if event["ph"] == "M"]
    assert {event["name"] for event in events if event.get("cat") == "copy"} >= {"fc2.weight"}
    json.dumps(events, allow_nan=False)


def test_a_trace_has_every_step_of_a_stretch(tmp_path: Path) -> None:
    """With the device's clock, which here counts what has run."""
    example = on_cuda(resident_chain(), graphs=True)
    device = SimulatedDevice("copies first")
    with simulated(write(example, tmp_path), device) as loaded:
        program = loaded.program
        for _ in range(3):
            program.run(example.inputs)
        trace = StepTrace(program.text)
        program.run(example.inputs, trace=trace)
    statements = trace.events()
    assert [each.number for each in statements if each.kind == "step"] == list(range(8))
    assert [each.kind for each in statements].count("wait") == 7
    ends = [(each.began, each.ended) for each in statements]
    assert ends == sorted(ends)
    assert len(trace.runs) == 1
