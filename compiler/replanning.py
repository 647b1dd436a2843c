"""Planning an artifact anew: its weights are copied as they are, while the plan is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from occ.artifact import Artifact, checked_sums, open_artifact, opened_weights
from occ.codegen.bundle import (
    NewFile,
    append_archive,
    archive_members,
    check_writable,
    named,
    native_members,
    new_file,
    pages_of,
)
from occ.codegen.checksums import Summing
from occ.codegen.weights import Advance
from occ.devices import device_of, target_for
from occ.errors import InternalError
from occ.feed import parse_feed
from occ.goals import parse_goal
from occ.ir import Plan
from occ.planned import Compiled, planned
from occ.progress import BYTES, SILENT, as_progress
from occ.report.dump import Dump
from occ.report.text import claim
from occ.target import Target
from occ.units import format_bytes


def replan(
    path: str | Path,
    budget: str | int | None,
    output: str | Path,
    *,
    process_budget: str | int | None = None,
    slowdown: str | float | None = None,
    latency: str | float | None = None,
    threads: int | None = None,
    target: Target | None = None,
    stream_from: str | None = None,
    host_budget: str | int | None = None,
    progress: Callable[[str], None] = SILENT,
) -> Compiled:
    """Plan an artifact for another budget, without the model; its weights are copied as they are.

    `budget`, `process_budget`, `slowdown`, `latency` and `host_budget` are those of `compile`, and so is
    `stream_from`, by default what it was. It is planned for `target`, by default this machine with `threads`
    threads (as many as before).
    Raises what `compile` raises, and ArtifactError for a damaged artifact.
    """
    output = Path(output)
    goal = parse_goal(budget, slowdown, latency, process_budget)
    artifact = open_artifact(path)
    source, machine = artifact.source, artifact.plan.machine
    device = device_of(machine.device, target)
    feed = parse_feed(
        device, stream_from or machine.stream_from or None, host_budget, process_budget=process_budget
    )
    check_writable(output)
    told = as_progress(progress)
    folder = output.absolute().parent
    if target is None:
        threads = machine.threads if threads is None else threads
        target = target_for(device, folder, threads, machine.packing, told)
    with replanning(artifact, output) as copying:
        made = planned(source, goal, target, feed, folder, told, Dump(None), copying.settle)
        with told.stage("copying", source.file_nbytes, BYTES) as advance:
            copying.write(made, advance)
    progress(f"wrote {output} ({format_bytes(output.stat().st_size)})")
    progress(claim(made))
    return Compiled(output, made, source)


@dataclass(frozen=True, slots=True)
class Replanning:
    """A copy of the weights of `artifact` that is under way to `new`."""

    artifact: Artifact
    new: NewFile
    summing: Summing

    def settle(self) -> None:
        """Return when all is copied, so that nothing is read or written beside what comes next."""
        self.summing.settle()

    def write(self, plan: Plan, advance: Advance = lambda nbytes: None) -> None:
        """Finish the artifact of a plan of the same source program; `advance` gets the bytes as they are
        copied. Raises what `replanning` raises."""
        source = self.artifact.source
        if plan.program.grains != source.grains or plan.program.file_nbytes != source.file_nbytes:
            raise InternalError(
                f"the new plan expects other weights in the file than {self.artifact.path} has"
            )
        members = archive_members(plan, source, native_members(plan))
        with named(self.new.path):
            # Checked before they are written down for another plan: damage must not get new checksums.
            sums = checked_sums(self.artifact, self.summing, advance)
            append_archive(self.new.file, plan, members, sums.of(plan))
            self.new.keep()


@contextmanager
def replanning(artifact: Artifact, path: Path) -> Iterator[Replanning]:
    """Copy the weights of an artifact to a new file, beside what the block does. The file takes the name
    `path` when `write` ends well, and is gone otherwise.

    Raises ArtifactError where the old artifact is damaged, in its weights too, UsageError where a file cannot
    be read or written, and InternalError where a plan expects other weights.
    """
    with ExitStack() as stack:
        weights = stack.enter_context(opened_weights(artifact.path))
        with named(path):
            new = stack.enter_context(new_file(path))
            pages = stack.enter_context(pages_of(new.file, artifact.source.file_nbytes))
        summing = stack.enter_context(Summing(artifact.source, weights.read_pages, pages.write))
        yield Replanning(artifact, new, summing)


def replan_artifact(artifact: Artifact, path: Path, plan: Plan) -> None:
    """Write an artifact with the weights of another one and a plan for the same source program; see
    `replanning`."""
    with replanning(artifact, path) as copying:
        copying.write(plan)
