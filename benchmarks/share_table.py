"""One row per network, one column per share of its demand: the frame of latency.py, overlap.py, prediction.py
and cold_start.py."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiled import HERE, Compiled, CompileError, compile_network
from markdown_table import MarkdownTable
from zoo_models import NETWORKS

SUMMARY = "all"
"""The first cell of the row that sums up the others."""

Measure = Callable[[Compiled, Path, int, int], list[str]]
"""Network, folder, rounds and runs -> the cells of its row."""


@dataclass(frozen=True)
class ShareTable:
    """The page `page` of docs/ under `preface`: `columns`, then one for each share; `measure` makes a row.

    `about` is what the script's help says of it. Networks are compiled at `before` percent of demand too, for
    what the shares are compared with. `summary` makes a last row from the cells of all that did not fail.
    `models`, `shares` (percent), `rounds` and `runs` are defaults.
    """

    about: str
    page: str
    preface: str
    columns: Sequence[str]
    measure: Measure
    models: str
    shares: str
    rounds: int = 5
    runs: int = 3
    before: Sequence[float] = ()
    summary: Callable[[Sequence[Sequence[str]]], list[str]] | None = None


def fill_table(table: ShareTable, arguments: Sequence[str]) -> int:
    """Do what the command line of a script says; the exit code.

    A network that fails has a row that says so, and the others go on.
    """
    parser = argparse.ArgumentParser(description=table.about.splitlines()[0])
    parser.add_argument("--models", default=table.models, help="names, separated by commas")
    parser.add_argument("--threads", type=int, help="threads that compute; one per processor by default")
    parser.add_argument("--shares", default=table.shares, help="percent of demand, separated by commas")
    parser.add_argument("--rounds", type=int, default=table.rounds)
    parser.add_argument(
        "--runs", type=int, default=table.runs, help="counted runs of each process in every round"
    )
    parser.add_argument("--folder", type=Path, help="where the artifacts go; a temporary folder by default")
    parser.add_argument("--table", type=Path, default=HERE.parent / "docs" / table.page)
    options = parser.parse_args(arguments)
    names = options.models.split(",")
    if unknown := [name for name in names if name not in NETWORKS]:
        parser.error(f"no network {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    shares = [float(text) for text in options.shares.split(",")]
    header = (*table.columns, *(f"{share:g} %" for share in shares))
    page = MarkdownTable(options.table, table.preface, header)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    for name in names:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            try:
                network = compile_network(name, Path(folder), [*table.before, *shares], options.threads)
                row = table.measure(network, Path(folder), options.rounds, options.runs)
            except (CompileError, RuntimeError) as error:
                failures += 1
                row = [name, f"FAILED: {error}", *[""] * (len(header) - 2)]
        page.put(row, list(NETWORKS))
        if table.summary is not None:
            rows = [row for row in page.cells() if row[0] != SUMMARY and "FAILED" not in row[1]]
            page.put([SUMMARY, *table.summary(rows)], list(NETWORKS))
        print("  " + " | ".join(row), flush=True)
    return 1 if failures else 0
