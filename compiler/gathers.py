"""Lookups that read rows from the file: what they take, and when they beat a table in memory."""

from __future__ import annotations

from math import gcd

from occ.units import PAGE, round_up

LOOKUPS = frozenset({"embedding", "packed_embedding"})
"""Kernels that look rows of a table up, and that a gather can stand for."""

GATHER_ROWS = 64
"""Rows that a gather has in flight at most; it bounds its scratch."""


def gather_row_nbytes(row_nbytes: int, row_stride: int, file_offset: int) -> int:
    """Bytes of whole pages that hold any one row of `row_nbytes` bytes, of rows that begin every
    `row_stride` bytes from `file_offset`.

    Rows begin at offsets within a page that are congruent to the first one's modulo gcd(stride, page); the
    largest of those makes a row straddle the most pages.
    """
    step = gcd(row_stride, PAGE)
    return round_up(PAGE - step + file_offset % step + row_nbytes, PAGE)


def gather_pays(count: int, row_nbytes: int, table_nbytes: int) -> bool:
    """Whether looking up `count` rows of `row_nbytes` bytes reads far less than the whole table."""
    return 2 * count * (round_up(row_nbytes, PAGE) + PAGE) < table_nbytes
