"""Make the documentation anew.

python -m docs.tools reference           the reference pages, from the code
python -m docs.tools outputs [PAGE ...]  what the pages' commands print, from a run on this machine
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from docs.tools.matching import updated
from docs.tools.pages import ROOT, Kind, pages, read
from docs.tools.reference import reference_pages
from docs.tools.running import report, run_page


def write_reference() -> int:
    """Write every reference page. Returns the exit code."""
    for page, text in reference_pages().items():
        (ROOT / page).write_text(text)
        print(f"wrote {page}")
    return 0


def write_outputs(chosen: Sequence[str]) -> int:
    """Run pages and put what their commands printed into them.

    Returns 1 where a command failed, or printed nothing of what an output with elisions shows.
    """
    failed = False
    for page in chosen or pages():
        text = read(page)
        with tempfile.TemporaryDirectory() as folder:
            outcomes = run_page(page, text, Path(folder) / "run")
        lines = text.splitlines(keepends=True)
        # From the end, so that the numbers of the lines above stay what they are.
        for outcome in reversed(outcomes):
            block = outcome.block
            if block.kind is Kind.OUTPUT:
                length = len(block.text.splitlines())
                made = updated(block.text, outcome.printed, block.varies)
                lines[block.line : block.line + length] = [made]
            if outcome.failure and (block.kind is not Kind.OUTPUT or made == block.text):
                failed = True
                print(report(outcome), file=sys.stderr)
        if (whole := "".join(lines)) != text:
            (ROOT / page).write_text(whole)
            print(f"wrote {page}")
    return int(failed)


def main(argv: Sequence[str]) -> int:
    """Run one of the two commands; returns the exit code."""
    if argv[:1] == ["reference"] and len(argv) == 1:
        return write_reference()
    if argv[:1] == ["outputs"]:
        return write_outputs(argv[1:])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
