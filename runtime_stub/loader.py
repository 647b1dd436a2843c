"""The loader: threads that read tiles into the arena in the order the program asks for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter

from torch import Tensor

from .arena import Arena
from .errors import HandleError
from .gather import gather_rows
from .jobs import Job, Piece, Table, Tile, TileJob, pieces_of
from .storage import WeightFile

THREADS = 2
"""Two requests under way keep an SSD busy; more take time from the kernels."""


class Loader:
    """Reads requests first come, first served, with THREADS threads; rows for a gather go before tiles.

    A program calls `load`, `wait` and `gather`. An error in a thread is raised by the next of these calls,
    until `drain`. `define` must come before the first load. Counters: `nbytes_read` in bytes, `stall` in
    seconds that `wait` and `gather` waited. Where `spans` is a list, every load adds to it (tile, submitted,
    started, finished) in seconds of `time.perf_counter`.
    """

    def __init__(self, file: WeightFile, arena: Arena) -> None:
        self._file = file
        self._arena = arena
        self._tiles: Sequence[Tile] = ()
        self._tables: Sequence[Table] = ()
        self._pending: list[Job | None] = []
        self._checked: list[tuple[int, int, int] | None] = []
        self._queue: deque[Piece] = deque()
        self._urgent: deque[Piece] = deque()
        self._busy = 0
        self._stopped = False
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._finished = threading.Condition(self._lock)
        self.nbytes_read = 0
        self.stall = 0.0
        self.spans: list[tuple[int, float, float, float]] | None = None
        self._threads = [
            threading.Thread(target=self._serve, name=f"occ-loader-{index}", daemon=True)
            for index in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def define(self, tiles: Sequence[Tile], tables: Sequence[Table]) -> None:
        """Say what tile and table numbers mean."""
        self._tiles = tiles
        self._tables = tables
        self._pending = [None] * len(tiles)
        self._checked = [None] * len(tiles)

    def load(self, tile: int) -> None:
        """Ask for a tile; returns at once."""
        wanted = self._tiles[tile]
        job = TileJob(tile=wanted, file=self._file, checked=self._checked)
        pieces = pieces_of(job, wanted.file_offset, wanted.address, wanted.nbytes)
        with self._lock:
            self._raise_if_failed()
            self._pending[tile] = job
            self._queue.extend(pieces)
            self._arrived.notify(len(pieces))

    def wait(self, tile: int) -> None:
        """Return when the tile's bytes are in the arena and checked.

        Raises DamageError where they are not what they should be.
        """
        if self._pending[tile] is not None:
            self._wait_for(lambda: self._pending[tile] is None)

    def gather(self, table: int, indices: Tensor, out: Tensor, scratch: Tensor) -> None:
        """Write row `indices[i]` of a table into row i of `out`, through `scratch`.

        Raises IndexRangeError before anything is read, DamageError where a page is not what it should be.
        """
        gather_rows(self, self._arena, self._file, self._tables[table], indices, out, scratch)

    def read_now(self, job: Job, pieces: Sequence[Piece]) -> None:
        """Read `pieces`, all of `job`, before any tile that waits; returns when they are there."""
        with self._lock:
            self._raise_if_failed()
            self._urgent.extend(pieces)
            self._arrived.notify(len(pieces))
        self._wait_for(lambda: job.left == 0)

    def drain(self) -> None:
        """Forget every load that was not begun, wait for those that were, and forget an error."""
        with self._lock:
            self._queue.clear()
            self._urgent.clear()
            self._finished.wait_for(lambda: self._busy == 0)
            self._pending = [None] * len(self._tiles)
            self._error = None

    def close(self) -> None:
        """Stop the threads and wait for them. Whoever still waits for a load gets a HandleError."""
        with self._lock:
            self._stopped = True
            self._queue.clear()
            self._urgent.clear()
            self._arrived.notify_all()
            self._finished.notify_all()
        for thread in self._threads:
            # The collector may run, and so close a forgotten program, in one of these threads.
            if thread is not threading.current_thread():
                thread.join()

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        began = perf_counter()
        with self._lock:
            while not ready():
                self._raise_if_failed()
                self._finished.wait()
            self._raise_if_failed()
        self.stall += perf_counter() - began

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise HandleError("the program was closed while it waited for a load")

    def _serve(self) -> None:
        while True:
            with self._lock:
                while not (self._urgent or self._queue or self._stopped):
                    self._arrived.wait()
                if self._stopped:
                    return
                piece = self._urgent.popleft() if self._urgent else self._queue.popleft()
                self._busy += 1
            error: BaseException | None = None
            try:
                self._read(piece)
            except BaseException as failure:
                error = failure
            with self._lock:
                self._busy -= 1
                if error is not None and self._error is None:
                    self._error = error
                self._finished.notify_all()

    def _read(self, piece: Piece) -> None:
        job = piece.job
        memory = self._arena.memory
        if not job.started:
            job.started = perf_counter()
        self._file.read_pages(memory[piece.address : piece.address + piece.nbytes], piece.file_offset)
        job.check_piece(piece, memory)
        with self._lock:
            self.nbytes_read += piece.nbytes
            last = job.left == 1
            if not last:
                job.left -= 1
                return
        job.check_all(memory)
        with self._lock:
            job.left = 0
            job.finished = perf_counter()
            if isinstance(job, TileJob) and self._pending[job.tile.id] is job:
                self._pending[job.tile.id] = None
                if self.spans is not None:
                    self.spans.append((job.tile.id, job.submitted, job.started, job.finished))
