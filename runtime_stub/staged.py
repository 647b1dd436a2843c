"""Loading for a device in three stages: reads into a pinned ring, copies from there, kernels.

Reads and copies happen in the order in which the program asks, so the ring is a queue: a piece takes the
bytes that follow the last one's, and frees them when the device has copied it. Reads go on as far as the ring
has room, whatever the arena is still used for. A copy waits, on the device, for the steps that were launched
before its `load`, which are all that use what it overwrites; the step after a `wait` waits, on the device
too, for the copy. Nothing waits for what is asked for later, so that a ring of one page is enough.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from .arena import Arena, Views
from .device import Clock, Device, Event
from .errors import HandleError
from .gather import read_rows
from .hostmemory import PAGE, ring_of, rows_nbytes
from .jobs import REQUEST_NBYTES, THREADS, Job, Piece, Read, StagedJob, Table, Tile, next_queue, pieces_of
from .ring import Ring
from .rows import RowStaging
from .storage import WeightFile
from .threads import started


@dataclass(slots=True, eq=False)
class _Slot:
    """A piece and its place in the ring, an address of the host's memory. What `read` holds is None until
    all of it was read."""

    piece: Piece
    address: int
    read: Read | None = None


class StagedLoader:
    """Reads tiles from `file` through `ring_nbytes` bytes of pinned memory (0: as many as
    `hostmemory.ring_of` says) into `arena`, with THREADS threads that read and one that checks and copies.
    The interface is that of `loader.Loader`.

    `load` notes how far the compute stream is; `wait` blocks until the tile's copies are on their way and
    makes the compute stream wait for them. A tile's checksum is computed in the ring; of one that is larger
    than a request the first pieces are copied before the last is checked, but `wait` returns for none that
    failed. An error in a thread is raised by the next `wait` or `gather`, until `drain`.

    Counters: `nbytes_read` in bytes, from the file; `stall` in seconds that the host waited for reads in
    `wait` and `gather`. How long the device waits for copies beyond that shows in a trace.
    """

    def __init__(self, file: WeightFile, arena: Views, device: Device, ring_nbytes: int) -> None:
        self._file = file
        self._arena = arena
        self._device = device
        self._ring_nbytes = ring_nbytes
        self._pinned: Arena | None = None
        self._tiles: Sequence[Tile] = ()
        self._tables: Sequence[Table] = ()
        self._ring = Ring(0, PAGE)
        self._request_nbytes = PAGE
        self._rows: RowStaging | None = None
        self._pending: list[StagedJob | None] = []
        self._checked: list[tuple[int, int, int] | None] = []
        self._queue: deque[Piece] = deque()
        self._residents: tuple[int, ...] = ()
        self._missing: tuple[int, ...] = ()
        self._staying: deque[Piece] = deque()
        self._urgent: deque[Piece] = deque()
        self._begun: deque[_Slot] = deque()
        self._copied: deque[Event | None] = deque()
        self._busy = 0
        self._copying = False
        self._freeing = False
        self._draining = False
        self._stopped = False
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._filled = threading.Condition(self._lock)
        self._finished = threading.Condition(self._lock)
        self.nbytes_read = 0
        self.stall = 0.0
        self.jobs: list[Job] | None = None
        self.clock: Clock | None = None
        self._threads: list[threading.Thread] = []

    @property
    def host_nbytes(self) -> int:
        """Bytes of pinned memory."""
        return self._pinned.nbytes if self._pinned is not None else 0

    @property
    def _host(self) -> Arena:
        assert self._pinned is not None, "the tiles are not defined"
        return self._pinned

    def define(self, tiles: Sequence[Tile], tables: Sequence[Table]) -> None:
        """Say what tile and table numbers mean, take the ring and start the threads; once, before the first
        load. Raises NotEnoughMemoryError, and ValueError for a ring that is too small."""
        stored = [(table.file_offset, table.row_nbytes, table.rows) for table in tables]
        total = ring_of(self._ring_nbytes, [(tile.file_offset, tile.nbytes) for tile in tiles], stored)
        rows = rows_nbytes(total, stored)
        ring = total - rows
        if ring < PAGE:
            raise ValueError(f"a ring of {total} bytes has no room for a page beside {rows} bytes for rows")
        pinned = Arena(total, purpose="the pinned ring", option="--host-budget")
        try:
            self._device.register(pinned)
        except BaseException:
            pinned.close()
            raise
        self._pinned = pinned
        self._tiles = tiles
        self._tables = tables
        self._pending = [None] * len(tiles)
        self._checked = [None] * len(tiles)
        self._ring = Ring(0, ring)
        # Two in the ring at least, so that one is read while the other is copied.
        self._request_nbytes = min(REQUEST_NBYTES, max(PAGE, ring // 2 // PAGE * PAGE))
        self._rows = RowStaging(self._device, pinned, ring, rows) if rows else None
        readers = [partial(self._serve, index) for index in range(THREADS)]
        self._threads = started([*readers, self._pass_on], "loader")

    def load(self, tile: int) -> None:
        """Ask for a tile, whose copies begin when all steps launched so far have ended; returns at once."""
        with self._lock:
            self._submit(tile, self._queue, self._device.record(self._device.compute))

    def load_residents(self, tiles: Sequence[int]) -> None:
        """Ask for tiles whose bytes nothing else ever takes, in order of use; returns at once."""
        with self._lock:
            self._raise_if_failed()
            self._residents = tuple(tiles)
            for tile in self._residents:
                self._submit(tile, self._staying, None)

    def wait(self, tile: int) -> None:
        """Have what is launched from now on wait for the tile.

        Raises DamageError where its bytes are not what they should be.
        """
        job = self._pending[tile]
        if job is None:
            return
        if job.ready is None:
            self._wait_for(lambda: job.ready is not None)
        assert job.ready is not None
        self._device.wait(self._device.compute, job.ready)
        self._device.release(job.ready)
        self._pending[tile] = None

    def gather(self, table: int, indices: Tensor, out: Tensor, scratch: Tensor) -> None:
        """Write row `indices[i]` of a table into row i of `out`. The pages that hold the rows are read into
        memory of the host, and `scratch`, which is the device's, stays as it is.

        Blocks until the device has computed `indices`. Raises IndexRangeError before anything is read,
        DamageError where a page is not what it should be.
        """
        assert self._rows is not None
        self._rows.gather(self._find_rows, self._tables[table], indices, out)

    def read_now(self, job: Job, pieces: Sequence[Piece]) -> None:
        """Read `pieces`, all of `job`, before any tile that waits; returns when they are there. Their
        addresses are those of the host's memory, outside the ring."""
        with self._lock:
            self._raise_if_failed()
            self._note(job)
            self._urgent.extend(pieces)
            self._arrived.notify(len(pieces))
        self._wait_for(lambda: job.left == 0)

    def settle(self) -> None:
        """Return when all that was asked for is in the arena, or reading has failed."""
        with self._lock:
            self._finished.wait_for(
                lambda: (
                    self._error is not None
                    or self._stopped
                    or not (self._queue or self._staying or self._busy or self._begun or self._copying)
                )
            )
        self._device.idle()

    def drain(self) -> None:
        """Forget every load that was not begun, wait for those that were, and forget an error. `resume` asks
        again for the tiles that stay and have not arrived."""
        with self._lock:
            self._draining = True
            for queue in (self._queue, self._staying, self._urgent):
                queue.clear()
            self._finished.wait_for(lambda: not (self._busy or self._copying or self._freeing))
            self._begun.clear()
            self._missing = tuple(tile for tile in self._residents if not self._has_arrived(tile))
        self._device.idle()
        with self._lock:
            self._release_events()
            self._ring.clear()
            self._error = None
            self._draining = False

    def resume(self) -> None:
        """Ask for the tiles that stay and that had not arrived when the loader was drained."""
        with self._lock:
            for tile in self._missing:
                self._submit(tile, self._staying, None)
            self._missing = ()

    def close(self) -> None:
        """Stop the threads, wait for them and for the device, and give the ring back. Whoever still waits for
        a load gets a HandleError."""
        with self._lock:
            self._stopped = True
            for queue in (self._queue, self._staying, self._urgent):
                queue.clear()
            for condition in (self._arrived, self._filled, self._finished):
                condition.notify_all()
        for thread in self._threads:
            # The collector may run, and so close a forgotten program, in one of these threads.
            if thread is not threading.current_thread():
                thread.join()
        self._device.idle()
        self._release_events()
        if self._rows is not None:
            self._rows.finish()
        if self._pinned is not None:
            self._device.unregister(self._pinned)
            self._pinned.close()

    def _find_rows(self, table: Table, rows: Sequence[int], address: int) -> Sequence[int]:
        return read_rows(self, self._file, table, rows, address)

    def _has_arrived(self, tile: int) -> bool:
        job = self._pending[tile]
        return job is None or job.ready is not None

    def _release_events(self) -> None:
        """Of everything that was asked for, none of which is under way."""
        events = [event for job in self._pending if job is not None for event in (job.edge, job.ready)]
        for event in (*events, *self._copied):
            if event is not None:
                self._device.release(event)
        self._copied.clear()
        self._pending = [None] * len(self._tiles)

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        began = perf_counter()
        with self._lock:
            while not ready():
                self._raise_if_failed()
                self._finished.wait()
            self._raise_if_failed()
        self.stall += perf_counter() - began

    def _submit(self, tile: int, queue: deque[Piece], edge: Event | None) -> None:
        wanted = self._tiles[tile]
        job = StagedJob(tile=wanted, file=self._file, checked=self._checked, edge=edge)
        pieces = pieces_of(job, wanted.file_offset, wanted.address, wanted.nbytes, self._request_nbytes)
        self._pending[tile] = job
        self._note(job)
        queue.extend(pieces)
        self._arrived.notify(len(pieces))

    def _note(self, job: Job) -> None:
        if self.jobs is not None:
            self.jobs.append(job)

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise HandleError("the program was closed while it waited for a load")

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error

    def _take(self) -> _Slot | None:
        """The next piece that is to be read, with a place for it; None where there is none, or no room."""
        if self._urgent:
            piece = self._urgent.popleft()
            return _Slot(piece, piece.address)
        queue = next_queue(self._queue, self._staying)
        taken = self._ring.take(queue[0].nbytes) if queue else None
        if taken is None:
            return None
        address, nbytes = taken
        piece = queue.popleft()
        if nbytes < piece.nbytes:
            rest = piece.nbytes - nbytes
            queue.appendleft(Piece(piece.job, piece.file_offset + nbytes, piece.address + nbytes, rest))
            piece = replace(piece, nbytes=nbytes)
            piece.job.left += 1
        slot = _Slot(piece, address)
        self._begun.append(slot)
        return slot

    def _serve(self, thread: int) -> None:
        """Read one piece after another; where the ring is full, wait until the oldest copy has ended."""
        while True:
            with self._lock:
                while not self._stopped and (slot := self._take()) is None:
                    if self._may_free():
                        self._free_oldest()
                    else:
                        self._arrived.wait()
                if self._stopped:
                    return
                assert slot is not None
                self._busy += 1
            error: BaseException | None = None
            try:
                self._read(slot, thread)
            except BaseException as failure:
                error = failure
            with self._lock:
                self._busy -= 1
                if error is not None:
                    self._fail(error)
                self._filled.notify()
                self._finished.notify_all()

    def _may_free(self) -> bool:
        """Whether a piece waits for room that the end of a copy will give."""
        waits = bool(self._queue or self._staying)
        return waits and bool(self._copied) and not self._freeing and self._error is None

    def _free_oldest(self) -> None:
        """Wait, without the lock, for the copy of the piece that was read first; its bytes are free then."""
        event = self._copied[0]
        error: BaseException | None = None
        self._freeing = True
        self._lock.release()
        try:
            if event is not None:
                self._device.synchronize(event)
        except BaseException as failure:
            error = failure
        self._lock.acquire()
        self._freeing = False
        if error is None:
            if event is not None:
                self._device.release(event)
            self._copied.popleft()
            self._ring.give_back()
        else:
            self._fail(error)
        self._arrived.notify_all()
        self._finished.notify_all()

    def _read(self, slot: _Slot, thread: int) -> None:
        piece, memory = slot.piece, self._host.memory
        began = perf_counter()
        self._file.read_pages(memory[slot.address : slot.address + piece.nbytes], piece.file_offset)
        arrived = perf_counter()
        if isinstance(piece.job, StagedJob):
            slot.read = Read(thread, piece.file_offset, piece.nbytes, began, arrived, arrived)
            return
        piece.job.check_piece(piece, memory)
        with self._lock:
            self.nbytes_read += piece.nbytes
            piece.job.left -= 1
            read = Read(thread, piece.file_offset, piece.nbytes, began, arrived, perf_counter())
            piece.job.reads.append(read)
            piece.job.finished = read.checked

    def _pass_on(self) -> None:
        """Check and copy what was read, in the order in which it was begun."""
        with torch.inference_mode():
            while True:
                with self._lock:
                    while not self._stopped and not self._may_copy():
                        self._filled.wait()
                    if self._stopped:
                        return
                    slot = self._begun.popleft()
                    self._copying = True
                copied: Event | None = None
                error: BaseException | None = None
                try:
                    copied = self._copy(slot)
                except BaseException as failure:
                    error = failure
                with self._lock:
                    self._copying = False
                    self._copied.append(copied)
                    if error is not None:
                        self._fail(error)
                    self._arrived.notify_all()
                    self._finished.notify_all()

    def _may_copy(self) -> bool:
        return not self._draining and bool(self._begun) and self._begun[0].read is not None

    def _copy(self, slot: _Slot) -> Event:
        """Put the copy of a piece into the copy stream; the event after it."""
        piece, job, device = slot.piece, slot.piece.job, self._device
        assert isinstance(job, StagedJob)
        assert slot.read is not None
        last = job.left == 1
        job.check_next(self._host.memory[slot.address : slot.address + piece.nbytes], last)
        if job.edge is not None:
            device.wait(device.copies, job.edge)
            device.release(job.edge)
            job.edge = None
        self._copy_now(
            job,
            piece.file_offset,
            self._arena.bytes[piece.address : piece.address + piece.nbytes],
            self._host.bytes[slot.address : slot.address + piece.nbytes],
        )
        copied = device.record(device.copies)
        ready = device.record(device.copies) if last else None
        with self._lock:
            self.nbytes_read += piece.nbytes
            job.left -= 1
            job.reads.append(replace(slot.read, checked=perf_counter()))
            if last:
                job.finished = perf_counter()
                job.ready = ready
        return copied

    def _copy_now(self, job: StagedJob | None, file_offset: int, target: Tensor, source: Tensor) -> None:
        """Put a copy into the copy stream, between two marks of the clock where there is one."""
        device, clock = self._device, self.clock
        if clock is None or job is None:
            device.copy(target, source, device.copies)
            return
        before = clock.now(device.copies)
        device.copy(target, source, device.copies)
        job.marks.append((file_offset, source.nbytes, before, clock.now(device.copies)))
