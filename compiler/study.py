"""One program planned at many budgets, from a model file or from an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from occ.artifact import open_artifact
from occ.codegen.bundle import write_artifact
from occ.costs import measurer_for
from occ.devices import target_for
from occ.errors import UsageError
from occ.feed import Feed
from occ.goals import Plans
from occ.ir import Plan, Program
from occ.model_file import load_model_file
from occ.pipeline import captured_and_lowered, weight_bytes
from occ.planned import planning_target
from occ.progress import SILENT, Progress
from occ.replanning import replan_artifact
from occ.report.dump import Dump
from occ.target import Target, local_target
from occ.trial import Write


@dataclass(frozen=True)
class Study:
    """An unsplit program with its plans for a target. `own` is the plan of the artifact that it came from,
    None for a model file; `write` writes the artifact of a plan."""

    source: Program
    target: Target
    plans: Plans
    own: Plan | None
    write: Write

    @property
    def plan(self) -> Plan:
        """The artifact's own plan, or the one without a limit."""
        return self.plans.plan(None) if self.own is None else self.own


def is_model_file(spec: str) -> bool:
    """Whether `spec` names MODEL.py[:name], and no artifact."""
    return spec.endswith(".py") or ".py:" in spec


@contextmanager
def study(
    spec: str,
    folder: Path,
    *,
    target: Target | None,
    threads: int | None,
    weights: str | None = None,
    portable: bool = False,
    progress: Progress = SILENT,
) -> Iterator[Study]:
    """The program of MODEL.py[:name] or of an artifact; plans can be made while the block runs.

    `target` is by default this machine with `threads` threads (as many as the artifact's, or all cores),
    reading from `folder`. `weights` and `portable` are for a model file. Raises UsageError for a model that
    cannot be compiled, and ArtifactError for a damaged artifact.
    """
    if is_model_file(spec):
        model = load_model_file(spec, weights)
        target = target or local_target(folder, threads, progress=progress)
        args, kwargs = model.example_inputs
        lowered = captured_and_lowered(
            model.name,
            model.module,
            args,
            kwargs,
            target=target,
            portable=portable,
            progress=progress,
            dump=Dump(None),
        )
        source, own = lowered.program, None

        def write(path: Path, plan: Plan) -> None:
            write_artifact(path, plan, source, weight_bytes(lowered.weights))

    else:
        if weights is not None or portable:
            raise UsageError(
                f"{spec} is an artifact, which has its weights; leave out --weights and --portable"
            )
        artifact = open_artifact(spec)
        source, own = artifact.source, artifact.plan
        threads = own.machine.threads if threads is None else threads
        target = target or target_for(own.machine.device, folder, threads, own.machine.packing, progress)

        def write(path: Path, plan: Plan) -> None:
            replan_artifact(artifact, path, plan)

    feed = Feed() if own is None or not own.machine.stream_from else Feed(own.machine.stream_from)
    with measurer_for(target, folder, progress) as measurer:
        plans = Plans(source, planning_target(source, target, measurer, feed))
        yield Study(source, target, plans, own, write)
