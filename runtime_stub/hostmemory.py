"""Memory of the host that a program on a device takes: the pinned ring, and the store of streamed weights.

Standard library only, so that a plan can be made with it. All sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

PAGE = 4096
RING_NBYTES = 32 << 20
"""The ring of a program that does not say: eight requests of the largest size."""

Tile = tuple[int, int]
"""Offset in the file, bytes."""

Table = tuple[int, int, int]
"""Offset in the file, bytes of a row, rows."""


def host_nbytes(
    stream_from: str,
    ring_nbytes: int,
    tiles: Sequence[Tile],
    resident: Collection[int],
    stored: Sequence[Table],
) -> int:
    """What a program takes of the host's memory, all of it pinned."""
    ring = ring_of(ring_nbytes, tiles, stored)
    return ring + (store_nbytes(tiles, resident, stored) if stream_from == "host" else 0)


def ring_of(ring_nbytes: int, tiles: Sequence[Tile], stored: Sequence[Table]) -> int:
    """The ring's bytes: those asked for, or, for 0, as many as tiles and tables can use, RING_NBYTES at
    most."""
    if ring_nbytes:
        return ring_nbytes
    useful = sum(nbytes for _, nbytes in tiles) + 2 * rows_nbytes(RING_NBYTES, stored)
    return max(least_ring_nbytes(stored), min(RING_NBYTES, useful))


def least_ring_nbytes(stored: Sequence[Table]) -> int:
    """The least ring that a program runs with: a page, and what a row of any table takes."""
    return PAGE + _least_rows(stored)


def rows_nbytes(ring_nbytes: int, stored: Sequence[Table]) -> int:
    """The part of the ring that is set aside for rows of tables: an eighth, or what one row takes."""
    if not stored:
        return 0
    return max(_least_rows(stored), ring_nbytes // 8 // PAGE * PAGE)


def store_nbytes(tiles: Sequence[Tile], resident: Collection[int], stored: Sequence[Table]) -> int:
    """Bytes of the streamed tiles and of the pages of the tables."""
    staying = set(resident)
    streamed = sum(nbytes for index, (_, nbytes) in enumerate(tiles) if index not in staying)
    return streamed + sum(table_nbytes(table) for table in stored)


def table_nbytes(table: Table) -> int:
    """Bytes of the pages that a table touches."""
    file_offset, row_nbytes, rows = table
    return -(-(file_offset + row_nbytes * rows) // PAGE) * PAGE - file_offset // PAGE * PAGE


def row_span(row_nbytes: int) -> int:
    """The most bytes of pages that a row touches."""
    return (-(-row_nbytes // PAGE) + 1) * PAGE


def _least_rows(stored: Sequence[Table]) -> int:
    """A row's pages, and the row itself at a place of its own."""
    return max((2 * row_span(row_nbytes) for _, row_nbytes, _ in stored), default=0)
