"""Place MiniMalloc's challenging instances within their capacities and print what it took.

    python benchmarks/minimalloc.py FOLDER [--effort E]

FOLDER holds the files NAME.CAPACITY.csv of github.com/google/minimalloc, benchmarks/challenging.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from occ.passes.placement import place
from occ.passes.placement.minimalloc import read_items

HEADER = ("instance", "buffers", "bound", "height", "fits", "optimal", "method", "seconds")
ROW = "{:8} {:>7} {:>9} {:>9} {:>5} {:>7} {:12} {:>7}"


def main() -> int:
    """Exit code 0 if every instance fits, 1 if not, 2 without instances."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--effort", type=int, default=1)
    options = parser.parse_args()
    instances = []
    for path in sorted(options.folder.glob("*.csv")):
        name, _, capacity = path.stem.partition(".")
        if capacity.isdecimal():
            instances.append((name, int(capacity), read_items(path)))
    if not instances:
        print(f"error: no NAME.CAPACITY.csv in {options.folder}", file=sys.stderr)
        return 2
    print(ROW.format(*HEADER))
    missed = 0
    for name, capacity, items in instances:
        began = time.perf_counter()
        found = place(items, height_limit=capacity, effort=options.effort)
        seconds = time.perf_counter() - began
        fits = found.height <= capacity
        missed += not fits
        flags = ["yes" if flag else "no" for flag in (fits, found.optimal)]
        print(
            ROW.format(name, len(items), found.bound, found.height, *flags, found.method, f"{seconds:.2f}"),
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
