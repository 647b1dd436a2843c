"""Loading where the host's memory is the device's: reads go straight into the arena."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import perf_counter

from torch import Tensor

from .arena import Arena, Views
from .device import Device, Event
from .gather import read_rows
from .hostmemory import row_span
from .jobs import Job, Piece, Table, Tile, TileJob
from .loader import Loader
from .rows import RowStaging
from .storage import WeightFile


class MappedArena(Views):
    """Registered memory of the host that kernels use as it is; `host` is the same bytes for readers.

    Raises NotEnoughMemoryError.
    """

    def __init__(self, device: Device, nbytes: int) -> None:
        self.nbytes = nbytes
        self.host = Arena(nbytes)
        self._device = device
        try:
            device.register(self.host)
        except BaseException:
            self.host.close()
            raise
        super().__init__(device.mapped(self.host))

    def close(self) -> None:
        if not self._typed:
            return
        super().close()
        self._device.unregister(self.host)
        self.host.close()


class MappedLoader(Loader):
    """A `Loader` whose reads begin when the device has done all that was launched before their `load`: these
    steps may use the bytes that are read into. Steps launched after a `wait` find the tile there.

    Rows of tables have memory of their own on the way; `scratch` of a gather is not used.
    """

    def __init__(self, file: WeightFile, arena: MappedArena, device: Device) -> None:
        self._device = device
        self._edges: dict[Job, Event] = {}
        self._row_memory: Arena | None = None
        self._rows: RowStaging | None = None
        super().__init__(file, arena.host)

    @property
    def host_nbytes(self) -> int:
        """Bytes of pinned memory besides the arena."""
        return self._row_memory.nbytes if self._row_memory is not None else 0

    def define(self, tiles: Sequence[Tile], tables: Sequence[Table]) -> None:
        super().define(tiles, tables)
        if tables:
            nbytes = 2 * max(row_span(table.row_nbytes) for table in tables)
            self._row_memory = Arena(nbytes, purpose="the memory for rows of tables", option="--host-budget")
            self._device.register(self._row_memory)
            self._rows = RowStaging(self._device, self._row_memory, 0, nbytes)

    def gather(self, table: int, indices: Tensor, out: Tensor, scratch: Tensor) -> None:
        assert self._rows is not None
        self._rows.gather(self._find_rows, self._tables[table], indices, out)

    def read_now(self, job: Job, pieces: Sequence[Piece]) -> None:
        """Read `pieces`, all of `job`, into the memory for rows, in the calling thread."""
        assert self._row_memory is not None
        began = perf_counter()
        memory = self._row_memory.memory
        for piece in pieces:
            self._file.read_pages(memory[piece.address : piece.address + piece.nbytes], piece.file_offset)
            job.check_piece(piece, memory)
            self._nbytes_read[-1] += piece.nbytes
        self.stall += perf_counter() - began

    def drain(self) -> None:
        super().drain()
        self._release_edges()

    def close(self) -> None:
        super().close()
        self._device.idle()
        self._release_edges()
        if self._row_memory is not None:
            assert self._rows is not None
            self._rows.finish()
            self._device.unregister(self._row_memory)
            self._row_memory.close()

    def _find_rows(self, table: Table, rows: Sequence[int], address: int) -> Sequence[int]:
        return read_rows(self, self._file, table, rows, address)

    def _job_again(self, tile: int) -> tuple[TileJob, list[Piece]]:
        """A new one: an edge is of one job."""
        return self._new_job(tile)

    def _ask(self, job: Job, pieces: Sequence[Piece], queue: deque[Piece]) -> None:
        if queue is self._queue:
            self._edges[job] = self._device.record(self._device.compute)
        super()._ask(job, pieces, queue)

    def _read(self, piece: Piece, thread: int) -> None:
        edge = self._edges.get(piece.job)
        if edge is not None:
            self._device.synchronize(edge)
        super()._read(piece, thread)
        if piece.job.left == 0 and (edge := self._edges.pop(piece.job, None)) is not None:
            self._device.release(edge)

    def _release_edges(self) -> None:
        for edge in self._edges.values():
            self._device.release(edge)
        self._edges.clear()
