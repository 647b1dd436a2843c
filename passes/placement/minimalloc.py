"""MiniMalloc's CSV format: one buffer a line, with a half-open lifetime."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from occ.errors import UsageError
from occ.ir import PlacementItem

REQUIRED = ("id", "lower", "upper", "size")
OPTIONAL = ("alignment", "offset")


def read_items(path: Path) -> tuple[PlacementItem, ...]:
    """Read the columns id, lower, upper (steps, half-open) and size (bytes), and alignment (bytes, else 1).

    A column offset is ignored. Raises UsageError, naming the line, where the file is not of that form.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            _check_header(path, reader.fieldnames or ())
            return tuple(_item(path, reader.line_num, row) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def write_offsets(file: TextIO, items: Sequence[PlacementItem], offsets: Sequence[int]) -> None:
    """Write the items, of one range each, with a column offset (bytes); with one for alignment if any has."""
    aligned = any(item.alignment != 1 for item in items)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*REQUIRED, *(["alignment"] if aligned else []), "offset"])
    for item, offset in zip(items, offsets, strict=True):
        ((lower, upper),) = item.ranges
        alignment = [item.alignment] if aligned else []
        writer.writerow([item.name, lower, upper, item.nbytes, *alignment, offset])


def _check_header(path: Path, columns: Sequence[str]) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in REQUIRED + OPTIONAL]
    if missing or unknown:
        fault = f"lacks the column {missing[0]!r}" if missing else f"has an unknown column {unknown[0]!r}"
        raise UsageError(f"{path}: the first line {fault}; write {','.join(REQUIRED)}[,alignment]")


def _item(path: Path, line: int, row: dict[str, str]) -> PlacementItem:
    try:
        lower, upper, size = (int(row[name]) for name in REQUIRED[1:])
        alignment = int(row.get("alignment", 1))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{path}, line {line}: lower, upper, size and alignment must be whole numbers"
        ) from error
    if lower >= upper or size < 0 or alignment < 1:
        raise UsageError(
            f"{path}, line {line}: buffer {row['id']!r} has lifetime [{lower}, {upper}), size {size} and "
            f"alignment {alignment}; it must live for a step, with no negative size and an alignment above 0"
        )
    return PlacementItem(row["id"], size, alignment, ((lower, upper),))
