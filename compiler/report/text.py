"""A plan in words: the claim, the summary, the table of steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from occ.gathers import experts_nbytes
from occ.ir import BufferKind, Plan, Program
from occ.passes.fluid import least_latency_of
from occ.report.facts import step_facts
from occ.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from occ.bench import Bench


def claim(plan: Plan) -> str:
    """The one line a compile ends with."""
    placement, budget, sizing = plan.placement, plan.budget, plan.sizing
    limit = "no budget" if budget.limit is None else f"budget {format_bytes(budget.limit)}"
    if budget.process_limit is not None:
        limit = f"process budget {format_bytes(budget.process_limit)}, of which {limit}"
    return (
        f"{limit}: {format_bytes(budget.total)} in all, arena {format_bytes(budget.arena)}"
        f" (bound {format_bytes(placement.bound)}, {proof(plan)}), {len(sizing.loads)} loads,"
        f" {format_bytes(plan.prediction.streamed_nbytes)} streamed per run,{_experts(plan)}"
        f" predicted latency {format_seconds(plan.prediction.latency)}"
    )


def _experts(plan: Plan) -> str:
    nbytes = experts_nbytes(plan.program)
    return f" up to {format_bytes(nbytes)} of experts read," if nbytes else ""


def proof(plan: Plan) -> str:
    """`proven` where no smaller arena exists for the live ranges, or the gap to the bound in percent."""
    placement = plan.placement
    if placement.optimal:
        return "proven"
    gap = (placement.height - placement.bound) / max(placement.bound, 1)
    return f"gap {100 * gap:.2f} %"


def summary(plan: Plan, source: Program) -> str:
    """What `occ inspect` prints: demand, budget, arena, residents, traffic, prediction."""
    return "\n".join(f"{name:<12} {text}" for name, text in _facts(plan, source))


def _facts(plan: Plan, source: Program) -> Iterator[tuple[str, str]]:
    budget, placement, prediction = plan.budget, plan.placement, plan.prediction
    loader = "" if plan.machine.device != "cpu" else f" + loader {format_bytes(budget.loader)}"
    tiles, resident = plan.sizing.tiles, plan.sizing.resident
    weights = sum(buffer.kind is BufferKind.WEIGHT for buffer in source.buffers)
    yield "model", f"{source.name}: {len(source.steps)} operators, {len(plan.program.steps)} steps"
    yield (
        "demand",
        f"{format_bytes(source.demand)} = {format_bytes(source.weights_nbytes)} in {weights} weights +"
        f" {format_bytes(source.activation_peak)} of activations at their peak",
    )
    limit = "none" if budget.limit is None else format_bytes(budget.limit)
    yield (
        "budget",
        f"{limit}; used {format_bytes(budget.total)} = arena {format_bytes(budget.arena)} + outputs"
        f" {format_bytes(budget.outputs)}{loader} + workspace {format_bytes(budget.workspace)}",
    )
    if plan.machine.device != "cpu":
        yield from _host(plan)
    allowed = "" if budget.process_limit is None else f"{format_bytes(budget.process_limit)}; used "
    yield (
        "process",
        f"{allowed}{format_bytes(budget.process_total)} = interpreter, torch and objects"
        f" {format_bytes(budget.process)} + {format_bytes(budget.total)}",
    )
    yield (
        "arena",
        f"{budget.arena} bytes; bound {placement.bound}, {proof(plan)}, placed by {placement.method}",
    )
    resident_nbytes = sum(tiles[tile].nbytes for tile in resident)
    yield "resident", f"{len(resident)} of {len(tiles)} tiles, {format_bytes(resident_nbytes)}"
    yield (
        "streamed",
        f"{len(plan.sizing.loads)} loads, {format_bytes(prediction.streamed_nbytes)} per run",
    )
    if asked := experts_nbytes(plan.program):
        yield "experts", f"up to {format_bytes(asked)} read per run, as data asks for them"
    yield (
        "predicted",
        f"latency {format_seconds(prediction.latency)} = compute {format_seconds(prediction.compute)} + stall"
        f" {format_seconds(prediction.stall)}; cold start {format_seconds(prediction.cold_start)}",
    )
    least = least_latency_of(plan)
    yield (
        "least",
        f"no schedule of these steps and tiles takes less than {format_seconds(least)} in this budget; this"
        f" one is within {100 * max(0.0, prediction.latency / max(least, 1e-12) - 1.0):.1f} %",
    )
    machine = plan.machine
    if machine.device != "cpu":
        graphs = "replays CUDA graphs" if machine.graphs else "launches every kernel"
        yield (
            "machine",
            f"{machine.device} {machine.capability}, {machine.cpu}, torch {machine.torch}; {graphs}",
        )
        return
    yield (
        "machine",
        f"{machine.device}, {machine.threads} threads, torch {machine.torch}, {machine.cpu}, spin"
        f" {machine.spin}",
    )


def _host(plan: Plan) -> Iterator[tuple[str, str]]:
    """What a device's program takes outside its own budget."""
    budget, machine = plan.budget, plan.machine
    allowed = "" if budget.host_limit is None else f"{format_bytes(budget.host_limit)}; used "
    store = budget.host - machine.ring_nbytes
    yield (
        "host",
        f"{allowed}{format_bytes(budget.host)} pinned = ring {format_bytes(machine.ring_nbytes)} + weights"
        f" {format_bytes(store)}; streams from {machine.stream_from}",
    )
    yield "context", f"{format_bytes(budget.context)} of the device for the driver, beside the budget"


def step_table(plan: Plan) -> str:
    """One line per step: its kernel, module, duration, live bytes, and what it loads and waits for."""
    lines = [
        f"{'step':>5}  {'name':<32} {'kernel':<14} {'time':>8} {'workspace':>9} {'live':>9} {'weights':>9}"
        f" {'issues':>9}  module"
    ]
    for step in step_facts(plan):
        lines.append(
            f"{step.index:>5}  {step.name[:32]:<32} {step.kernel[:14]:<14}"
            f" {format_seconds(step.seconds):>8}"
            f" {format_bytes(step.workspace):>9}"
            f" {format_bytes(step.live_nbytes):>9}"
            f" {format_bytes(step.weights_nbytes):>9}"
            f" {format_bytes(step.issued_nbytes):>9}  {step.module}"
            + (f"  waits for {format_bytes(step.awaited_nbytes)}" if step.awaited_nbytes else "")
        )
    return "\n".join(lines)


def bench_table(bench: Bench) -> str:
    """What `occ bench` prints."""
    rows = [
        (
            "planned",
            f"{format_bytes(bench.planned_nbytes)} = arena {format_bytes(bench.arena_nbytes)}"
            f" + outputs {format_bytes(bench.outputs_nbytes)}"
            f" + workspace {format_bytes(bench.workspace_nbytes)}"
            f" + loader {format_bytes(bench.loader_nbytes)}",
        ),
        ("measured", f"{format_bytes(bench.measured_nbytes)} of growth at the peak, in a process of its own"),
        *(
            [("host", f"{format_bytes(bench.host_nbytes)} pinned, beside the device's")]
            if bench.host_nbytes
            else []
        ),
        (
            "process",
            f"{format_bytes(bench.process_nbytes)} at the peak, planned"
            f" {format_bytes(bench.planned_process_nbytes)}",
        ),
        (
            "latency",
            f"{format_seconds(bench.latency)} (median of {bench.runs}), of which"
            f" {format_seconds(bench.stall)} waiting; predicted {format_seconds(bench.predicted_latency)}",
        ),
        (
            "read",
            f"{format_bytes(bench.streamed_nbytes)} per run, {format_bytes(int(bench.bandwidth))} per second",
        ),
        ("cold start", f"{format_seconds(bench.cold_start)} from the load to the first outputs"),
    ]
    if bench.eager_latency is not None and bench.difference is not None:
        ratio = bench.latency / bench.eager_latency
        rows.append(("eager", f"{format_seconds(bench.eager_latency)}; ours is {ratio:.2f} of it"))
        rows.append(("difference", f"{bench.difference:.1e} of the largest output"))
    return "\n".join(f"{name:<12} {text}" for name, text in rows)
