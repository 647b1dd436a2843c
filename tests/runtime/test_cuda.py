"""The runtime on a CUDA device, where there is one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from occ.runtime_stub.integrity import DamageError
from occ.runtime_stub.program import Program, load
from occ.runtime_stub.trace import StepTrace
from tests.runtime.device_plans import RING, chain, on_cuda, write
from tests.tiny_plans import EXAMPLES, Example, counter, embedding, mlp

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

SOURCES = ("ssd", "host")


@contextmanager
def on_device(example: Example, folder: Path, source: str = "ssd", graphs: bool = False) -> Iterator[Program]:
    path = write(on_cuda(example, source, RING, graphs), folder)
    with load(path) as program:
        yield program


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one.cpu(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["mlp", "embedding", "aliases"])
def test_runs_repeat(name: str, source: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]()
    with on_device(example, tmp_path, source) as program:
        for place in ("cuda", "cpu", "cuda"):
            inputs = [tensor.to(place) for tensor in example.inputs]
            outputs = [program.run(inputs) for _ in range(3)]
            for run in outputs:
                assert all(close(a, b) for a, b in zip(run, example.expected, strict=True))


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("seed", range(4))
def test_any_plan(seed: int, source: str, graphs: bool, tmp_path: Path) -> None:
    example = chain(seed, 8)
    with on_device(example, tmp_path, source, graphs) as program:
        results = [program.run([example.inputs[0].cuda()])[0] for _ in range(6)]
        assert all(close(y, example.expected[0]) for y in results)


@pytest.mark.parametrize("source", SOURCES)
def test_the_device_memory_is_the_arena_and_stays_so(source: str, tmp_path: Path) -> None:
    example = mlp()
    x = example.inputs[0].cuda()
    torch.mm(x, x.t())  # whatever cuBLAS takes for the caller's stream
    gc.collect()
    before = torch.cuda.memory_allocated()
    with on_device(example, tmp_path, source) as program:
        arena = torch.cuda.memory_allocated() - before
        assert arena == program.manifest["arena_nbytes"]
        for _ in range(3):
            program.run([x])
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        settled = torch.cuda.memory_allocated()
        calls = torch.cuda.memory_stats()["num_alloc_retries"], torch.cuda.memory_reserved()
        for _ in range(100):
            program.run([x])
        torch.cuda.synchronize()
        outputs = sum(y.nbytes for y in program.run([x]))
        assert torch.cuda.max_memory_allocated() - settled <= 2 * max(outputs, 512)
        assert (torch.cuda.memory_stats()["num_alloc_retries"], torch.cuda.memory_reserved()) == calls
        del x


def test_the_callers_stream_is_kept_in_order(tmp_path: Path) -> None:
    """An input that is written in the caller's stream just before, an output read in it just after."""
    example = mlp()
    stream = torch.cuda.Stream()
    with on_device(example, tmp_path) as program, torch.cuda.stream(stream):
        x = torch.zeros_like(example.inputs[0], device="cuda")
        source = example.inputs[0].cuda()
        torch.cuda._sleep(20_000_000)
        x.copy_(source)
        [y] = program.run([x])
        assert close(y.clone(), example.expected[0])


def test_state_is_kept_and_reset(tmp_path: Path) -> None:
    example = counter()
    with on_device(example, tmp_path) as program:
        for count in (1, 2, 3):
            program.run(example.inputs)
            assert program._globals["total"].tolist() == [1.0 + count, 2.0 + count, 3.0 + count, 4.0 + count]
        program.reset()
        program.run(example.inputs)
        assert program._globals["total"].tolist() == [2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("source", SOURCES)
def test_gathers(source: str, tmp_path: Path) -> None:
    example = embedding()
    with on_device(example, tmp_path, source) as program:
        for ids in (torch.arange(40), torch.full((40,), 999), torch.arange(999, -1, -25)):
            assert torch.equal(program.run([ids.cuda()])[0].cpu(), example.weights[1][ids])


def test_a_damaged_tile_is_never_used(tmp_path: Path) -> None:
    example = mlp()
    path = write(on_cuda(example), tmp_path)
    with open(path, "r+b") as file:
        file.seek(5)
        file.write(b"\xff\xff")
    with load(path) as program, pytest.raises(DamageError, match="CRC-32"):
        program.run(example.inputs)


def test_a_trace_has_the_devices_times(tmp_path: Path) -> None:
    example = mlp()
    with on_device(example, tmp_path) as program:
        program.run(example.inputs)
        trace = StepTrace(program.text)
        program.run(example.inputs, trace=trace)
        assert program.stats().last_latency > 0
    statements = trace.events()
    assert [each.number for each in statements if each.kind == "step"] == [0, 1, 2, 3]
    assert all(each.began <= each.ended for each in statements)
