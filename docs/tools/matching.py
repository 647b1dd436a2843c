"""Whether a command printed what a page says, numbers aside.

A page shows what one run printed on one machine. Numbers differ from run to run, and so do lines that say how
long something took; the words should not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

WORDS = 4
"""Words of a line that count, from its beginning."""

ELISION = "..."
"""A line that stands for any number of lines."""

_NUMBER = re.compile(
    r"(?<![A-Za-z_])[-+]?\d[\d.,]*(?:e[-+]?\d+)? ?(?:%|[kMG]i?B/s|[kMG]i?B|B|ns|us|ms|s|min)?(?![\w])"
)
# Neither the marks of a memory map, nor how far an arena is from its bound, which a machine's speed decides.
_WORD = re.compile(r"\b(?!(?:[oxs]+|proven|gap)\b)[A-Za-z_]\w*")


def words(line: str) -> tuple[str, ...]:
    """The first words of a line, without numbers, their units, and punctuation."""
    return tuple(_WORD.findall(_NUMBER.sub(" ", line))[:WORDS])


def matched(expected: str, printed: str) -> tuple[list[int | None], str]:
    """For each line of `expected` the line of `printed` that it stands for, None for one that stands for none
    in particular; and what is missing, empty where nothing is.

    Lines are in the same order. More may be printed than is expected: what is printed only when something is
    done for the first time. A line without words stands for the next one, if that has none either.
    """
    lines = printed.splitlines()
    found: list[int | None] = []
    position = 0
    for number, line in enumerate(expected.splitlines()):
        wanted = words(line)
        if line.strip() == ELISION:
            found.append(None)
            continue
        if not wanted:
            same = position < len(lines) and not words(lines[position])
            found.append(position if same else None)
            position += same
            continue
        at = next((i for i in range(position, len(lines)) if words(lines[i]) == wanted), None)
        if at is None:
            return found, f"line {number + 1}, {line.strip()!r}, is not printed{_after(lines, position)}"
        found.append(at)
        position = at + 1
    return found, ""


def heading(expected: str) -> str:
    """The first line that has words: all that is compared of an output that varies."""
    return next((line for line in expected.splitlines() if words(line)), "")


def updated(expected: str, printed: str, varies: bool = False) -> str:
    """`expected` with what was printed this time.

    Without elisions that is all of it. With them it is the same lines, if they are there; where the output
    `varies`, it is everything from its first line on.
    """
    old, new = expected.splitlines(), printed.rstrip().splitlines()
    if ELISION not in (line.strip() for line in old):
        return _text(new)
    if varies:
        found, missing = matched(heading(expected), printed)
        return expected if missing else _text([ELISION, *new[found[0] :]])
    found, missing = matched(expected, printed)
    if missing:
        return expected
    return _text([line if at is None else new[at] for line, at in zip(old, found, strict=True)])


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _after(lines: Sequence[str], position: int) -> str:
    return f" after {lines[position - 1].strip()!r}" if position else ""
