"""Where a program's latency over computing alone goes: `python benchmarks/stalls.py --models a,b`.

Writes docs/stalls.md, with a timeline of the stalls of each program.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from compiled import HERE, RESIDENT, Compiled, PlanFile, answer, program_worker
from device import without_occ
from measuring import in_turns
from overlap import read_worker
from share_table import ShareTable, fill_table

SLICES = 30
"""Of a timeline."""

HEIGHTS = " ▁▂▃▄▅▆▇█"

PREFACE = """# Where the time goes

What a program takes over computing alone. Each cell, in ms: latency (over the larger of computing and reading
alone) = computing with all weights resident + its own steps, finer ones, alone + what they take longer beside
reads + stalls + calls that ask for loads. The first two terms and latency are by turns in one run, untraced;
stalls and calls are medians of traced runs, and what is left is the third term. Below, a timeline of the
median traced run in 30 slices: how much of each was waiting, and how much of the storage's fastest slice was
read in it. A share below the smallest feasible budget is at that one, marked *. How to repeat it:
[benchmarks.md](benchmarks.md)."""


def traced(artifact: Path, network: Compiled, folder: Path, runs: int) -> dict[str, Any]:
    """What trace_worker.py says of an artifact, in a process that cannot import occ."""
    python, device = without_occ(folder / "device")
    command = [*python, str(HERE / "trace_worker.py"), str(artifact), str(network.inputs), str(runs)]
    found: dict[str, Any] = answer(command, device)
    return found


def timeline(spans: Sequence[Sequence[float]], latency: float, whole: float | None = None) -> str:
    """How high (began, seconds, amount) spans lie in each of SLICES slices of a run; an amount is spread over
    its seconds. `whole` is the amount that fills a slice, the largest of all by default."""
    width = latency / SLICES
    filled = [0.0] * SLICES
    for began, seconds, amount in spans:
        for index in range(SLICES):
            inside = min(began + seconds, (index + 1) * width) - max(began, index * width)
            if inside > 0.0:
                filled[index] += amount * inside / seconds
    top = whole or max(filled) or 1.0
    return "".join(HEIGHTS[min(8, max(1, round(8 * each / top)) if each else 0)] for each in filled)


def cell(network: Compiled, plan: PlanFile, times: tuple[float, float, float], found: dict[str, Any]) -> str:
    """The cell of a plan; `times` are seconds of computing alone, reading alone and the program."""
    compute, reading, latency = times
    scale = compute / network.plans[0].latency
    stalls, calls = (median(run[kind] for run in found["seconds"]) for kind in ("wait", "load"))
    finer = scale * found["planned"] - compute
    slower = latency - compute - finer - stalls - calls
    terms = " + ".join(f"{1e3 * seconds:.1f}" for seconds in (compute, finer, slower, stalls, calls))
    whole = found["latency"]
    waiting = timeline([(began, waited, waited) for began, waited in found["waits"]], whole, whole / SLICES)
    read = timeline(found["reads"], whole)
    return (
        f"{1e3 * latency:.1f}{network.mark(plan)} ({latency / max(compute, reading):.2f}) = {terms}"
        f"<br>`waiting {waiting}`<br>`reading {read}`"
    )


def measure(network: Compiled, folder: Path, rounds: int, runs: int) -> list[str]:
    """The row of a compiled network; the first of its plans has everything resident."""
    resident, *plans = network.plans
    with ExitStack() as stack:
        computing = stack.enter_context(program_worker(resident.artifact, folder))
        programs = [stack.enter_context(program_worker(plan.artifact, folder)) for plan in plans]
        readers = [stack.enter_context(read_worker(plan.artifact, folder)) for plan in plans]
        medians = [m.median for m in in_turns([computing, *programs, *readers], network.inputs, rounds, runs)]
    compute, latencies, readings = medians[0], medians[1 : 1 + len(plans)], medians[1 + len(plans) :]
    return [
        network.label,
        *(
            cell(
                network,
                plan,
                (compute, reading, latency),
                traced(plan.artifact, network, folder, rounds * runs),
            )
            for plan, latency, reading in zip(plans, latencies, readings, strict=True)
        ),
    ]


TABLE = ShareTable(
    about=__doc__ or "",
    page="stalls.md",
    preface=PREFACE,
    columns=("network",),
    measure=measure,
    models="gpt2_medium,resnet152",
    shares="50,30,10",
    before=[RESIDENT],
)

if __name__ == "__main__":
    sys.exit(fill_table(TABLE, sys.argv[1:]))
