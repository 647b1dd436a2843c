"""What the loader's threads do: read the pieces of a tile, or of rows for a gather, and check them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from time import perf_counter

from .integrity import DamageError
from .storage import WeightFile

PAGE = 4096
REQUEST_NBYTES = 4 << 20
"""Bytes of the largest single read."""


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
    """Reads that are complete together. Times are those of `time.perf_counter`, in seconds; `reads` has the
    pieces read so far."""

    left: int = 0
    submitted: float = field(default_factory=perf_counter)
    finished: float = 0.0
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
    file has changed since; `checked` holds the file's signature at the last check, per tile."""

    tile: Tile = field(kw_only=True)
    file: WeightFile = field(kw_only=True)
    checked: list[tuple[int, int, int] | None] = field(kw_only=True)
    before: tuple[int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.file.signature()

    def check_all(self, memory: memoryview) -> None:
        tile = self.tile
        if self.checked[tile.id] == self.file.signature():
            return
        found = zlib.crc32(memory[tile.address : tile.address + tile.nbytes])
        if found != tile.crc:
            raise DamageError(
                f"{self.file.path} is damaged: tile {tile.id} ({tile.nbytes} bytes at {tile.file_offset}) has"
                f" CRC-32 {found:08x}, not {tile.crc:08x}; copy or compile it again"
            )
        # That from before the read: a change since then must not pass for the state that was checked.
        self.checked[tile.id] = self.before


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


def pieces_of(job: Job, file_offset: int, address: int, nbytes: int) -> list[Piece]:
    """The reads of `nbytes` contiguous bytes, none larger than REQUEST_NBYTES; counted in `job.left`."""
    pieces = [
        Piece(job, file_offset + start, address + start, min(REQUEST_NBYTES, nbytes - start))
        for start in range(0, nbytes, REQUEST_NBYTES)
    ]
    job.left += len(pieces)
    return pieces
