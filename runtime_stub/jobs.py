"""What the loader's threads do: read the pieces of a tile, or of rows for a gather, and check them."""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass, field
from time import perf_counter

from .integrity import DamageError
from .storage import WeightFile

PAGE = 4096
REQUEST_NBYTES = 4 << 20
"""Bytes of the largest single read."""

THREADS = 2
"""That read: two requests under way keep an SSD busy; more take time from the kernels."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One read: `nbytes` from `file_offset` to `address` (bytes from the arena's begin)."""

    job: Job
    file_offset: int
    address: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Read:
    """A piece that thread `thread` of the loader read: it began to, the bytes were there, and were checked at
    these times of `time.perf_counter`, in seconds."""

    thread: int
    file_offset: int
    nbytes: int
    began: float
    arrived: float
    checked: float


@dataclass(slots=True, eq=False)
class Job:
    """Reads that are complete together. Times are those of `time.perf_counter`, in seconds; Where the
    job is `traced`, `reads` has the pieces read so far."""

    left: int = 0
    submitted: float = field(default_factory=perf_counter)
    finished: float = 0.0
    traced: bool = False
    reads: list[Read] = field(default_factory=list)

    def check_piece(self, piece: Piece, memory: memoryview) -> None:
        """Called by the thread that read `piece`. Raises DamageError."""

    def check_all(self, memory: memoryview) -> None:
        """Called once, when every piece was read. Raises DamageError."""


@dataclass(frozen=True, slots=True)
class Tile:
    """`nbytes` at `file_offset` of the artifact and at `address` of the arena, with their CRC-32."""

    id: int
    file_offset: int
    nbytes: int
    address: int
    crc: int


@dataclass(slots=True, eq=False)
class TileJob(Job):
    """The load of a tile. Its checksum is computed on its first load in this process and again whenever the
    file has changed since; `checked` holds the file's signature before the read that was last checked, per
    tile."""

    tile: Tile = field(kw_only=True)
    file: WeightFile = field(kw_only=True)
    checked: list[tuple[int, int, int] | None] = field(kw_only=True)
    before: tuple[int, int, int] | None = field(init=False)

    def __post_init__(self) -> None:
        # A call of the system, which the program's thread makes for no tile that was checked.
        self.before = None if self.checked[self.tile.id] else self.file.signature()

    def check_all(self, memory: memoryview) -> None:
        tile = self.tile
        if self.checked[tile.id] == self.file.signature():
            return
        found = zlib.crc32(memory[tile.address : tile.address + tile.nbytes])
        if found != tile.crc:
            raise self.damage(found)
        # That from before the read: a change since then must not pass for the state that was checked. Where
        # it was not taken, the next load takes it.
        self.checked[tile.id] = self.before

    def damage(self, found: int) -> DamageError:
        """What to raise for a tile whose CRC-32 is `found`."""
        tile = self.tile
        return DamageError(
            f"{self.file.path} is damaged: tile {tile.id} ({tile.nbytes} bytes at {tile.file_offset}) has"
            f" CRC-32 {found:08x}, not {tile.crc:08x}; copy or compile it again"
        )


@dataclass(frozen=True, slots=True)
class Table:
    """A weight that stays in the file: `rows` rows of `row_nbytes` bytes from `file_offset`.

    `crcs` are the CRC-32 of the pages it touches, 4 bytes each, little endian.
    """

    name: str
    file_offset: int
    row_nbytes: int
    rows: int
    crcs: bytes

    def page_crc(self, file_offset: int) -> int:
        """The CRC-32 that the page at `file_offset` must have."""
        index = (file_offset - self.file_offset // PAGE * PAGE) // PAGE
        return int.from_bytes(self.crcs[4 * index : 4 * index + 4], "little")


def table_pages(file_offset: int, row_nbytes: int, rows: int) -> range:
    """File offsets of the pages that a table touches."""
    return range(file_offset // PAGE * PAGE, file_offset + rows * row_nbytes, PAGE)


@dataclass(slots=True, eq=False)
class RowsJob(Job):
    """The reading of some pages of a table; each page is checked every time."""

    table: Table = field(kw_only=True)
    file: WeightFile = field(kw_only=True)

    def check_piece(self, piece: Piece, memory: memoryview) -> None:
        for start in range(0, piece.nbytes, PAGE):
            found = zlib.crc32(memory[piece.address + start : piece.address + start + PAGE])
            wanted = self.table.page_crc(piece.file_offset + start)
            if found != wanted:
                raise DamageError(
                    f"{self.file.path} is damaged: the page at {piece.file_offset + start} of table"
                    f" {self.table.name!r} has CRC-32 {found:08x}, not {wanted:08x}; copy or compile it again"
                )


Checked = dict[tuple[int, int], tuple[int, int, int]]
"""The file's signature before the read that was last checked, by file offset of a table and row."""


@dataclass(slots=True, eq=False)
class MatrixJob(RowsJob):
    """The reading of one row of a table that has many pages. They are checked when the row is first read in
    this process and again whenever the file has changed since."""

    row: int = field(kw_only=True)
    checked: Checked = field(kw_only=True)
    before: tuple[int, int, int] = field(init=False)
    known: bool = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.file.signature()
        self.known = self.checked.get((self.table.file_offset, self.row)) == self.before

    def check_piece(self, piece: Piece, memory: memoryview) -> None:
        if not self.known:
            RowsJob.check_piece(self, piece, memory)

    def check_all(self, memory: memoryview) -> None:
        if self.file.signature() == self.before:
            self.checked[self.table.file_offset, self.row] = self.before
        elif self.known:
            raise DamageError(
                f"{self.file.path} was changed while row {self.row} of table {self.table.name!r} was read"
                " from it; run again"
            )


@dataclass(slots=True, eq=False)
class StagedJob(TileJob):
    """The load of a tile that reaches the arena piece by piece, in order, from elsewhere. Its checksum is
    taken there, of one piece after another, when `TileJob` would compute it.

    Its first copy has to wait for `edge`; `ready` is there when all copies are on their way, and stands for
    their end. Both are events of the device. Where a trace is taken, `marks` has file offset and bytes of
    each copy and the marks of a device's clock around it, and `copies` at last when the device made it.
    """

    edge: object | None = None
    ready: object | None = None
    crc: int = 0
    marks: list[tuple[int, int, object, object]] = field(default_factory=list)
    copies: list[Read] = field(default_factory=list)
    verified: bool = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.file.signature()
        self.verified = self.checked[self.tile.id] == self.before

    def check_next(self, content: memoryview, last: bool) -> None:
        """Called with one piece after another before it is copied. Raises DamageError at the last."""
        tile = self.tile
        changed = last and self.verified and self.file.signature() != self.before
        if changed and len(content) < tile.nbytes:
            raise DamageError(
                f"{self.file.path} was changed while tile {tile.id} ({tile.nbytes} bytes at"
                f" {tile.file_offset}) was read from it; run again"
            )
        if self.verified and not changed:
            return
        self.crc = zlib.crc32(content, self.crc)
        if not last:
            return
        if self.crc != tile.crc:
            raise self.damage(self.crc)
        self.checked[tile.id] = self.before


def next_queue(queue: deque[Piece], staying: deque[Piece]) -> deque[Piece]:
    """Of the pieces of tiles that stay and of others those of which one is read next: as the file is in the
    order of use, a tile that stays goes before one that lies behind it."""
    if staying and queue:
        return queue if queue[0].file_offset < staying[0].file_offset else staying
    return staying or queue


def pieces_of(
    job: Job, file_offset: int, address: int, nbytes: int, request_nbytes: int = REQUEST_NBYTES
) -> list[Piece]:
    """The reads of `nbytes` contiguous bytes, none larger than `request_nbytes`; counted in `job.left`."""
    pieces = [
        Piece(job, file_offset + start, address + start, min(request_nbytes, nbytes - start))
        for start in range(0, nbytes, request_nbytes)
    ]
    job.left += len(pieces)
    return pieces
