"""A table in a Markdown page whose rows are rewritten one by one, so that a partial run is of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MarkdownTable:
    """The only table of the page at `path`, keyed by its rows' first cell. `preface` stands above it."""

    path: Path
    preface: str
    header: tuple[str, ...]

    def rows(self) -> dict[str, str]:
        """The page's rows as they are written, by first cell, in order; none where there is no page."""
        if not self.path.exists():
            return {}
        lines = [line for line in self.path.read_text().splitlines() if line.startswith("|")]
        return {line.split("|")[1].strip(): line for line in lines[2:]}

    def cells(self) -> list[list[str]]:
        """The cells of every row."""
        return [[cell.strip() for cell in row.strip("|").split("|")] for row in self.rows().values()]

    def put(self, row: Sequence[str], order: Sequence[str]) -> None:
        """Write a row in place of the one with the same first cell; rows are sorted by `order`."""
        rows = self.rows()
        cells = [cell.replace("|", "/").replace("\n", " ") for cell in row]
        rows[cells[0]] = "| " + " | ".join(cells) + " |"
        places = {name: place for place, name in enumerate(order)}
        # A first cell may say more after the name: "resnet152, threads: 1".
        ordered = sorted(rows, key=lambda cell: (places.get(cell.partition(",")[0], len(places)), cell))
        lines = [rows[cell] for cell in ordered]
        head = ["| " + " | ".join(self.header) + " |", "|" + " --- |" * len(self.header)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join([self.preface.strip(), "", *head, *lines]) + "\n")
