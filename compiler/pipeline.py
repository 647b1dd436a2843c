"""From a module to an artifact: the stages in order, each a pure function of the one before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from occ.capture import capture
from occ.codegen.bundle import write_artifact
from occ.codegen.native.compiler import find_compiler
from occ.codegen.weights import WeightBytes
from occ.feed import Feed
from occ.goals import Goal
from occ.lower import Lowered, lower
from occ.native import native_level
from occ.planned import Compiled, planned
from occ.progress import BYTES, Progress
from occ.report.dump import Dump
from occ.report.text import claim
from occ.runtime_stub.machine import planned_threads
from occ.runtime_stub.packed import probe
from occ.target import Target
from occ.units import format_bytes


def compile_model(
    name: str,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    goal: Goal,
    output: Path,
    target: Target,
    feed: Feed,
    portable: bool,
    progress: Progress,
    dump: Dump,
) -> Compiled:
    """Compile `module`, called as `module(*args, **kwargs)`, into the artifact `output`.

    `goal` is the budget, or what chooses one (see `occ.goals`), `feed` how weights reach a target that has
    memory of its own. With `portable`, weights are stored as plain tensors and kernels are torch's, which
    run on any machine. Raises UsageError for what cannot be compiled
    and BudgetError for a budget that is too small; then nothing is written.
    """
    lowered = captured_and_lowered(
        name, module, args, kwargs, target=target, portable=portable, progress=progress, dump=dump
    )
    source = lowered.program
    made = planned(source, goal, target, feed, output.absolute().parent, progress, dump)
    with progress.stage("writing", source.file_nbytes, BYTES) as advance:
        write_artifact(output, made, source, weight_bytes(lowered.weights), advance)
    progress(f"wrote {output} ({format_bytes(output.stat().st_size)})")
    progress(claim(made))
    return Compiled(output, made, source)


def captured_and_lowered(
    name: str,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    target: Target,
    portable: bool,
    progress: Progress,
    dump: Dump,
) -> Lowered:
    """The unsplit program of a module, with its weights; the arguments are those of `compile_model`."""
    with progress.stage("capturing"):
        captured = capture(module, (args, dict(kwargs)))
    progress(f"captured {len(captured.exported.graph.nodes)} operators")
    on_cpu = target.device == "cpu"
    pack = on_cpu and not portable and packs_for(target, progress)
    native = not on_cpu or (not portable and compiles_for(target, progress))
    with planned_threads(target.threads), progress.stage("lowering"):
        lowered = lower(captured, name, pack=pack, native=native, device=target.device)
    source = lowered.program
    dump.program("lowered", source)
    progress(
        f"lowered to {len(source.steps)} steps, {format_bytes(source.weights_nbytes)} of weights,"
        f" demand {format_bytes(source.demand)}"
    )
    return lowered


def packs_for(target: Target, progress: Progress) -> bool:
    """Whether weights packed here run on the target."""
    if target.packing and target.packing != probe():
        progress("the target takes weights packed in another way than this machine packs them: plain ones")
    return bool(target.packing) and target.packing == probe()


def compiles_for(target: Target, progress: Progress) -> bool:
    """Whether this machine compiles native kernels for the target."""
    if find_compiler() is None:
        progress("there is no gcc: torch's kernels alone")
    elif not native_level(target):
        progress(f"native kernels for {target.arch} are not compiled on this machine: torch's kernels alone")
    return bool(native_level(target))


def weight_bytes(weights: Mapping[int, Tensor]) -> WeightBytes:
    """The bytes of dense tensors in memory order, by buffer, without a copy."""

    def of_buffer(buffer: int) -> memoryview:
        tensor = weights[buffer]
        flat = tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
        return memoryview(flat.view(torch.uint8).numpy())

    return of_buffer
