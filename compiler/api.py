"""The public API: compile a module into an artifact, load an artifact, plan an artifact anew."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn

from occ.artifact import open_artifact
from occ.codegen.bundle import replan_artifact
from occ.errors import ArtifactError, UsageError
from occ.goals import parse_goal
from occ.model_file import as_call
from occ.pipeline import Compiled, compile_model, planned
from occ.progress import BYTES, SILENT, as_progress
from occ.report.dump import Dump
from occ.report.text import claim
from occ.runtime_stub.integrity import DamageError
from occ.runtime_stub.program import Program
from occ.target import Target, local_target
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

    Raises UsageError for a model or inputs that cannot be compiled, a latency that no budget meets and an
    output that cannot be written, and BudgetError, which names the smallest budget that works, where the
    budget is below it. Nothing is written then.
    """
    output = Path(output)
    goal = parse_goal(budget, slowdown, latency, process_budget)
    _check_writable(output)
    return compile_model(
        name or type(module).__name__,
        module,
        *as_call(example_inputs),
        goal=goal,
        output=output,
        target=target or local_target(output.absolute().parent, threads),
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
    progress: Callable[[str], None] = SILENT,
) -> Compiled:
    """Plan an artifact for another budget, without the model; its weights are copied as they are.

    `budget`, `process_budget`, `slowdown` and `latency` are those of `compile`.
    It is planned for `target`, by default this machine with `threads` threads (as many as before).
    Raises what `compile` raises, and ArtifactError for a damaged artifact.
    """
    output = Path(output)
    goal = parse_goal(budget, slowdown, latency, process_budget)
    artifact = open_artifact(path)
    _check_writable(output)
    threads = artifact.plan.machine.threads if threads is None else threads
    told = as_progress(progress)
    made = planned(
        artifact.source,
        goal,
        target or local_target(output.absolute().parent, threads),
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
