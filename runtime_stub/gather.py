"""Rows of a table that stays in the file: the one read whose addresses depend on data."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from .arena import Arena
from .errors import IndexRangeError
from .jobs import PAGE, Job, Piece, RowsJob, Table, pieces_of
from .storage import WeightFile


class ReadsNow(Protocol):
    """A loader that can be asked to read before everything else."""

    def read_now(self, job: Job, pieces: Sequence[Piece]) -> None:
        """Read `pieces`, all of `job`; returns when they are there."""


def gather_rows(
    loader: ReadsNow,
    arena: Arena,
    file: WeightFile,
    table: Table,
    indices: Tensor,
    out: Tensor,
    scratch: Tensor,
) -> None:
    """Write row `indices[i]` of `table` into row i of `out` (contiguous; one row per index).

    Each row that is asked for is read once, in whole pages, into the whole pages of `scratch` (a view of the
    arena), in as many rounds as these need. Raises IndexRangeError before anything is read.
    """
    wanted = checked_rows(table, indices, out)
    if not wanted:
        return
    positions: dict[int, list[int]] = {}
    for position, index in enumerate(wanted):
        positions.setdefault(index, []).append(position)

    begin = scratch.data_ptr() - arena.address
    first = -(-begin // PAGE) * PAGE
    capacity = (begin + scratch.nbytes - first) // PAGE * PAGE
    for rows in _rounds(table, sorted(positions), capacity):
        places = read_rows(loader, file, table, rows, first)
        for row, place in zip(rows, places, strict=True):
            for position in positions[row]:
                ctypes.memmove(
                    out.data_ptr() + position * table.row_nbytes, arena.address + place, table.row_nbytes
                )


def checked_rows(table: Table, indices: Tensor, out: Tensor) -> list[int]:
    """The rows that `indices`, which are on the host, ask for, in order. Raises IndexRangeError for one that
    `table` has not, ValueError where `out` cannot take the rows one after another."""
    wanted: list[int] = indices.reshape(-1).tolist()
    for index in (min(wanted), max(wanted)) if wanted else ():
        if not 0 <= index < table.rows:
            raise IndexRangeError(
                f"index {index} is outside table {table.name!r}, which has {table.rows} rows;"
                f" pass indices from 0 to {table.rows - 1}"
            )
    if not out.is_contiguous() or out.nbytes != len(wanted) * table.row_nbytes:
        raise ValueError(f"a gather of {len(wanted)} rows of {table.row_nbytes} bytes needs a dense result")
    return wanted


def page_span(table: Table, row: int) -> tuple[int, int]:
    """File offsets of the first page a row touches and of the one after the last."""
    start = table.file_offset + row * table.row_nbytes
    return start // PAGE * PAGE, -(-(start + table.row_nbytes) // PAGE) * PAGE


def _rounds(table: Table, rows: Sequence[int], capacity: int) -> Iterator[list[int]]:
    """Ascending rows in groups whose pages fit into `capacity` bytes, shared pages counted once."""
    group: list[int] = []
    taken = 0
    end = -1
    for row in rows:
        first, last = page_span(table, row)
        more = last - max(first, end)
        if group and taken + more > capacity:
            yield group
            group, taken, end = [], 0, -1
            more = last - first
        if more > capacity:
            raise ValueError(
                f"a row of table {table.name!r} takes {more} bytes of pages; its scratch has {capacity}"
            )
        group.append(row)
        taken += more
        end = last
    yield group


def read_rows(
    loader: ReadsNow, file: WeightFile, table: Table, rows: Sequence[int], address: int
) -> list[int]:
    """Read the pages of `rows` (ascending) to `address` on; the place of each row. Addresses count from the
    begin of the memory that `loader` reads into."""
    job = RowsJob(table=table, file=file)
    pieces: list[Piece] = []
    places: list[int] = []
    run_first = run_end = -1  # file offsets of the run of adjacent pages that is being built
    run_address = address
    for row in rows:
        first, last = page_span(table, row)
        if first > run_end:
            if run_end > run_first:
                pieces += pieces_of(job, run_first, run_address, run_end - run_first)
                run_address += run_end - run_first
            run_first = first
        run_end = max(run_end, last)
        places.append(run_address + table.file_offset + row * table.row_nbytes - run_first)
    pieces += pieces_of(job, run_first, run_address, run_end - run_first)
    loader.read_now(job, pieces)
    return places
