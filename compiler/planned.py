"""From an unsplit program to a plan that is proven, for whatever goal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from occ.accelerator import Accelerator, reader_for
from occ.costs import Costs, measurer_for
from occ.drafts import PlanningTarget
from occ.feed import Feed, check_memories, ring_nbytes
from occ.goals import Goal, Plans, plan_for
from occ.ir import Machine, Plan, Program
from occ.native import native_settings
from occ.progress import Progress
from occ.report.dump import Dump
from occ.target import Target
from occ.verify import verify

DEFAULT_FEED = Feed()


@dataclass(frozen=True)
class Compiled:
    """What a compile made: the artifact's path, its plan, and the unsplit program it was planned from."""

    path: Path
    plan: Plan
    source: Program


def planned(
    source: Program,
    goal: Goal,
    target: Target,
    feed: Feed,
    folder: Path,
    progress: Progress,
    dump: Dump,
    undisturbed: Callable[[], None] = lambda: None,
) -> Plan:
    """Plan an unsplit program for a goal on a target, whose storage is that of `folder`, and prove the plan.
    `undisturbed` is called before something is measured, and returns when it can be.

    Raises BudgetError where the plan needs more of the device or of the host than there may be.
    """
    with measurer_for(target, folder, progress, undisturbed) as measurer, progress.stage("planning"):
        made = plan_for(goal, Plans(source, planning_target(source, target, measurer, feed)), progress)
    check_memories(made, target)
    dump.program("rewritten", made.program)
    dump.plan("planned", made, source)
    verify(made)
    progress("verified: no two live buffers share bytes, no load overwrites bytes in use")
    dump.emitted("program", made)
    return made


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
