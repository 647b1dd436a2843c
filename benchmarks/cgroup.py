"""Budgets enforced by the operating system: `python benchmarks/cgroup.py [--models a,b] [--folder DIR]`.

Writes docs/cgroup.md and docs/process-budget.md. Needs the right to make memory control groups.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiled import (
    HERE,
    RESIDENT,
    Compiled,
    CompileError,
    PlanFile,
    compile_network,
    drop_from_page_cache,
    environment,
)
from control_group import ControlGroup, control_group
from markdown_table import MarkdownTable
from zoo_models import ZOO

SHARES = (25.0, 10.0)
"""Percent of demand."""

SLACK_NBYTES = 24_000_000
"""What a group may take above its baseline and the budget: objects, page tables, oneDNN's machine code."""

PROCESS_BUDGET = "512MB"
PROCESS_NBYTES = 512_000_000
PROCESS_MODELS = "resnet152,vgg19,vit_l_16,gpt2_medium,tinyllama_1b"

Cells = Callable[[Compiled, Path], list[str]]
"""Network, folder -> the cells of its row but the first two."""

PREFACE = """# Budgets held by the operating system

Each network runs in a memory control group without swap that may take its baseline, the budget and 24 MB,
and not a page more: who needs it is killed. Baseline: what the group takes when everything is imported and
each kind of kernel was called once on tiny tensors. Budget: a quarter and a tenth of demand, or the smallest
feasible one where that is larger. Above baseline: the group's peak less its baseline, page cache and the
kernel's own memory for it included. Growth: resident memory at its highest after the third run, less that at
the third run. How it is measured, and how to repeat it: [benchmarks.md](benchmarks.md)."""

PROCESS_PREFACE = """# Budgets of a whole process

Each network is compiled with `--process-budget 512MB` and runs in a memory control group that may take 512 MB
from the start, the interpreter and torch included, without swap. Planned: what a bare process takes on this
machine, the program's objects, and the budget that is left. Resident: the process's peak, with all pages of
libraries. Group: what the control group counted at its peak; pages of libraries that were in memory before
are not in it. How it is measured, and how to repeat it: [benchmarks.md](benchmarks.md)."""

GROUP = ("budget", "of demand", "above baseline", "runs", "growth", "latency")
HEADER = ("network", "demand", *GROUP, *GROUP)
PROCESS_HEADER = ("network", "demand", "planned", "resident", "group", "runs", "growth", "latency")


class KilledError(Exception):
    """A run that the kernel ended, or that failed."""


@dataclass(frozen=True)
class Held:
    """A run inside its limit; bytes and seconds. `above` is the group's peak less its baseline, `group` the
    peak itself, `resident` the process's."""

    above: int
    group: int
    resident: int
    runs: int
    growth: int
    median: float


@dataclass(frozen=True)
class Limits:
    """How long to run."""

    runs: int
    seconds: float


def run_within(
    artifact: Path, inputs: Path, limits: Limits, *, above: int | None = None, total: int | None = None
) -> Held:
    """Run an artifact in a group that may take `above` bytes more than its baseline, or `total` bytes from
    the start. Raises KilledError."""
    drop_from_page_cache(artifact)
    command = [
        sys.executable,
        str(HERE / "cgroup_worker.py"),
        str(artifact),
        str(inputs),
        str(limits.runs),
        str(limits.seconds),
    ]
    with control_group() as group:
        if total is not None:
            group.allow(total)
        process = subprocess.Popen(
            group.joined(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        try:
            _reply(process, group)
            baseline = group.usage()
            if above is not None:
                group.reset_peak()
                group.allow(baseline + above)
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            found = json.loads(_reply(process, group))
        finally:
            process.kill()
            process.communicate()
        peak = group.peak()
    return Held(
        above=peak - baseline,
        group=peak,
        resident=found["peak"],
        runs=found["runs"],
        growth=found["growth"],
        median=found["median"],
    )


def _reply(process: subprocess.Popen[str], group: ControlGroup) -> str:
    """The worker's next line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise KilledError(f"ended with code {process.wait()} at {group.peak() / 1e6:.1f} MB")
    return line


def share_cells(network: Compiled, plan: PlanFile, limits: Limits) -> list[str]:
    """A network's cells for one budget."""
    cells = [f"{plan.budget / 1e6:.1f} MB", f"{plan.budget / network.demand:.1%}"]
    try:
        held = run_within(plan.artifact, network.inputs, limits, above=plan.budget + SLACK_NBYTES)
    except KilledError as error:
        return [*cells, f"FAILED: {error}", "", "", ""]
    return [*cells, f"{held.above / 1e6:.1f} MB", *_steady(held)]


def process_cells(network: Compiled, folder: Path, limits: Limits) -> list[str]:
    """A network's cells for PROCESS_BUDGET; its only plan has everything resident."""
    artifact = folder / "process.occ"
    budget = _replanned(network.plans[0].artifact, artifact)
    planned = (
        f"{budget['process'] / 1e6:.1f} + {budget['total'] / 1e6:.1f}"
        f" = {(budget['process'] + budget['total']) / 1e6:.1f} MB"
    )
    held = run_within(artifact, network.inputs, limits, total=PROCESS_NBYTES)
    return [planned, f"{held.resident / 1e6:.1f} MB", f"{held.group / 1e6:.1f} MB", *_steady(held)]


def _steady(held: Held) -> list[str]:
    return [str(held.runs), f"{held.growth / 1e3:.0f} kB", f"{held.median * 1e3:.1f} ms"]


def _replanned(artifact: Path, output: Path) -> dict[str, int]:
    """Plan an artifact for PROCESS_BUDGET; where the bytes go."""
    options = ["replan", str(artifact), "--process-budget", PROCESS_BUDGET, "-o", str(output), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from occ.cli import main; sys.exit(main())", *options],
        env=environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise CompileError(done.stderr.strip().splitlines()[-1])
    budget: dict[str, int] = json.loads(done.stdout)["budget"]
    return budget


def fill(
    table: MarkdownTable, names: Sequence[str], shares: Sequence[float], folder: Path | None, cells: Cells
) -> int:
    """Compile every network at `shares` percent of demand and write its row; how many failed."""
    failures = 0
    for name in names:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            try:
                network = compile_network(name, Path(temporary), shares)
                row = [name, f"{network.demand / 1e6:.1f} MB", *cells(network, Path(temporary))]
            except (CompileError, KilledError) as error:
                row = [name, f"FAILED: {error}", *[""] * (len(table.header) - 2)]
        failures += any("FAILED" in cell for cell in row)
        table.put(row, list(ZOO))
        print("  " + " | ".join(row), flush=True)
    return failures


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default=",".join(ZOO), help="names of the zoo, separated by commas")
    parser.add_argument(
        "--process-models", default=PROCESS_MODELS, help="those for the process budget; may be empty"
    )
    parser.add_argument("--runs", type=int, default=200, help="runs of each artifact")
    parser.add_argument("--seconds", type=float, default=120.0, help="time after which runs end")
    parser.add_argument("--folder", type=Path, help="where the artifacts go; a temporary folder by default")
    parser.add_argument("--pages", type=Path, default=HERE.parent / "docs", help="where the tables go")
    options = parser.parse_args(arguments)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    shared, whole = (
        [name for name in text.split(",") if name] for text in (options.models, options.process_models)
    )
    if unknown := [name for name in [*shared, *whole] if name not in ZOO]:
        parser.error(f"no network {', '.join(unknown)}; the zoo has {', '.join(ZOO)}")
    limits = Limits(options.runs, options.seconds)
    failures = fill(
        MarkdownTable(options.pages / "cgroup.md", PREFACE, HEADER),
        shared,
        SHARES,
        options.folder,
        lambda network, folder: [
            cell for plan in network.plans for cell in share_cells(network, plan, limits)
        ],
    )
    failures += fill(
        MarkdownTable(options.pages / "process-budget.md", PROCESS_PREFACE, PROCESS_HEADER),
        whole,
        [RESIDENT],
        options.folder,
        lambda network, folder: process_cells(network, folder, limits),
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
