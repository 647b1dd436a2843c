"""Networks of the zoo, compiled and served in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

from device import without_occ  # noqa: E402
from measuring import WAIT_POLICIES, Worker  # noqa: E402

RESIDENT = 1000.0
"""Percent of demand at which everything is resident, whatever rounding and workspaces add."""


class CompileError(Exception):
    """A network that could not be compiled; the text is the last line it wrote."""


@dataclass(frozen=True)
class PlanFile:
    """An artifact for `budget` bytes, that is `share` percent of demand or the smallest feasible if larger.

    `arena` in bytes; `seconds` is what planning it took, `latency` and `compute` those predicted of a run.
    """

    share: float
    budget: int
    artifact: Path
    arena: int
    seconds: float
    latency: float
    compute: float


@dataclass(frozen=True)
class Compiled:
    """A network's artifacts; sizes in bytes.

    `floor` is occ's account of what sets the smallest budget; `seconds` is what compiling without a budget
    took, before the plans were made. `threads` is None where every processor computes.
    """

    name: str
    threads: int | None
    kind: str
    inputs: Path
    weights: int
    demand: int
    smallest: int
    floor: str
    seconds: float
    plans: tuple[PlanFile, ...]

    @property
    def label(self) -> str:
        """The network's name in tables."""
        return self.name if self.threads is None else f"{self.name}, threads: {self.threads}"

    def mark(self, plan: PlanFile) -> str:
        """What stands beside a plan in tables: * where the smallest feasible budget is above its share."""
        return "*" if plan.budget > self.demand * plan.share / 100 else ""


def environment() -> dict[str, str]:
    """This process's environment with the modules of benchmarks/ and examples/ importable."""
    path = [str(HERE), str(EXAMPLES), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in path if part)}


def compile_network(name: str, folder: Path, shares: Sequence[float], threads: int | None = None) -> Compiled:
    """Compile in a process of its own for `shares` percent of demand (0: the smallest feasible budget), to
    compute with `threads` threads.

    Raises CompileError.
    """
    script = [sys.executable, str(HERE / "compile_zoo.py")]
    command = [*script, name, str(folder), str(threads or 0), *map(str, shares)]
    try:
        found = answer(command, environment())
    except RuntimeError as error:
        raise CompileError(str(error)) from error
    plans = tuple(PlanFile(**{**plan, "artifact": Path(plan["artifact"])}) for plan in found["plans"])
    return Compiled(name, threads, **{**found, "inputs": Path(found["inputs"]), "plans": plans})


def answer(command: Sequence[str], settings: Mapping[str, str]) -> Any:
    """The JSON that a command writes, run with `settings` as its environment. Raises RuntimeError with the
    last line of its errors where it fails."""
    done = subprocess.run(command, env=dict(settings), capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit code {done.returncode}")
    return json.loads(done.stdout)


def drop_from_page_cache(path: Path) -> None:
    """Make the next read of a file go to storage."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def program_worker(artifact: Path, folder: Path) -> Worker:
    """Serve an artifact in a fresh process that cannot import occ, its weights not in the page cache."""
    drop_from_page_cache(artifact)
    python, device = without_occ(folder / "device")
    return Worker([*python, str(EXAMPLES / "device_run.py"), str(artifact)], device)


def eager_workers(network: Compiled) -> list[Worker]:
    """Serve a network of the zoo in eager PyTorch, in one process per wait policy, in their order."""
    return zoo_workers(network, "eager_zoo.py")


def zoo_workers(network: Compiled, script: str) -> list[Worker]:
    """Serve a network of the zoo by a script of this folder, in a process per wait policy, in their order."""
    command = [sys.executable, str(HERE / script), network.name]
    threads = {} if network.threads is None else {"OMP_NUM_THREADS": str(network.threads)}
    return [Worker(command, environment() | policy | threads) for policy in WAIT_POLICIES.values()]
