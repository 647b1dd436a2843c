"""Programs of networks for the GPU that is here: compiled, run, timed, and compared with eager mode."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import overlay  # noqa: F401  before occ
import torch
from torch import Tensor, nn

from occ.accelerator import Accelerator, accelerator_from_json
from occ.codegen.bundle import write_artifact
from occ.costs import Model
from occ.cuda_child import Cuda, profile
from occ.feed import Feed, check_memories
from occ.goals import Plans
from occ.ir import Plan
from occ.pipeline import captured_and_lowered, weight_bytes
from occ.planned import planning_target
from occ.progress import SILENT
from occ.report.dump import Dump
from occ.runtime_stub.program import Program, load
from occ.target import Target, read_target
from occ.verify import verify

NOMINAL = Path(__file__).parent / "targets" / "h100-nominal.json"
WARM_UP = 5
RUNS = 30


@dataclass(frozen=True)
class Network:
    """A module with its example, on the CPU; `name` is the program's."""

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]


def device_target() -> Target:
    """The GPU of this machine, measured, beside a nominal host: nothing of the CPU is measured."""
    accelerator = accelerator_from_json(profile(Cuda()))
    return replace(
        read_target(NOMINAL), name="here", torch=str(torch.__version__), accelerator=accelerator, kernels={}
    )


def accelerator_of(target: Target) -> Accelerator:
    assert target.accelerator is not None
    return target.accelerator


class Compiler:
    """A network lowered once; `program` makes and loads an artifact of it."""

    def __init__(self, network: Network, target: Target, folder: Path) -> None:
        self._folder = folder
        self._target = target
        self._name = network.name
        self._lowered = captured_and_lowered(
            network.name,
            network.module,
            network.inputs,
            {},
            target=target,
            portable=False,
            progress=SILENT,
            dump=Dump(None),
        )

    @property
    def demand(self) -> int:
        """Bytes of weights and of activations at their peak."""
        return self._lowered.program.demand

    def plan(self, budget: int | None, stream_from: str = "ssd") -> Plan:
        """A proven plan, by modelled costs: measuring every kernel would take longer than all checks."""
        source = self._lowered.program
        costs = Model(self._target, accelerator_of(self._target))
        feed = Feed(stream_from)
        made = Plans(source, planning_target(source, self._target, costs, feed)).plan(budget)
        check_memories(made, self._target)
        verify(made)
        return made

    def program(self, plan: Plan) -> Program:
        """The plan's artifact, written and loaded."""
        path = self._folder / f"{self._name}.occ"
        write_artifact(path, plan, self._lowered.program, weight_bytes(self._lowered.weights))
        return load(str(path))


def latency(run: Callable[[], object]) -> float:
    """Seconds from a call to the end of its work on the device: the median of RUNS after a few."""
    for _ in range(WARM_UP):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def eager(module: nn.Module, given: tuple[Tensor, ...], *, compiled: bool = False) -> tuple[Tensor, float]:
    """Result and latency of a module on the GPU, with `compiled` by torch.compile. It works on a copy: a
    program's weights are the module's."""
    copied = copy.deepcopy(module).cuda()
    run = torch.compile(copied) if compiled else copied
    with torch.inference_mode():
        return run(*given), latency(lambda: run(*given))


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest value; infinite where one is not finite and the other is."""
    one, other = found.double(), wanted.double()
    if not torch.equal(one.isfinite(), other.isfinite()):
        return float("inf")
    finite = other.isfinite()
    return float((one - other)[finite].abs().max() / other[finite].abs().max().clamp_min(1e-30))
