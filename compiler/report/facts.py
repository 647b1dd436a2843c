"""A plan's figures as one JSON object: what `--json` prints. Bytes and seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from occ.ir import BufferKind, Plan, Program
from occ.passes.fluid import least_latency_of
from occ.passes.tiling import tile_uses
from occ.passes.timing import predicted_timeline
from occ.report.spans import Occupancy, SpanKind, picture


def facts(plan: Plan, source: Program) -> dict[str, Any]:
    """Sizes, budget, proof, traffic and prediction of a plan; `source` is the unsplit program."""
    tiles, resident = plan.sizing.tiles, plan.sizing.resident
    placement = asdict(plan.placement)
    del placement["offsets"]
    return {
        "model": source.name,
        "operators": len(source.steps),
        "steps": len(plan.program.steps),
        "weights": sum(buffer.kind is BufferKind.WEIGHT for buffer in source.buffers),
        "weights_nbytes": source.weights_nbytes,
        "activation_peak": source.activation_peak,
        "demand": source.demand,
        "budget": {**asdict(plan.budget), "total": plan.budget.total},
        "placement": placement,
        "tiles": len(tiles),
        "resident_tiles": len(resident),
        "resident_nbytes": sum(tiles[tile].nbytes for tile in resident),
        "loads": len(plan.sizing.loads),
        "prediction": {**asdict(plan.prediction), "least_latency": least_latency_of(plan)},
        "machine": asdict(plan.machine),
        "reader": asdict(plan.reader),
    }


@dataclass(frozen=True, slots=True)
class StepFacts:
    """A step in bytes and seconds of a run: it waits for loads, then begins to compute at `start`.

    `live_nbytes` are those of buffers in the arena, `weights_nbytes` those of tiles, on their way or there;
    `issued_nbytes` are the loads submitted just before the step and `awaited_nbytes` the streamed tiles that
    it reads.
    """

    index: int
    name: str
    module: str
    kernel: str
    seconds: float
    start: float
    wait: float
    workspace: int
    live_nbytes: int
    weights_nbytes: int
    issued_nbytes: int
    awaited_nbytes: int


def step_facts(plan: Plan) -> tuple[StepFacts, ...]:
    """Every step of a plan, in order."""
    program, sizing, tiles = plan.program, plan.sizing, plan.sizing.tiles
    timeline = predicted_timeline(plan)
    occupancy = picture(plan).occupancy()
    weights = [sum(column) for column in zip(*_weights(occupancy), strict=True)]
    uses = tile_uses(program, tiles).of_step
    streamed = {load.tile for load in sizing.loads}
    issued: dict[int, int] = {}
    for load in sizing.loads:
        issued[load.issue] = issued.get(load.issue, 0) + tiles[load.tile].nbytes
    return tuple(
        StepFacts(
            index=index,
            name=step.name,
            module=step.module,
            kernel=step.kernel,
            seconds=plan.costs[index].seconds,
            start=timeline.starts[index],
            wait=timeline.waits[index],
            workspace=plan.costs[index].workspace,
            live_nbytes=occupancy.total[index] - weights[index],
            weights_nbytes=weights[index],
            issued_nbytes=issued.get(index, 0),
            awaited_nbytes=sum(tiles[tile].nbytes for tile in uses[index] if tile in streamed),
        )
        for index, step in enumerate(program.steps)
    )


def map_facts(plan: Plan) -> list[dict[str, Any]]:
    """The rectangles of the memory map: what holds bytes [offset, offset + nbytes) of the arena during steps
    [first, last), usable from step `ready` on."""
    drawn = picture(plan)
    return [
        {
            "name": drawn.owners[span.owner].name,
            "module": drawn.owners[span.owner].module,
            "kind": drawn.owners[span.owner].kind.value,
            "offset": span.offset,
            "nbytes": span.nbytes,
            "first": span.first,
            "ready": span.ready,
            "last": span.last,
        }
        for span in drawn.spans
    ]


def _weights(occupancy: Occupancy) -> tuple[tuple[int, ...], ...]:
    return (occupancy.held[SpanKind.RESIDENT], occupancy.held[SpanKind.STREAMED], occupancy.loading)
