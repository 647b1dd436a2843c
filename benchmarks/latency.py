"""Latency and memory at shares of demand, beside eager PyTorch: `python benchmarks/latency.py --models a,b`.

Writes docs/latency.md. Everything about one network is measured in the same run, by turns: fp32 (or what the
network is in), batch 1, 2 threads, the weights not in the page cache.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from compiled import Compiled, eager_workers, program_worker
from measuring import WAIT_POLICIES, in_turns
from share_table import ShareTable, fill_table

MODELS = "resnet50,mobilenet_v3_large,vit_b_16,bert_base,gpt2,unet,lstm_lm"
SHARES = "100,50,25,10"
PREFACE = """# Latency at shares of demand

Medians, by turns in one run; batch 1. Each cell: latency over that of eager PyTorch (in the faster of
OpenMP's two wait policies); arena; peak growth of the process's resident memory over its imports, and in
brackets how much of that is pages of library code. A share below the smallest feasible budget is at that one,
marked *. How it is measured, and how to repeat it: [benchmarks.md](benchmarks.md)."""


def measure(network: Compiled, folder: Path, rounds: int, runs: int) -> list[str]:
    """The row of a compiled network."""
    with ExitStack() as stack:
        artifacts = {plan.artifact: None for plan in network.plans}
        programs = {a: stack.enter_context(program_worker(a, folder)) for a in artifacts}
        eager = [stack.enter_context(worker) for worker in eager_workers(network)]
        measured = in_turns([*programs.values(), *eager], network.inputs, rounds, runs)
    steady = dict(zip(programs, measured, strict=False))
    base = [m.median for m in measured[len(programs) :]]
    cells = [network.label, f"{network.demand / 1e6:.1f} MB"]
    cells += [f"{seconds * 1e3:.1f} ms" for seconds in base]
    for plan in network.plans:
        mark = network.mark(plan)
        ours = steady[plan.artifact]
        peak = max(programs[plan.artifact].loading.peak, ours.peak)
        cells.append(
            f"{ours.median / min(base):.2f}{mark}; {plan.arena / 1e6:.1f} MB;"
            f" {peak / 1e6:.1f} ({ours.code / 1e6:.1f}) MB"
        )
    return cells


TABLE = ShareTable(
    about=__doc__ or "",
    page="latency.md",
    preface=PREFACE,
    columns=("network", "demand", *(f"eager, {p}" for p in WAIT_POLICIES)),
    measure=measure,
    models=MODELS,
    shares=SHARES,
    runs=5,
)

if __name__ == "__main__":
    sys.exit(fill_table(TABLE, sys.argv[1:]))
