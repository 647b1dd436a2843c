"""Measuring an artifact on this machine: memory, latency, waiting, and eager beside it."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from occ.artifact import Artifact
from occ.errors import UsageError
from occ.fresh_run import RUNS, FreshRun, fresh_run
from occ.model_file import load_model_file
from occ.progress import SILENT, Progress
from occ.resident import peak_nbytes
from occ.runtime_stub.program import Program
from occ.runtime_stub.tensors import dtype_named
from occ.runtime_stub.trace import StepTrace
from occ.runtime_stub.tree import flatten_inputs
from occ.warm_up import warm_up

TRACED = 7
"""Runs of which each step's time is the median, where a trace is taken."""


@dataclass(frozen=True)
class Bench:
    """What was planned and what was measured. Bytes and seconds; latencies are medians.

    `measured_nbytes` is by how far the resident memory of a process of its own grew at its peak, from before
    the load; `process_nbytes` is that peak, and `planned_process_nbytes` what the plan expects of it.
    `planned_nbytes` is arena, outputs, workspace and loader. On a GPU these are the device's bytes, and
    `measured_nbytes` its allocator's peak; `host_nbytes` is what is pinned of the host's. `cold_start` is
    from the beginning of the load to the first outputs. `difference` is the largest |a - b| over the outputs,
    divided by the largest |b| of eager; it is infinite where one of them has a NaN or an infinity that the
    other has not.
    """

    artifact: str
    runs: int
    planned_nbytes: int
    measured_nbytes: int
    arena_nbytes: int
    outputs_nbytes: int
    workspace_nbytes: int
    loader_nbytes: int
    planned_process_nbytes: int
    process_nbytes: int
    predicted_latency: float
    latency: float
    stall: float
    cold_start: float
    streamed_nbytes: int
    bandwidth: float
    eager_latency: float | None
    difference: float | None
    host_nbytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As JSON, which has no infinity: the text "inf" stands for it."""
        plain = asdict(self)
        if self.difference is not None and math.isinf(self.difference):
            plain["difference"] = "inf"
        return plain


def bench(
    artifact: Artifact,
    model: str | None,
    runs: int,
    trace: StepTrace | None = None,
    progress: Progress = SILENT,
) -> Bench:
    """Run an artifact `runs` times after one that warms up; with `model` (MODEL.py[:name]) eager in turns.

    `trace` records TRACED runs more, which count for nothing else.
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

    on_cuda = plan.machine.device == "cuda"
    if on_cuda:
        fresh = _on_device(artifact, inputs)
        if eager is not None:
            eager = eager.cuda()
            args, kwargs = tree_map_only(Tensor, Tensor.cuda, (args, kwargs))
    else:
        with progress.stage("running in a fresh process"):
            fresh = fresh_run(artifact.path, artifact.manifest["machine"], inputs)
        warm_up()
    with Program(artifact.path, artifact.manifest, artifact.text, artifact.page_crcs) as program:
        outputs = program.run(inputs)
        latencies, stalls, eager_latencies = [], [], []
        difference = None
        read = program.stats().nbytes_read
        if eager is not None:
            difference = _difference(outputs, _run_eager(eager, args, kwargs))
        with progress.stage("running", runs, "runs", ticking=False) as advance:
            for _ in range(runs):
                program.run(inputs)
                stats = program.stats()
                latencies.append(stats.last_latency)
                stalls.append(stats.last_stall)
                if eager is not None:
                    began = time.perf_counter()
                    _run_eager(eager, args, kwargs)
                    eager_latencies.append(time.perf_counter() - began)
                advance(1)
        stats = program.stats()
        if trace is not None:
            for _ in range(TRACED):
                program.run(inputs, trace=trace)
            program.settle()
    latency = statistics.median(latencies)
    streamed = (stats.nbytes_read - read) // runs
    return Bench(
        artifact=artifact.path,
        runs=runs,
        planned_nbytes=plan.budget.total,
        measured_nbytes=fresh.growth,
        arena_nbytes=plan.budget.arena,
        outputs_nbytes=plan.budget.outputs,
        workspace_nbytes=plan.budget.workspace,
        loader_nbytes=plan.budget.loader,
        planned_process_nbytes=plan.budget.process_total,
        process_nbytes=fresh.process,
        predicted_latency=plan.prediction.latency,
        latency=latency,
        stall=statistics.median(stalls),
        cold_start=fresh.cold_start,
        streamed_nbytes=streamed,
        bandwidth=streamed / latency,
        eager_latency=statistics.median(eager_latencies) if eager_latencies else None,
        difference=difference,
        host_nbytes=stats.host_nbytes,
    )


def _run_eager(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    with torch.inference_mode():
        found = [leaf for leaf in tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]
    if any(leaf.is_cuda for leaf in found):
        torch.cuda.synchronize()
    return found


def _on_device(artifact: Artifact, inputs: list[object]) -> FreshRun:
    """A few runs on a GPU from the load on: what its allocator gave at the peak, beside the resident memory
    of this process."""
    torch.cuda.init()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    with Program(artifact.path, artifact.manifest, artifact.text, artifact.page_crcs) as program:
        program.run(inputs)
        torch.cuda.synchronize()
        cold_start = time.perf_counter() - began
        for _ in range(RUNS - 1):
            program.run(inputs)
        torch.cuda.synchronize()
        growth = int(torch.cuda.max_memory_allocated()) - int(before)
    return FreshRun(peak_nbytes(), growth, cold_start)


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
    a, b = ours.to("cpu", wide), theirs.to("cpu", wide)
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
