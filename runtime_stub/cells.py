"""Running the text of `program.py` a cell at a time.

A cell begins at a line `# %%`. The compiler's memory is that of the largest cell, not of the program: the
text of 12,000 steps compiled at once takes over 100 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MARK = "# %%"


def cells_of(text: str) -> Iterator[tuple[int, str]]:
    """Each cell with the number of lines before it."""
    lines = text.splitlines(keepends=True)
    begins = [index for index, line in enumerate(lines) if line.startswith(MARK)]
    for begin, end in zip(begins, [*begins[1:], len(lines)], strict=True):
        yield begin, "".join(lines[begin:end])


def run_cells(text: str, filename: str, namespace: dict[str, Any]) -> Iterator[None]:
    """Execute the text's cells in `namespace`, one at each step of the iterator; line numbers are those of
    the whole text."""
    for before, cell in cells_of(text):
        exec(compile("\n" * before + cell, filename, "exec", dont_inherit=True), namespace)
        yield
