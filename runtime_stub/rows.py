"""Rows of tables on their way to a device: put side by side in pinned memory, then copied at once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .arena import Arena
from .device import Device, Event
from .gather import checked_rows, page_span
from .hostmemory import row_span
from .jobs import PAGE, Table

FindRows = Callable[[Table, Sequence[int], int], Sequence[int]]
"""Table, ascending rows, an address in the host's memory -> the address there of each row. What has to be
read goes to the address that is given."""


class RowStaging:
    """Bytes [begin, begin + nbytes) of `host`, registered memory: first pages as they are read, then rows in
    the order in which they are wanted. `nbytes` is at least that of `hostmemory.rows_nbytes` for any table.
    """

    def __init__(self, device: Device, host: Arena, begin: int, nbytes: int) -> None:
        self._device = device
        self._host = host
        self._begin = begin
        self._nbytes = nbytes
        self._copied: Event | None = None

    def gather(self, find: FindRows, table: Table, indices: Tensor, out: Tensor) -> None:
        """Put the writing of row `indices[i]` of `table` into row i of `out` into the compute stream.

        Blocks until the device has computed `indices`. Raises IndexRangeError before anything is read.
        """
        wanted = checked_rows(table, self._device.fetch(indices), out)
        nbytes = table.row_nbytes
        flat = out.view(-1).view(torch.uint8) if wanted else out
        pages = max(self._nbytes // 2 // PAGE * PAGE, row_span(nbytes))
        rows_begin = self._begin + pages
        for first, last in _chunks(table, wanted, pages, (self._nbytes - pages) // nbytes):
            self.finish()
            distinct = sorted(set(wanted[first:last]))
            places = dict(zip(distinct, find(table, distinct, self._begin), strict=True))
            for index, row in enumerate(wanted[first:last]):
                ctypes.memmove(
                    self._host.address + rows_begin + index * nbytes, self._host.address + places[row], nbytes
                )
            count = (last - first) * nbytes
            self._device.copy(
                flat[first * nbytes : last * nbytes],
                self._host.bytes[rows_begin : rows_begin + count],
                self._device.compute,
            )
            self._copied = self._device.record(self._device.compute)

    def finish(self) -> None:
        """Block until the last copy has read its bytes here."""
        if self._copied is not None:
            self._device.synchronize(self._copied)
            self._device.release(self._copied)
            self._copied = None


def _chunks(table: Table, wanted: Sequence[int], pages: int, rows: int) -> Iterator[tuple[int, int]]:
    """Half-open intervals of `wanted`, each of at most `rows` rows that touch at most `pages` bytes."""
    first = 0
    touched: set[int] = set()
    for index, row in enumerate(wanted):
        begin, end = page_span(table, row)
        mine = range(begin, end, PAGE)
        touched.update(mine)
        if index - first == rows or len(touched) * PAGE > pages:
            yield first, index
            first, touched = index, set(mine)
    if wanted:
        yield first, len(wanted)
