"""`python -m occ.passes.placement FILE.csv --capacity N`: place the buffers of a MiniMalloc CSV file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from occ.errors import BudgetError, OccError, UsageError
from occ.passes.placement.minimalloc import read_items, write_offsets
from occ.passes.placement.portfolio import place
from occ.units import parse_bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 placed, 2 bad input, 3 no placement within the capacity."""
    parser = argparse.ArgumentParser(
        prog="python -m occ.passes.placement",
        description="Give every buffer of a MiniMalloc CSV file (id,lower,upper,size) an offset.",
    )
    parser.add_argument("file", type=Path, help="CSV file; lifetimes are half-open, sizes are bytes")
    parser.add_argument("--capacity", required=True, help="bytes that may be used, such as 1048576 or 1MiB")
    parser.add_argument("--output", type=Path, help="where the CSV with offsets goes (default: stdout)")
    parser.add_argument("--effort", type=int, default=1, help="multiplies the search effort (default: 1)")
    options = parser.parse_args(arguments)
    try:
        _run(options.file, parse_bytes(options.capacity), options.output, options.effort)
    except OccError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(path: Path, capacity: int, output: Path | None, effort: int) -> None:
    if effort < 0:
        raise UsageError(f"--effort must not be negative, not {effort}")
    items = read_items(path)
    placement = place(items, height_limit=capacity, effort=effort)
    if placement.height > capacity:
        advice = "no placement can fit" if placement.bound > capacity else "try a larger --effort"
        raise BudgetError(
            f"{path} does not fit in {capacity} bytes: the bound is {placement.bound}, the best height found "
            f"{placement.height}; {advice}",
            placement.height,
        )
    if output is None:
        write_offsets(sys.stdout, items, placement.offsets)
    else:
        try:
            with output.open("w", newline="", encoding="utf-8") as file:
                write_offsets(file, items, placement.offsets)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error}") from error
    proof = "the least possible" if placement.optimal else "not proven least"
    print(
        f"placed {len(items)} buffers in {placement.height} bytes ({proof}; bound {placement.bound}, "
        f"method {placement.method})",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
