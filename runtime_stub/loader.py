"""The loader: threads that read tiles into the arena in the order the program asks for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING

from torch import Tensor

from .arena import Arena
from .errors import HandleError
from .experts import stored_product
from .gather import gather_rows
from .jobs import THREADS, Checked, Job, Piece, Read, Table, Tile, TileJob, next_queue, pieces_of
from .storage import WeightFile
from .threads import started

if TYPE_CHECKING:
    from .device import Clock


class Loader:
    """Reads requests first come, first served, with THREADS threads; rows for a gather go before tiles.

    Tiles that stay are asked for all at once, by `load_residents`, and read in the order given there. As the
    file is in the order of use, the next of them goes before a request for a tile that lies behind it.

    A program calls `load`, `wait`, `gather` and `multiply`. An error in a thread is raised by the next of
    these calls, until `drain`. `define` must come before the first load. Counters: `nbytes_read` in bytes,
    `stall` in seconds that these calls waited. Where `jobs` is a list, whatever is asked for is added to it;
    `clock` is for loaders that copy.
    """

    def __init__(self, file: WeightFile, arena: Arena) -> None:
        self._file = file
        self._arena = arena
        self._tiles: Sequence[Tile] = ()
        self._tables: Sequence[Table] = ()
        self._pending: list[Job | None] = []
        self._done: list[tuple[TileJob, list[Piece]] | None] = []
        """The last job of each streamed tile, which serves again when it is done."""
        self._checked: list[tuple[int, int, int] | None] = []
        self._checked_rows: Checked = {}
        self._queue: deque[Piece] = deque()
        self._residents: tuple[int, ...] = ()
        self._missing: tuple[int, ...] = ()
        self._staying: deque[Piece] = deque()
        self._urgent: deque[Piece] = deque()
        # The program's thread takes no lock and is told nothing that it does not wait for: what its kernels
        # leave of the processor is little, and each change between threads takes as long as a small kernel.
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._answers: SimpleQueue[None] = SimpleQueue()
        self._ready: Callable[[], bool] | None = None
        self._taking = threading.Lock()
        self._reading: list[Piece | None] = [None] * THREADS
        self._nbytes_read = [0] * (THREADS + 1)
        self._stopped = False
        self._error: BaseException | None = None
        self.stall = 0.0
        self.jobs: list[Job] | None = None
        self.clock: Clock | None = None
        self._threads = started([partial(self._serve, index) for index in range(THREADS)], "loader")

    @property
    def nbytes_read(self) -> int:
        """Bytes read so far."""
        return sum(self._nbytes_read)

    def define(self, tiles: Sequence[Tile], tables: Sequence[Table]) -> None:
        """Say what tile and table numbers mean."""
        self._tiles = tiles
        self._tables = tables
        self._pending = [None] * len(tiles)
        self._done = [None] * len(tiles)
        self._checked = [None] * len(tiles)

    def load(self, tile: int) -> None:
        """Ask for a tile; returns at once."""
        self._raise_if_failed()
        self._submit(tile, self._queue)

    def load_residents(self, tiles: Sequence[int]) -> None:
        """Ask for tiles whose bytes nothing else ever takes, in order of use; returns at once."""
        self._raise_if_failed()
        self._residents = tuple(tiles)
        for tile in self._residents:
            self._submit(tile, self._staying)

    def has(self, tile: int) -> bool:
        """Whether the tile's bytes are in the arena and checked."""
        return self._pending[tile] is None

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

    def multiply(
        self,
        table: int,
        input: Tensor,
        experts: Tensor,
        matrix: Sequence[int],
        strides: Sequence[int],
        scratch: Tensor,
        out: Tensor,
    ) -> None:
        """Multiply row i of `input` with the matrix (of shape `matrix`, with `strides`) that row `experts[i]`
        of a table is, into row i of `out`; see `experts.stored_product`."""
        stored_product(
            self,
            self._arena,
            self._file,
            self._tables[table],
            self._checked_rows,
            input,
            experts,
            matrix,
            strides,
            scratch,
            out,
        )

    def read_now(self, job: Job, pieces: Sequence[Piece]) -> None:
        """Read `pieces`, all of `job`, before any tile that waits; returns when they are there."""
        self.read_soon(job, pieces)
        self.arrived(job)

    def read_soon(self, job: Job, pieces: Sequence[Piece]) -> None:
        """Ask for `pieces`, all of `job`, before any tile that waits; returns at once."""
        self._raise_if_failed()
        self._ask(job, pieces, self._urgent)

    def arrived(self, job: Job) -> None:
        """Return when all of `job` is there."""
        if job.left:
            self._wait_for(lambda: job.left == 0)
        else:
            self._raise_if_failed()

    def settle(self) -> None:
        """Return when all that was asked for is in the arena, or reading has failed."""
        self._wait_until(
            lambda: (
                self._error is not None
                or self._stopped
                or not (self._queue or self._staying or any(self._reading))
            )
        )

    def drain(self) -> None:
        """Forget every load that was not begun, wait for those that were, and forget an error. `resume` asks
        again for the tiles that stay and have not arrived."""
        self._forget()
        self._wait_until(lambda: not any(self._reading))
        self._missing = tuple(tile for tile in self._residents if self._pending[tile] is not None)
        self._pending = [None] * len(self._tiles)
        self._error = None

    def resume(self) -> None:
        """Ask for the tiles that stay and that had not arrived when the loader was drained."""
        for tile in self._missing:
            self._submit(tile, self._staying)
        self._missing = ()

    def close(self) -> None:
        """Stop the threads and wait for them. Whoever still waits for a load gets a HandleError."""
        self._stopped = True
        self._forget()
        for _ in self._threads:
            self._asked.put(None)
        self._answers.put(None)
        for thread in self._threads:
            # The collector may run, and so close a forgotten program, in one of these threads.
            if thread is not threading.current_thread():
                thread.join()

    def _forget(self) -> None:
        with self._taking:
            for queue in (self._queue, self._staying, self._urgent):
                queue.clear()

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        began = perf_counter()
        self._wait_until(lambda: self._error is not None or self._stopped or ready())
        self._raise_if_failed()
        self.stall += perf_counter() - began

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        """Return when `ready()`, which the threads look at after each piece. One thread waits at a time."""
        # Said before it is looked at here, so that either this thread or the one that changes it sees it.
        self._ready = ready
        try:
            while not ready():
                self._answers.get()
        finally:
            self._ready = None

    def _submit(self, tile: int, queue: deque[Piece]) -> None:
        job, pieces = self._new_job(tile) if queue is self._staying else self._job_again(tile)
        self._pending[tile] = job
        self._ask(job, pieces, queue)

    def _new_job(self, tile: int) -> tuple[TileJob, list[Piece]]:
        wanted = self._tiles[tile]
        job = TileJob(tile=wanted, file=self._file, checked=self._checked)
        return job, pieces_of(job, wanted.file_offset, wanted.address, wanted.nbytes)

    def _job_again(self, tile: int) -> tuple[TileJob, list[Piece]]:
        """The tile's last job where it is done, nothing is left to check and nobody keeps it for a trace: to
        make one takes as long as a small kernel, in the program's thread."""
        if self.jobs is not None:
            return self._new_job(tile)
        last = self._done[tile]
        if last is None or last[0].left or self._checked[tile] is None:
            last = self._done[tile] = self._new_job(tile)
            return last
        job, pieces = last
        job.left = len(pieces)
        # As in a new one: where the file has changed since the last check, the load after this one takes it.
        job.before = None
        return last

    def _ask(self, job: Job, pieces: Sequence[Piece], queue: deque[Piece]) -> None:
        if self.jobs is not None:
            job.traced = True
            self.jobs.append(job)
        queue.extend(pieces)
        for _ in pieces:
            self._asked.put(None)

    def _next(self) -> Piece | None:
        if self._urgent:
            return self._urgent.popleft()
        queue = next_queue(self._queue, self._staying)
        return queue.popleft() if queue else None

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise HandleError("the program was closed while it waited for a load")

    def _serve(self, thread: int) -> None:
        while True:
            self._asked.get()
            with self._taking:
                if self._stopped:
                    return
                piece = self._reading[thread] = self._next()
            if piece is None:
                continue  # It was asked for and forgotten since.
            try:
                self._read(piece, thread)
            except BaseException as failure:
                self._error = self._error or failure
            del piece
            self._reading[thread] = None
            ready = self._ready
            if ready is not None and ready():
                self._answers.put(None)

    def _read(self, piece: Piece, thread: int) -> None:
        job = piece.job
        memory = self._arena.memory
        self._arena.wait_for(piece.address, piece.nbytes)
        began = perf_counter()
        self._file.read_pages(memory[piece.address : piece.address + piece.nbytes], piece.file_offset)
        arrived = perf_counter()
        job.check_piece(piece, memory)
        self._nbytes_read[thread] += piece.nbytes
        with self._taking:
            last = job.left == 1
            if not last:
                _note(job, piece, thread, began, arrived)
                job.left -= 1
                return
        job.check_all(memory)
        _note(job, piece, thread, began, arrived)
        job.left = 0
        if isinstance(job, TileJob) and self._pending[job.tile.id] is job:
            self._pending[job.tile.id] = None


def _note(job: Job, piece: Piece, thread: int, began: float, arrived: float) -> None:
    # A job keeps what was read, not its pieces, which refer to it.
    job.finished = perf_counter()
    if job.traced:
        job.reads.append(Read(thread, piece.file_offset, piece.nbytes, began, arrived, job.finished))
