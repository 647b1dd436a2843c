"""Bytes, pages and the way people write them."""

from __future__ import annotations

import re

from occ.errors import UsageError

PAGE = 4096
"""Bytes; direct reads need offsets, lengths and addresses in multiples of it."""

ALIGNMENT = 64
"""Bytes; every buffer begins at a multiple of it (one cache line, one AVX-512 register)."""

WORKSPACE_GRAIN = 64 << 10
"""Bytes; workspaces are rounded up to multiples, so that they do not depend on the length of a name."""

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


def round_up(nbytes: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `nbytes`."""
    return -(-nbytes // multiple) * multiple


def round_down(nbytes: int, multiple: int) -> int:
    """The largest multiple of `multiple` that is at most `nbytes`."""
    return nbytes // multiple * multiple


def parse_bytes(text: str | int) -> int:
    """Read `512MB` (10^6), `64MiB` (2^20) or a plain number of bytes.

    Raises UsageError where the text is not a size above zero.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        nbytes = text
    else:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMG]?I?B?)\s*", str(text), re.IGNORECASE)
        unit = match.group(2).upper() if match else None
        if match is None or unit not in _UNITS:
            raise UsageError(f"cannot read {text!r} as a size; write for example 512MB, 64MiB or 1000000")
        nbytes = int(float(match.group(1)) * _UNITS[unit])
    if nbytes <= 0:
        raise UsageError(f"a size must be above zero, not {text!r}")
    return nbytes


def format_bytes(nbytes: int) -> str:
    """Write bytes in decimal units with three significant digits, such as `15.9 MB`."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if abs(size) < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000.0
    return f"{size:.4g} GB"


def format_seconds(seconds: float) -> str:
    """Write a duration as `12.3 ms`, `4.56 s` or `78 us`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} us"
    if seconds < 1.0:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s"
