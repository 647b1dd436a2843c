"""The public API: compile a module into an artifact, load an artifact. `occ.replanning` has the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from occ.artifact import open_artifact
from occ.codegen.bundle import check_writable
from occ.devices import device_of, target_for
from occ.errors import ArtifactError
from occ.feed import parse_feed
from occ.goals import parse_goal
from occ.model_file import as_call
from occ.pipeline import compile_model
from occ.planned import Compiled
from occ.progress import SILENT, as_progress
from occ.report.dump import Dump
from occ.runtime_stub.integrity import DamageError
from occ.runtime_stub.program import Program
from occ.target import Target


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
    check_writable(output)
    told = as_progress(progress)
    return compile_model(
        name or type(module).__name__,
        module,
        *as_call(example_inputs),
        goal=goal,
        output=output,
        target=target or target_for(device, output.absolute().parent, threads, progress=told),
        feed=feed,
        portable=portable,
        progress=told,
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
