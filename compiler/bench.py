"""Measuring an artifact on this machine: memory, latency, waiting, and eager beside it."""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from occ.artifact import Artifact
from occ.errors import UsageError
from occ.model_file import load_model_file
from occ.runtime_stub import kernels
from occ.runtime_stub.program import Program
from occ.runtime_stub.tensors import dtype_named
from occ.runtime_stub.tree import flatten_inputs


@dataclass(frozen=True)
class Bench:
    """What was planned and what was measured. Bytes and seconds; latencies are medians.

    `measured_nbytes` is the growth of the process's peak resident memory from before the load to after the
    last run. `difference` is the largest |a - b| over the outputs, divided by the largest |b| of eager; it is
    infinite where one of them has a NaN or an infinity that the other has not.
    """

    artifact: str
    runs: int
    planned_nbytes: int
    measured_nbytes: int
    arena_nbytes: int
    predicted_latency: float
    latency: float
    stall: float
    cold_start: float
    streamed_nbytes: int
    bandwidth: float
    eager_latency: float | None
    difference: float | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON, which has no infinity: the text "inf" stands for it."""
        plain = asdict(self)
        if self.difference is not None and math.isinf(self.difference):
            plain["difference"] = "inf"
        return plain


def bench(artifact: Artifact, model: str | None, runs: int) -> Bench:
    """Run an artifact `runs` times after one that warms up; with `model` (MODEL.py[:name]) eager in turns.

    Raises UsageError for a model whose inputs do not fit.
    """
    plan = artifact.plan
    torch.set_num_threads(plan.machine.threads)
    eager = None
    if model is not None:
        loaded = load_model_file(model)
        args, kwargs = loaded.example_inputs
        eager = loaded.module.eval()
    else:
        args, kwargs = (), {}
    inputs = _inputs(artifact, args, kwargs) if eager else list(map(_example, artifact.manifest["inputs"]))

    warm_up()
    with _peak_growth() as growth:
        program = Program(artifact.path, artifact.manifest, artifact.text, artifact.page_crcs)
        outputs = program.run(inputs)
        measured = growth()
    with program:
        latencies, stalls, eager_latencies = [], [], []
        difference = None
        read = program.stats().nbytes_read
        if eager is not None:
            difference = _difference(outputs, _run_eager(eager, args, kwargs))
        for _ in range(runs):
            program.run(inputs)
            stats = program.stats()
            latencies.append(stats.last_latency)
            stalls.append(stats.last_stall)
            if eager is not None:
                began = time.perf_counter()
                _run_eager(eager, args, kwargs)
                eager_latencies.append(time.perf_counter() - began)
        stats = program.stats()
    latency = statistics.median(latencies)
    streamed = (stats.nbytes_read - read) // runs
    return Bench(
        artifact=artifact.path,
        runs=runs,
        planned_nbytes=plan.budget.total,
        measured_nbytes=measured,
        arena_nbytes=plan.budget.arena,
        predicted_latency=plan.prediction.latency,
        latency=latency,
        stall=statistics.median(stalls),
        cold_start=stats.cold_start,
        streamed_nbytes=streamed,
        bandwidth=streamed / latency,
        eager_latency=statistics.median(eager_latencies) if eager_latencies else None,
        difference=difference,
    )


def warm_up() -> None:
    """Call each family of kernels once on tiny tensors: the code and tables that torch, oneDNN and MKL then
    load belong to no program."""
    with torch.inference_mode():
        picture = torch.ones(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(picture)
        for dtype in (torch.float32, torch.bfloat16):
            matrix = torch.ones(16, 16, dtype=dtype)
            torch.addmm(matrix[0], matrix, matrix, out=torch.empty_like(matrix))
        kernels.convolution(
            picture, torch.ones(16, 16, 1, 1), None, (1, 1), (0, 0), (1, 1), 1, True, None, out
        )
        torch.nn.functional.scaled_dot_product_attention(picture, picture, picture)
        torch.layer_norm(picture, (8,))
        torch.nn.functional.gelu(torch.softmax(picture, -1))


class _peak_growth:
    """Growth of the peak resident set since the block began, in bytes; the kernel keeps the peak."""

    def __enter__(self) -> Callable[[], int]:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = _status_nbytes("VmRSS")
        return lambda: _status_nbytes("VmHWM") - before

    def __exit__(self, *_: object) -> None:
        pass


def _status_nbytes(field: str) -> int:
    def lines() -> Iterator[str]:
        with open("/proc/self/status") as file:
            yield from file

    line = next(line for line in lines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _run_eager(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    with torch.inference_mode():
        return [leaf for leaf in tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]


def _inputs(artifact: Artifact, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[object]:
    """The model's example inputs in the artifact's order; copies, as a program may write into its inputs."""
    names = [spec["name"] for spec in artifact.manifest["inputs"]]
    given = flatten_inputs(artifact.manifest["input_tree"], names, args, kwargs)
    return [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in given]


def _difference(outputs: list[Tensor], expected: list[Tensor]) -> float:
    ours, theirs = ([tuple(tensor.shape) for tensor in tensors] for tensors in (outputs, expected))
    if ours != theirs:
        raise UsageError(
            f"the artifact has outputs of shapes {ours} and the model of {theirs}; is it the same?"
        )
    return max(map(_relative_difference, outputs, expected), default=0.0)


def _relative_difference(ours: Tensor, theirs: Tensor) -> float:
    wide = torch.complex128 if theirs.is_complex() else torch.float64
    a, b = ours.to(wide), theirs.to(wide)
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite) or not torch.equal(
        a[~finite].nan_to_num(nan=0.5), b[~finite].nan_to_num(nan=0.5)
    ):
        return math.inf
    if not finite.any():
        return 0.0
    return float((a - b)[finite].abs().max()) / (float(b[finite].abs().max()) or 1.0)


def _example(spec: dict[str, Any]) -> Tensor:
    dtype = dtype_named(spec["dtype"])
    if dtype.is_floating_point:
        return torch.randn(spec["shape"]).to(dtype)
    return torch.zeros(spec["shape"], dtype=dtype)
