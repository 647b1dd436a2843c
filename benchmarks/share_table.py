"""One row per network, one column per share of its demand: the frame of latency.py and overlap.py."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from compiled import Compiled, CompileError, compile_network
from markdown_table import MarkdownTable
from zoo_models import ZOO

Measure = Callable[[Compiled, Path, int, int], list[str]]
"""Network, folder, rounds and runs -> the cells of its row."""


def fill_table(
    options: argparse.Namespace,
    parser: argparse.ArgumentParser,
    preface: str,
    columns: Sequence[str],
    measure: Measure,
    before: Sequence[float] = (),
) -> int:
    """Compile and measure `options.models` at `before` and `options.shares` percent of demand; the exit code.

    A network that fails has a row that says so, and the others go on.
    """
    names = options.models.split(",")
    if unknown := [name for name in names if name not in ZOO]:
        parser.error(f"no network {', '.join(unknown)}; the zoo has {', '.join(ZOO)}")
    shares = [float(text) for text in options.shares.split(",")]
    header = (*columns, *(f"{share:g} %" for share in shares))
    table = MarkdownTable(options.table, preface, header)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    for name in names:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            try:
                network = compile_network(name, Path(folder), [*before, *shares], options.threads)
                row = measure(network, Path(folder), options.rounds, options.runs)
            except (CompileError, RuntimeError) as error:
                failures += 1
                row = [name, f"FAILED: {error}", *[""] * (len(header) - 2)]
        table.put(row, list(ZOO))
        print("  " + " | ".join(row), flush=True)
    return 1 if failures else 0
