"""Bytes that are no weights, beside eager's: `python benchmarks/activations.py --models a,b`.

Writes docs/activations.md. Nothing runs: the sizes are those of the plans.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean

from compiled import Compiled
from share_table import ShareTable, fill_table
from zoo_models import ZOO, build

from occ.artifact import open_artifact
from occ.capture import capture
from occ.demand import activation_peak
from occ.ir import BufferKind, Plan
from occ.model_file import as_call
from occ.passes.liveness import liveness
from occ.units import PAGE, round_up

RATIO = re.compile(r"([0-9.]+)%")

LARGE_OUTPUT = 0.1
"""The share of the activation peak from which outputs are also left out, on either side."""

PREFACE = """# Bytes that are no weights

Activation peak: the largest sum of live non-weight bytes when the exported graph runs in its own order, each
value freed after its last use; inputs live throughout, outputs from when they are computed to the end. Each
cell: the bound of a plan's non-weight buffers (the largest sum of those live at a step; state and scratch
count, inputs and outputs as above) over that peak; where outputs are a tenth of the peak or more, as a
language model's logits are, the same without outputs on either side in brackets; and how far the arena,
weights included, lies above its own bound. 0 %: the smallest feasible budget, which larger shares that are
below it get too, marked *. The last row has the geometric means of the ratios above it, for the second one
without outputs where there are brackets. How to repeat it: [benchmarks.md](benchmarks.md)."""


def non_weights(plan: Plan, outputs: bool) -> int:
    """The bound over a plan's non-weight buffers in bytes, with what the caller gets or without."""
    program = plan.program
    inputs = {program.values[entry.value].buffer for entry in program.inputs}
    held = sum(program.buffers[buffer].nbytes for buffer in inputs)
    written: set[int] = set()
    most = 0
    for step, live_nbytes in zip(program.steps, liveness(program).live_nbytes, strict=True):
        touched = {program.values[value].buffer for value in step.writes}
        if outputs:
            written |= {buffer for buffer in touched if program.buffers[buffer].kind is BufferKind.OUTPUT}
        most = max(most, held + live_nbytes + sum(program.buffers[buffer].nbytes for buffer in written))
    return most


def peak_without_outputs(name: str) -> int:
    """The activation peak of a network of the zoo in bytes, what it returns not counted."""
    model = build(name)
    args, kwargs = as_call(model.example_inputs)
    return activation_peak(capture(model.module, (args, dict(kwargs))).exported, outputs=False)


def measure(network: Compiled, folder: Path, rounds: int, runs: int) -> list[str]:
    """The row of a compiled network."""
    plans = [open_artifact(plan.artifact).plan for plan in network.plans]
    outputs = plans[0].program.outputs_nbytes
    peak = plans[0].program.activation_peak
    bare = peak_without_outputs(network.name) if outputs >= LARGE_OUTPUT * peak else None
    cells = [network.label, f"{peak / 1e6:.2f} MB", f"{outputs / 1e6:.2f} MB"]
    for entry, plan in zip(network.plans, plans, strict=True):
        mark = network.mark(entry) if entry.share else ""
        without = "" if bare is None else f" ({non_weights(plan, False) / bare:.1%})"
        excess = plan.budget.arena / max(PAGE, round_up(plan.placement.bound, PAGE)) - 1.0
        cells.append(f"{non_weights(plan, True) / peak:.1%}{mark}{without}; {excess:.2%}")
    return cells


def means(rows: Sequence[Sequence[str]]) -> list[str]:
    """Geometric means of the columns of ratios."""
    cells = ["", ""]
    for column in zip(*(row[3:] for row in rows), strict=True):
        found = [[float(number) / 100 for number in RATIO.findall(cell.split(";")[0])] for cell in column]
        whole = geometric_mean([ratios[0] for ratios in found])
        bare = geometric_mean([ratios[-1] for ratios in found])
        cells.append(f"{whole:.1%} ({bare:.1%})")
    return cells


TABLE = ShareTable(
    about=__doc__ or "",
    page="activations.md",
    preface=PREFACE,
    columns=("network", "activation peak", "outputs"),
    measure=measure,
    models=",".join(ZOO),
    shares="1000,25,10,0",
    rounds=0,
    runs=0,
    summary=means,
)

if __name__ == "__main__":
    sys.exit(fill_table(TABLE, sys.argv[1:]))
