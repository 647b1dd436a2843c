"""How much of the reading hides behind the computing: `python benchmarks/overlap.py --models a,b`.

Writes docs/overlap.md. For each network and share of its demand, in one run and by turns: the program at that
budget, the same program with all weights resident (compute alone), and its loads without the computing
(reading alone). No schedule at that budget can be faster than the larger of the last two.

On most machines it cannot be as fast as that either: reading takes processor time and memory bandwidth from
computing. So these two also run at the same time, in two processes that do not wait for each other, which
gives a bound for this machine.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from statistics import median

from compiled import (
    HERE,
    RESIDENT,
    Compiled,
    drop_from_page_cache,
    eager_workers,
    program_worker,
)
from device import without_occ
from measuring import Worker, in_turns
from share_table import ShareTable, fill_table

MODELS = "gpt2_medium,gpt2_medium_one_token,vit_l_16,bert_large,resnet152"
SHARES = "50,30,25,10,5"

PREFACE = """# Overlap of reading and computing

Medians, by turns in one run; batch 1; weights not in the page cache. Each cell: latency over the larger of
compute alone and reading alone; over compute alone; over the least that both take at once when neither waits
for the other, in processes of their own; reading alone in ms. A share below the smallest feasible budget is
at that one, marked *. How to repeat it: [benchmarks.md](benchmarks.md)."""


def read_worker(artifact: Path, folder: Path) -> Worker:
    """Serve an artifact's loads alone, in a fresh process."""
    drop_from_page_cache(artifact)
    python, device = without_occ(folder / "device")
    examples = HERE.parent / "examples"
    device["PYTHONPATH"] += f":{examples}"
    return Worker([*python, str(HERE / "read_alone.py"), str(artifact)], device)


def together(
    inputs: Path, computing: Worker, compute: float, reading: Worker, read: float, runs: int
) -> float:
    """The seconds that a run takes at least which computes as `computing` does and reads as `reading` does.

    Both run at the same time, so often that they take about as long; `compute` and `read` are the seconds a
    run takes of either alone. While both are under way each goes at the pace measured so, then what is left
    of one goes at its own.
    """
    longest = max(compute, read) * runs
    with ThreadPoolExecutor(max_workers=2) as pool:
        # The other one goes on while the last run of one ends.
        both = [
            pool.submit(worker.run, inputs, ceil(longest / alone) + 1)
            for worker, alone in ((computing, compute), (reading, read))
        ]
        computed, was_read = (median(done.result().seconds[1:]) for done in both)
    if computed >= was_read:
        return was_read + compute * max(0.0, 1.0 - was_read / computed)
    return computed + read * max(0.0, 1.0 - computed / was_read)


def measure(network: Compiled, folder: Path, rounds: int, runs: int) -> list[str]:
    """The row of a compiled network; the first of its plans has everything resident."""
    resident, *plans = network.plans
    artifacts = list(dict.fromkeys(plan.artifact for plan in plans))
    with ExitStack() as stack:
        computing = stack.enter_context(program_worker(resident.artifact, folder))
        programs = [stack.enter_context(program_worker(artifact, folder)) for artifact in artifacts]
        readers = [stack.enter_context(read_worker(artifact, folder)) for artifact in artifacts]
        eagers = [stack.enter_context(worker) for worker in eager_workers(network)]
        workers = [computing, *programs, *readers, *eagers]
        medians = iter([m.median for m in in_turns(workers, network.inputs, rounds, runs)])
        compute = next(medians)
        latency = dict(zip(artifacts, medians, strict=False))
        reading = dict(zip(artifacts, medians, strict=False))
        eager = min(medians)
        least = {
            artifact: together(network.inputs, computing, compute, reader, reading[artifact], rounds * runs)
            for artifact, reader in zip(artifacts, readers, strict=True)
        }
    cells = [
        network.label,
        f"{network.demand / 1e6:.1f} MB",
        f"{eager * 1e3:.1f} ms",
        f"{compute * 1e3:.1f} ms",
    ]
    for plan in plans:
        mark = network.mark(plan)
        ours, alone = latency[plan.artifact], reading[plan.artifact]
        cells.append(
            f"{ours / max(compute, alone):.2f}{mark}; {ours / compute:.2f};"
            f" {ours / least[plan.artifact]:.2f}; {alone * 1e3:.0f} ms"
        )
    return cells


TABLE = ShareTable(
    about=__doc__ or "",
    page="overlap.md",
    preface=PREFACE,
    columns=("network", "demand", "eager", "compute alone"),
    measure=measure,
    models=MODELS,
    shares=SHARES,
    before=[RESIDENT],
)

if __name__ == "__main__":
    sys.exit(fill_table(TABLE, sys.argv[1:]))
