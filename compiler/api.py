"""The public API: compile a module into an artifact, load an artifact, plan an artifact anew."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn

from occ.artifact import open_artifact
from occ.codegen.bundle import replan_artifact
from occ.devices import device_of, target_for
from occ.errors import ArtifactError, UsageError
from occ.feed import parse_feed
from occ.goals import parse_goal
from occ.model_file import as_call
from occ.pipeline import Compiled, compile_model, planned
from occ.progress import BYTES, SILENT, as_progress
from occ.report.dump import Dump
from occ.report.text import claim
from occ.runtime_stub.integrity import DamageError
from occ.runtime_stub.program import Program
from occ.target import Target
from occ.units import format_bytes


def compile(
    module: nn.Module,
    example_inputs: object,
    budget: str | int | None = None,
    output: str | Path = "model.occ",
    *,
    process_budget: str | int | None = None,
    slowdown: str | float | None = None,
    latency: str | float | None = None,
    name: str | None = None,
    threads: int | None = None,
    target: Target | None = None,
    device: str | None = None,
    stream_from: str | None = None,
    host_budget: str | int | None = None,
    portable: bool = False,
    dump: str | Path | None = None,
    progress: Callable[[str], None] = SILENT,
) -> Compiled:
    """Compile `module` into the artifact `output`.

    `example_inputs` is a tuple of positional arguments, a dict of keyword arguments, or a pair of both; the
    program takes inputs of just those shapes and types. `budget` is bytes or a text such as "512MB"; None or
    "unlimited" keeps all weights resident, "min" is the smallest that works, "auto" the smallest whose
    predicted latency is within `slowdown` ("5%" or 0.05, the default) of unlimited. With `latency` ("120ms"
    or seconds) and no budget it is the smallest that is predicted to meet that. `process_budget`, in place of
    a budget, is what the whole process may take, the interpreter and torch included. `target` is what the
    program is planned for, by default this machine with `threads` threads (all cores). With `portable` the
    artifact runs on other processors too, more slowly. `dump` is a directory that gets each stage as a text
    file.

    `device` is "cpu" or "cuda", by default what `target` is; without a GPU here, "cuda" needs a `target`
    that has one. The budget is then the device's memory, and `host_budget` that of the host: weights that a
    run streams come from the SSD through a pinned ring (`stream_from` "ssd", the default) or out of pinned
    memory that holds them ("host").

    Raises UsageError for a model or inputs that cannot be compiled, a latency that no budget meets and an
    output that cannot be written, and BudgetError, which names the smallest budget that works, where the
    budget is below it. Nothing is written then.
    """
    output = Path(output)
    goal = parse_goal(budget, slowdown, latency, process_budget)
    device = device_of(device, target)
    feed = parse_feed(device, stream_from, host_budget, process_budget=process_budget, portable=portable)
    _check_writable(output)
    return compile_model(
        name or type(module).__name__,
        module,
        *as_call(example_inputs),
        goal=goal,
        output=output,
        target=target or target_for(device, output.absolute().parent, threads),
        feed=feed,
        portable=portable,
        progress=as_progress(progress),
        dump=Dump(None if dump is None else Path(dump)),
    )


def load(path: str | Path) -> Program:
    """Check an artifact and load it, ready to be called as the module was.

    Nothing of it runs before its structure, plan and program are verified; each tile is checked before the
    first step reads it. Raises ArtifactError for a damaged artifact.
    """
    artifact = open_artifact(path)
    try:
        return Program(artifact.path, artifact.manifest, artifact.text, artifact.page_crcs)
    except DamageError as error:
        raise ArtifactError(str(error)) from error


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
    machine = artifact.plan.machine
    device = device_of(machine.device, target)
    feed = parse_feed(
        device, stream_from or machine.stream_from or None, host_budget, process_budget=process_budget
    )
    _check_writable(output)
    threads = machine.threads if threads is None else threads
    told = as_progress(progress)
    folder = output.absolute().parent
    made = planned(
        artifact.source,
        goal,
        target or target_for(device, folder, threads),
        feed,
        folder,
        told,
        Dump(None),
    )
    with told.stage("copying", artifact.source.file_nbytes, BYTES) as advance:
        replan_artifact(path, output, made, advance)
    progress(f"wrote {output} ({format_bytes(output.stat().st_size)})")
    progress(claim(made))
    return Compiled(output, made, artifact.source)


def _check_writable(output: Path) -> None:
    """Raise UsageError where a file cannot take the name `output`: before the work, not after it."""
    if output.exists() and not output.is_file():
        raise UsageError(f"cannot write {output}: it is not a file; give the artifact another name")
    try:
        with tempfile.TemporaryFile(dir=output.absolute().parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
