"""Identifiers for a program's values: the model's own names, made unique and legal."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Mapping

LONGEST = 48
"""Characters; a call on three such names still fits on a line or two."""

RESERVED = frozenset(
    {
        *(name for name in dir(builtins) if name != "input"),  # what many models call theirs
        *keyword.kwlist,
        *keyword.softkwlist,
        *(
            "torch",
            "kernels",
            "aten",
            "inf",
            "nan",
            "view_of",
            "arena",
            "loader",
            "load",
            "wait",
            "gather",
            "multiply",
            "packed",
            "native",
        ),
        *("tensors", "bind_inputs", "bind_outputs", "release"),
        *("TILES", "RESIDENT", "HEAD", "STORED", "STATES", "OUTPUTS", "SECTIONS"),
    }
)
"""Names that a program's text uses itself, beside its sections' (`steps_0`)."""


def identifiers(names: Mapping[int, str]) -> dict[int, str]:
    """One identifier per key, in order of the keys; the second `x` becomes `x_2`."""
    taken: set[str] = set()
    found: dict[int, str] = {}
    counts: dict[str, int] = {}
    for key, name in names.items():
        stem = _legal(name)
        identifier = stem
        while identifier in taken:
            counts[stem] = counts.get(stem, 1) + 1
            identifier = f"{stem}_{counts[stem]}"
        taken.add(identifier)
        found[key] = identifier
    return found


def comment(text: str) -> str:
    """`text` as it may stand in a comment or docstring: one line, printable, without quotes or escapes."""
    return "".join(char if char.isprintable() and char not in '"\\' else "?" for char in text)


def listing(items: Iterable[str], most: int) -> str:
    """The first `most` items, and how many more there are."""
    found = list(items)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _legal(name: str) -> str:
    stem = re.sub(r"[^0-9A-Za-z_]+", "_", name).strip("_") or "value"
    if len(stem) > LONGEST:
        # The end of a dotted name tells more than its begin.
        stem = stem[-LONGEST:].lstrip("_")
    if stem in RESERVED or re.fullmatch(r"(steps|LAYOUT)_\d+", stem):
        return f"{stem}_value"
    return f"v{stem}" if stem[0].isdigit() else stem
