"""From a module to an artifact: the stages in order, each a pure function of the one before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from occ.accelerator import Accelerator, reader_for
from occ.capture import capture
from occ.codegen.bundle import write_artifact
from occ.codegen.emit import emit
from occ.codegen.native.compiler import find_compiler
from occ.codegen.weights import WeightBytes
from occ.costs import Costs, measurer_for
from occ.feed import Feed, check_memories, ring_nbytes
from occ.goals import Goal, Plans, plan_for
from occ.ir import Machine, Plan, Program
from occ.lower import Lowered, lower
from occ.native import native_level, native_settings
from occ.planning import PlanningTarget
from occ.progress import BYTES, Progress
from occ.report.dump import Dump
from occ.report.text import claim
from occ.runtime_stub.machine import planned_threads
from occ.runtime_stub.packed import probe
from occ.target import Target
from occ.units import format_bytes
from occ.verify import verify

DEFAULT_FEED = Feed()


@dataclass(frozen=True)
class Compiled:
    """What a compile made: the artifact's path, its plan, and the unsplit program it was planned from."""

    path: Path
    plan: Plan
    source: Program


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


def planned(
    source: Program, goal: Goal, target: Target, feed: Feed, folder: Path, progress: Progress, dump: Dump
) -> Plan:
    """Plan an unsplit program for a goal on a target, whose storage is that of `folder`, and prove the plan.

    Raises BudgetError where the plan needs more of the device or of the host than there may be.
    """
    with measurer_for(target, folder, progress) as measurer, progress.stage("planning"):
        made = plan_for(goal, Plans(source, planning_target(source, target, measurer, feed)), progress)
    check_memories(made, target)
    dump.program("rewritten", made.program)
    dump.plan("planned", made, source)
    verify(made)
    progress("verified: no two live buffers share bytes, no load overwrites bytes in use")
    dump.text("program", emit(made))
    return made


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


def planning_target(
    source: Program, target: Target, measurer: Costs, feed: Feed = DEFAULT_FEED
) -> PlanningTarget:
    """What planning a program needs of the target profile. Raises UsageError where the program has native
    kernels that cannot be compiled for the target, and BudgetError where the host has no room for a ring."""
    if target.accelerator is not None:
        return _for_cuda(source, target, target.accelerator, measurer, feed)
    level, compiler = native_settings(source, target)
    machine = Machine(
        device="cpu",
        threads=target.threads,
        spin=target.spin,
        torch=target.torch,
        cpu=target.cpu,
        profile_digest=target.digest,
        packing=target.packing,
        native=level,
        compiler=compiler,
    )
    return PlanningTarget(measurer.measure, target.reader, machine, target.spin, target.footprint)


def _for_cuda(
    source: Program, target: Target, accelerator: Accelerator, measurer: Costs, feed: Feed
) -> PlanningTarget:
    machine = Machine(
        device="cuda",
        threads=1,
        spin="default",
        torch=target.torch,
        cpu=accelerator.name,
        profile_digest=target.digest,
        capability=accelerator.capability,
        stream_from=feed.stream_from,
        ring_nbytes=ring_nbytes(source, feed),
        cublas_workspace_nbytes=accelerator.cublas_workspace_nbytes,
        graphs=True,
    )
    return PlanningTarget(
        measure=measurer.measure,
        reader=reader_for(target.reader, accelerator, feed.stream_from),
        machine=machine,
        streaming_spin="default",
        footprint=target.footprint,
        feed=feed,
        context_nbytes=accelerator.context_nbytes,
    )


def weight_bytes(weights: Mapping[int, Tensor]) -> WeightBytes:
    """The bytes of dense tensors in memory order, by buffer, without a copy."""

    def of_buffer(buffer: int) -> memoryview:
        tensor = weights[buffer]
        flat = tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
        return memoryview(flat.view(torch.uint8).numpy())

    return of_buffer
