"""How well latencies are predicted: `python benchmarks/prediction.py --models a,b`.

Writes docs/prediction.md. For each network and share of its demand, by turns in one run: the program at that
budget, and the program with all weights resident, which tells by what factor this machine computes faster or
slower than when it was measured. The prediction is scaled by that factor before it is compared.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from compiled import (
    RESIDENT,
    Compiled,
    program_worker,
)
from measuring import in_turns
from share_table import ShareTable, fill_table
from zoo_models import ZOO

SHARES = "50,25,10,0"

PREFACE = """# Predicted and measured latency

Medians, by turns in one run; batch 1; weights not in the page cache. Each cell: measured over predicted
latency, after the prediction was scaled by what computing alone takes now over what it was predicted to take;
predicted latency in ms. 0 %: the smallest feasible budget, which larger shares that are below it get too,
marked *. How to repeat it: [benchmarks.md](benchmarks.md)."""


def measure(network: Compiled, folder: Path, rounds: int, runs: int) -> list[str]:
    """The row of a compiled network; the first of its plans has everything resident."""
    resident, *plans = network.plans
    artifacts = list(dict.fromkeys(plan.artifact for plan in plans))
    with ExitStack() as stack:
        workers = [stack.enter_context(program_worker(a, folder)) for a in (resident.artifact, *artifacts)]
        compute, *rest = (m.median for m in in_turns(workers, network.inputs, rounds, runs))
    measured = dict(zip(artifacts, rest, strict=True))
    scale = compute / resident.latency
    ratios = {plan.artifact: measured[plan.artifact] / (scale * plan.latency) for plan in plans}
    cells = [network.label, f"{compute * 1e3:.1f} ms", f"{scale:.2f}", f"{median(ratios.values()):.2f}"]
    for plan in plans:
        mark = network.mark(plan) if plan.share else ""
        cells.append(f"{ratios[plan.artifact]:.2f}{mark}; {plan.latency * 1e3:.1f} ms")
    return cells


TABLE = ShareTable(
    about=__doc__ or "",
    page="prediction.md",
    preface=PREFACE,
    columns=("network", "compute alone", "over predicted", "median"),
    measure=measure,
    models=",".join(ZOO),
    shares=SHARES,
    before=[RESIDENT],
)

if __name__ == "__main__":
    sys.exit(fill_table(TABLE, sys.argv[1:]))
