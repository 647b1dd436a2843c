"""Operands, calls and literals as Python text of at most 120 columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from occ.ir import Arg, Ref, Symbol

WIDTH = 120


def operand(arg: Arg, name_of: Callable[[int], str]) -> str:
    """The text of an operand; `name_of` gives that of a value."""
    if isinstance(arg, Ref):
        return name_of(arg.value)
    if isinstance(arg, Symbol):
        return arg.text
    if isinstance(arg, tuple):
        return tuple_text([operand(item, name_of) for item in arg])
    if isinstance(arg, float) and not math.isfinite(arg):
        return str(arg)  # inf, -inf and nan are names in the program
    return repr(arg)


def tuple_text(items: Sequence[object]) -> str:
    """`()`, `(a,)`, `(a, b)`."""
    return f"({', '.join(map(str, items))}{',' if len(items) == 1 else ''})"


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a dense row-major tensor."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def wrap(text: str, indent: int, width: int = WIDTH) -> list[str]:
    """A statement as lines of at most `width` columns, the first indented by `indent`, the others by 4 more;
    broken after an opening bracket or a comma inside brackets where it must be."""
    lines: list[str] = []
    current = " " * indent
    for part in _parts(text):
        if len((current + part).rstrip()) > width and current.strip():
            lines.append(current.rstrip())
            current = " " * (indent + 4)
        current += part
    lines.append(current.rstrip())
    return lines


def _parts(text: str) -> list[str]:
    """`text` cut after each opening of a call and each comma that is inside brackets and outside strings."""
    parts: list[str] = []
    depth = 0
    quote = ""
    begin = 0
    escaped = False
    for place, char in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
            if depth == 1:
                parts.append(text[begin : place + 1])
                begin = place + 1
        elif char in ")]}":
            depth -= 1
        elif char == " " and depth and text[place - 1] == ",":
            parts.append(text[begin : place + 1])
            begin = place + 1
    parts.append(text[begin:])
    return parts
