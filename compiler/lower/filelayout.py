"""Where weights lie in the file: grains in order of first use.

A weight of SMALL_WEIGHT bytes or more begins at a page and is cut into grains of whole pages that are also
whole rows, so that any run of its grains is contiguous in memory and can be read directly. Smaller ones are
packed one after another, up to PACK bytes, because a read costs the same for 1 byte and for 64 KiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, lcm

from occ.ir import Grain
from occ.units import ALIGNMENT, PAGE, round_up

SMALL_WEIGHT = 32 * 1024
PACK = 64 * 1024
LEAST_GRAIN = 256 * 1024
LARGEST_BLOCK = 1024 * 1024
ROW_BLOCK = 16
"""Rows; kernels compute this many output features at once, so grains are multiples of it where that is
affordable."""


def grain_rows(rows: int, row_nbytes: int) -> int:
    """Rows in one grain of a weight: whole pages, at least LEAST_GRAIN bytes where there are that many."""
    if rows * row_nbytes < SMALL_WEIGHT or row_nbytes == 0:
        return rows
    step = PAGE // gcd(row_nbytes, PAGE)
    blocked = lcm(step, ROW_BLOCK)
    if blocked * row_nbytes <= LARGEST_BLOCK:
        step = blocked
    step *= max(1, -(-LEAST_GRAIN // (step * row_nbytes)))
    return min(rows, step)


def lay_out(weights: Sequence[tuple[int, int, int]]) -> tuple[tuple[Grain, ...], int]:
    """Grains of weights given as (buffer, rows, bytes a row) in order of first use, and the bytes of the
    weight part of the file."""
    grains: list[Grain] = []
    position = 0
    pack_start: int | None = None
    for buffer, rows, row_nbytes in weights:
        nbytes = rows * row_nbytes
        if nbytes < SMALL_WEIGHT:
            start = round_up(position, ALIGNMENT)
            if pack_start is None or start + nbytes > pack_start + PACK:
                start = pack_start = round_up(position, PAGE)
            grains.append(Grain(buffer, 0, nbytes, start))
            position = start + nbytes
            continue
        start = round_up(position, PAGE)
        pack_start = None
        size = grain_rows(rows, row_nbytes) * row_nbytes
        for first in range(0, nbytes, size):
            grains.append(Grain(buffer, first, min(size, nbytes - first), start + first))
        position = start + nbytes
    return tuple(grains), round_up(position, PAGE)
