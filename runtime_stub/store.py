"""Loading for a device from pinned memory of the host that holds all streamed weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .arena import Arena, Views
from .device import Device, Event
from .hostmemory import table_nbytes
from .jobs import PAGE, RowsJob, StagedJob, Table, Tile, pieces_of
from .loader import Loader
from .staged import StagedLoader
from .storage import WeightFile


class StoreLoader(StagedLoader):
    """Streamed tiles and tables are read once, checked and kept in pinned memory; `load` puts a copy from
    there into the copy stream and never blocks. Tiles that stay in the arena come through the ring at the
    start.

    `nbytes_read` also counts what is copied from the store.
    """

    def __init__(self, file: WeightFile, arena: Views, device: Device, ring_nbytes: int) -> None:
        super().__init__(file, arena, device, ring_nbytes)
        self._store: Arena | None = None
        self._reader: Loader | None = None
        self._copies: list[tuple[Tensor, Tensor] | None] = []
        self._ready: list[Event | None] = []
        self._late: dict[int, Event] = {}
        self._table_begins: list[int] = []

    @property
    def host_nbytes(self) -> int:
        return super().host_nbytes + (self._store.nbytes if self._store is not None else 0)

    def load_residents(self, tiles: Sequence[int]) -> None:
        """Ask for tiles whose bytes nothing else ever takes, in order of use, and begin to fill the store
        with all others; returns when the tables are there."""
        super().load_residents(tiles)
        staying = set(tiles)
        streamed = [tile for tile in self._tiles if tile.id not in staying]
        begins = {}
        end = 0
        for tile in streamed:
            begins[tile.id] = end
            end += tile.nbytes
        for table in self._tables:
            self._table_begins.append(end)
            end += _nbytes(table)
        self._ready = [None] * len(self._tiles)
        self._copies = [None] * len(self._tiles)
        if not end:
            return
        self._store = Arena(end, purpose="the store of streamed weights", option="--host-budget")
        self._device.register(self._store)
        for tile in streamed:
            source = self._store.bytes[begins[tile.id] : begins[tile.id] + tile.nbytes]
            target = self._arena.bytes[tile.address : tile.address + tile.nbytes]
            self._copies[tile.id] = (target, source)
        self._reader = Loader(self._file, self._store)
        # By their numbers; those that stay have no place in the store and are not asked for.
        self._reader.define(
            [Tile(t.id, t.file_offset, t.nbytes, begins.get(t.id, 0), t.crc) for t in self._tiles],
            self._tables,
        )
        self._reader.load_residents([tile.id for tile in streamed])
        for table, begin in zip(self._tables, self._table_begins, strict=True):
            job = RowsJob(table=table, file=self._file)
            first = table.file_offset // PAGE * PAGE
            self._reader.read_now(job, pieces_of(job, first, begin, _nbytes(table)))

    def load(self, tile: int) -> None:
        """Put the copy of a tile into the copy stream, behind all steps launched so far; returns at once. A
        tile that the store has not yet, in the first run, is copied when it is waited for."""
        assert self._reader is not None
        edge = self._device.record(self._device.compute)
        if self._reader.has(tile):
            self._enqueue(tile, edge)
        else:
            self._late[tile] = edge

    def wait(self, tile: int) -> None:
        if (edge := self._late.get(tile)) is not None:
            assert self._reader is not None
            before = self._reader.stall
            self._reader.wait(tile)
            self.stall += self._reader.stall - before
            del self._late[tile]
            self._enqueue(tile, edge)
        ready = self._ready[tile]
        if ready is None:
            super().wait(tile)
            return
        self._device.wait(self._device.compute, ready)
        self._device.release(ready)
        self._ready[tile] = None

    def _enqueue(self, tile: int, edge: Event) -> None:
        copies = self._copies[tile]
        assert copies is not None
        device = self._device
        device.wait(device.copies, edge)
        device.release(edge)
        job = None
        if self.jobs is not None:
            job = StagedJob(tile=self._tiles[tile], file=self._file, checked=self._checked)
            self.jobs.append(job)
        self._copy_now(job, self._tiles[tile].file_offset, *copies)
        self._ready[tile] = device.record(device.copies)
        self.nbytes_read += copies[0].nbytes

    def settle(self) -> None:
        if self._reader is not None:
            self._reader.settle()
        super().settle()

    def drain(self) -> None:
        if self._reader is not None:
            self._reader.drain()
        super().drain()

    def resume(self) -> None:
        super().resume()
        if self._reader is not None:
            self._reader.resume()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        super().close()
        if self._store is not None:
            self._device.unregister(self._store)
            self._copies.clear()
            self._store.close()

    def _find_rows(self, table: Table, rows: Sequence[int], address: int) -> Sequence[int]:
        """Where the rows lie in the store, as addresses of the ring's memory count."""
        assert self._store is not None
        index = next(index for index, other in enumerate(self._tables) if other is table)
        begin = self._store.address - self._host.address + self._table_begins[index]
        begin += table.file_offset % PAGE
        return [begin + row * table.row_nbytes for row in rows]

    def _release_events(self) -> None:
        for event in (*self._ready, *self._late.values()):
            if event is not None:
                self._device.release(event)
        self._late.clear()
        self._ready = [None] * len(self._tiles)
        super()._release_events()


def _nbytes(table: Table) -> int:
    return table_nbytes((table.file_offset, table.row_nbytes, table.rows))
