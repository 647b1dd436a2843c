"""Compile and run the zoo, and write docs/zoo.md: `python benchmarks/zoo.py [--models a,b] [--folder DIR]`.

Each network is compiled at a quarter of its demand, or at its smallest feasible budget where that is larger,
and at the smallest; the programs run in processes without occ, beside eager PyTorch, by turns. Artifacts are
deleted after use: the folder needs room for three copies of the largest weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from compiled import Compiled, CompileError, compile_network, eager_workers, program_worker
from markdown_table import MarkdownTable
from measuring import in_turns, largest_difference
from zoo_models import ZOO

SHARE = 25.0
"""Percent of demand."""

ROUNDS, RUNS = 3, 3

PREFACE = """# The zoo

Networks at their published sizes, batch 1. Demand: weights (tied ones once) and activation peak of the
exported graph. The first group of columns is at a quarter of demand, or at the smallest feasible budget where
that is larger; the second at the smallest. Error: max |a - b| / max |b| against eager PyTorch. Peak: growth
of a fresh process's resident memory over its imports, and in brackets how much of that is pages of library
code. Latency: median, by turns with eager, over eager's in the faster of OpenMP's two wait policies. How it
is measured, and how to repeat it: [benchmarks.md](benchmarks.md). Made by `make zoo`."""

GROUP = ("budget", "of demand", "arena", "peak", "error", "x eager")
HEADER = (
    "network",
    "kind",
    "weights",
    "demand",
    "eager",
    *GROUP,
    *GROUP,
    "compile",
    "plan",
    "what sets the floor",
)


def megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"


def measure(network: Compiled, folder: Path) -> list[str]:
    """The row of a compiled network."""
    outputs = {plan.budget: folder / f"{plan.budget}.pt" for plan in network.plans}
    with ExitStack() as stack:
        programs = {
            plan.budget: stack.enter_context(program_worker(plan.artifact, folder)) for plan in network.plans
        }
        eager = [stack.enter_context(worker) for worker in eager_workers(network)]
        reference = folder / "eager.pt"
        eager[0].run(network.inputs, outputs=reference)
        first = {b: worker.run(network.inputs, outputs=outputs[b]) for b, worker in programs.items()}
        measured = in_turns([*programs.values(), *eager], network.inputs, ROUNDS, RUNS)
    steady = dict(zip(programs, measured, strict=False))
    base = min(m.median for m in measured[len(programs) :])
    cells = [
        network.name,
        network.kind,
        megabytes(network.weights),
        megabytes(network.demand),
        f"{base * 1e3:.1f} ms",
    ]
    for plan in network.plans:
        budget = plan.budget
        difference, size = largest_difference(outputs[budget], reference)
        peak = max(m.peak for m in (programs[budget].loading, first[budget], steady[budget]))
        cells += [
            megabytes(budget),
            f"{budget / network.demand:.1%}",
            megabytes(plan.arena),
            f"{peak / 1e6:.1f} ({steady[budget].code / 1e6:.1f}) MB",
            f"{difference / size:.1e}",
            f"{steady[budget].median / base:.2f}",
        ]
    slowest = max(plan.seconds for plan in network.plans)
    return [
        *cells,
        f"{network.seconds:.0f} s",
        f"{slowest:.0f} s",
        network.floor.partition("; ")[2] or network.floor,
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default=",".join(ZOO), help="names, separated by commas")
    parser.add_argument("--folder", type=Path, help="where the artifacts go; a temporary folder by default")
    parser.add_argument("--table", type=Path, default=Path(__file__).parents[1] / "docs" / "zoo.md")
    options = parser.parse_args(arguments)
    names = options.models.split(",")
    if unknown := [name for name in names if name not in ZOO]:
        parser.error(f"no network {', '.join(unknown)}; the zoo has {', '.join(ZOO)}")
    table = MarkdownTable(options.table, PREFACE, HEADER)
    failures = 0
    for name in names:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            try:
                row = measure(compile_network(name, Path(folder), (SHARE, 0.0)), Path(folder))
            except (CompileError, RuntimeError, ValueError) as error:
                failures += 1
                row = [name, *[""] * (len(HEADER) - 2), f"FAILED: {error}"]
        table.put(row, list(ZOO))
        print("  " + " | ".join(row), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
