"""A plan's figures as one JSON object: what `--json` prints. Bytes and seconds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from occ.ir import BufferKind, Plan, Program


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
        "prediction": asdict(plan.prediction),
        "machine": asdict(plan.machine),
    }
