"""The loops in which planning spends its time, in C where this machine has a compiler."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from occ.clibrary import built
from occ.errors import UsageError

SOURCE = Path(__file__).with_name("loops.c")


def addresses(arrays: Sequence[NDArray[Any]]) -> tuple[int, ...]:
    """Where arrays lie, for C; they have to outlive what uses them."""
    assert all(array.flags.c_contiguous for array in arrays)
    return tuple(array.ctypes.data for array in arrays)


class Loops:
    """`loops.c`; sizes and numbers in the order that its functions have them."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self.run = library.occ_run
        self.run.argtypes = [c_int64, *[c_void_p] * 5, c_double, c_double, *[c_void_p] * 5]
        self.run.restype = None
        self.grant = library.occ_grant
        self.grant.argtypes = [c_int64, c_double, *[c_void_p] * 6, c_double, c_double, c_void_p]
        self.grant.restype = c_double


@cache
def loops() -> Loops | None:
    """The compiled loops; None where there is no compiler, or no cache directory to keep them in, or one with
    a damaged library."""
    try:
        path = built(SOURCE, _loads)
        return None if path is None else Loops(path)
    except (UsageError, OSError):
        return None


def _loads(path: Path) -> bool:
    try:
        Loops(path)
    except OSError:
        return False
    return True
