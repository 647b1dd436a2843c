"""What programs allocate outside arena and outputs: `python benchmarks/allocations.py --models a,b`.

Writes docs/allocations.md.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from compiled import HERE, Compiled, PlanFile, answer, environment
from share_table import ShareTable, fill_table
from zoo_models import ZOO

from occ.counter import counter_settings

PREFACE = """# Allocations outside the arena

A run after the first, writing into outputs that are there, under a malloc counter that is preloaded under
the process and sees every library: the steps that made allocations of 64 KiB or more, by kernel; the most
that one of them had at once, and the workspace declared for it, which the budget counts; "none" where no step
did. A share below the smallest feasible budget is at that one, marked *. How to repeat it:
[benchmarks.md](benchmarks.md)."""


def allocating(plan: PlanFile, network: Compiled) -> list[dict[str, Any]]:
    """What allocation_worker.py says of an artifact."""
    counted = {name: value for name, value in counter_settings().items() if value is not None}
    if not counted:
        raise RuntimeError("there is no C compiler to build the malloc counter with")
    command = [sys.executable, str(HERE / "allocation_worker.py"), str(plan.artifact), str(network.inputs)]
    found: list[dict[str, Any]] = answer(command, environment() | counted)
    return found


def cell(network: Compiled, plan: PlanFile, steps: list[dict[str, Any]]) -> str:
    """The cell of a plan."""
    if not steps:
        return f"none{network.mark(plan)}"
    largest = max(steps, key=lambda step: step["peak"])
    kernels = Counter(step["kernel"] for step in steps)
    named = ", ".join(f"{count} {kernel}" for kernel, count in sorted(kernels.items()))
    return (
        f"{named}{network.mark(plan)}; {largest['peak'] / 1e6:.2f} MB in {largest['step']},"
        f" {largest['workspace'] / 1e6:.2f} declared"
    )


def measure(network: Compiled, folder: Path, rounds: int, runs: int) -> list[str]:
    """The row of a compiled network."""
    return [
        network.label,
        *(cell(network, plan, allocating(plan, network)) for plan in network.plans),
    ]


TABLE = ShareTable(
    about=__doc__ or "",
    page="allocations.md",
    preface=PREFACE,
    columns=("network",),
    measure=measure,
    models=",".join(ZOO),
    shares="1000,25,10",
    rounds=0,
    runs=0,
)

if __name__ == "__main__":
    sys.exit(fill_table(TABLE, sys.argv[1:]))
