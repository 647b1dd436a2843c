"""How long it takes to plan an artifact anew: `python benchmarks/replan.py [--models a,b] [--folder DIR]`.

Writes docs/replan.md: seconds of `occ replan` as a whole process, from the artifact that keeps all weights
resident, its kernels measured before.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from compiled import RESIDENT, Compiled, drop_from_page_cache
from share_table import ShareTable, fill_table

PREFACE = """# Planning again

Seconds of `occ replan`, from the start of its process to its end, medians: it checks an artifact that keeps
all weights resident, plans it for a share of demand (the smallest feasible budget where that is larger,
marked *), and copies and checks the weights, which are not in the page cache. Its kernels have been measured
before. How to repeat it: [benchmarks.md](benchmarks.md)."""


def replan_seconds(artifact: Path, budget: int, output: Path) -> float:
    """What one `occ replan` takes; its output is gone afterwards."""
    drop_from_page_cache(artifact)
    os.sync()
    command = [str(Path(sys.executable).parent / "occ"), "replan", str(artifact), "--budget", str(budget)]
    began = time.perf_counter()
    done = subprocess.run([*command, "-o", str(output)], capture_output=True, text=True)
    taken = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    output.unlink()
    return taken


def measure(network: Compiled, folder: Path, rounds: int, runs: int) -> list[str]:
    """The row of a network; the first of its plans has everything resident."""
    resident, *plans = network.plans
    cells = [network.label, f"{network.weights / 1e6:.1f} MB"]
    for plan in plans:
        seconds = [
            replan_seconds(resident.artifact, plan.budget, folder / "again.occ") for _ in range(rounds * runs)
        ]
        cells.append(f"{statistics.median(seconds):.1f} s{network.mark(plan)}")
    return cells


TABLE = ShareTable(
    about=__doc__ or "",
    page="replan.md",
    preface=PREFACE,
    columns=("network", "weights"),
    measure=measure,
    models="resnet152,gpt2_medium",
    shares="50,25,10,5",
    rounds=3,
    runs=1,
    before=[RESIDENT],
)

if __name__ == "__main__":
    sys.exit(fill_table(TABLE, sys.argv[1:]))
