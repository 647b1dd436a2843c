"""Mixtures of experts at shares of demand, beside eager PyTorch: `python benchmarks/mixtures.py`.

Writes docs/mixtures.md, measured as latency.py measures.
"""

from __future__ import annotations

import sys

from latency import measure
from measuring import WAIT_POLICIES
from share_table import ShareTable, fill_table
from zoo_models import MIXTURES

PREFACE = """# Mixtures of experts

Four of OLMoE-1B-7B's 16 layers in bfloat16, each with 64 experts, of which a token meets 8; the same inputs
at every run. Medians, by turns in one run; batch 1. Each cell: latency over that of eager PyTorch (in the
faster of OpenMP's two wait policies); arena; peak growth of the process's resident memory over its imports,
and in brackets how much of that is pages of library code. 1000 %: all resident; 0 %: the smallest feasible
budget. How it works: [experts.md](experts.md); how to repeat it: [benchmarks.md](benchmarks.md)."""

TABLE = ShareTable(
    about=__doc__ or "",
    page="mixtures.md",
    preface=PREFACE,
    columns=("network", "demand", *(f"eager, {p}" for p in WAIT_POLICIES)),
    measure=measure,
    models=",".join(MIXTURES),
    shares="1000,25,10,0",
)

if __name__ == "__main__":
    sys.exit(fill_table(TABLE, sys.argv[1:]))
