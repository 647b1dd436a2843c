"""An artifact in a process of its own, as on a device: what the process takes, and how soon it answers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from occ.child import Child, ChildError
from occ.errors import ArtifactError, InternalError
from occ.target import openmp_settings

RUNS = 3
SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class FreshRun:
    """Bytes and seconds. `process` is the peak of the resident memory, `growth` how far that is above what
    was resident when all was imported and each kind of kernel had been called once; both count page tables.
    `cold_start` is from the beginning of the load to the outputs of the first run."""

    process: int
    growth: int
    cold_start: float


def fresh_run(path: str, machine: dict[str, Any], inputs: Sequence[object]) -> FreshRun:
    """Load the artifact at `path` and run it RUNS times on `inputs`, in the manifest's order; `machine` is
    the manifest's. Raises ArtifactError for a damaged weight, and InternalError where the process ends early.
    """
    with (
        tempfile.TemporaryDirectory(prefix="occ-") as folder,
        Child("occ.fresh_run_child", openmp_settings(machine["threads"], machine["spin"])) as child,
    ):
        given = Path(folder) / "inputs.pt"
        torch.save(list(inputs), given)
        request = {"path": path, "inputs": str(given), "threads": machine["threads"], "runs": RUNS}
        try:
            found = child.ask(request, SECONDS)
        except ChildError as error:
            raise InternalError(f"the process that runs {path} {error}") from error
    if "damage" in found:
        raise ArtifactError(found["damage"])
    return FreshRun(found["process"], found["growth"], found["cold_start"])
