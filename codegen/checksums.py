"""Checksums of the weight part of an artifact: CRC-32 of each tile, state and page of a stored table, and of
all that is none of these.

The weight part is read once, block by block and by several threads, for any number of plans: what lies
between two neighbouring boundaries of any of them gets a CRC, from which those of tiles and pages are made.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

from occ.codegen.addresses import Addresses
from occ.codegen.crc32 import joined
from occ.codegen.weights import Advance, Read
from occ.errors import ArtifactError
from occ.ir import Plan
from occ.runtime_stub.hugepages import HugePages
from occ.runtime_stub.integrity import DamageError
from occ.runtime_stub.jobs import table_pages
from occ.runtime_stub.storage import WeightFile
from occ.units import PAGE

BLOCK_NBYTES = 8 << 20
THREADS = 2
"""One reads or writes while another computes."""

Span = tuple[int, int]
"""Begin and end, in bytes of the file."""

Write = Callable[[memoryview, int], None]
"""Called with whole pages and their offset in the file."""


@dataclass(frozen=True, slots=True)
class Checksums:
    """`tiles` in order of their ids, `states` in order of the program's (0 where the initial value is zeros),
    `pages` 4 bytes little endian per page, table after table; `rest` of the bytes, joined, that are in none
    of these, as another plan may use them."""

    tiles: tuple[int, ...]
    states: tuple[int, ...]
    pages: bytes
    rest: int

    @staticmethod
    def recorded(manifest: Mapping[str, Any], pages: bytes) -> Checksums:
        """Those that an artifact has, in its manifest and its member `pages.crc`."""
        tiles, states = (tuple(manifest[key]) for key in ("tile_crcs", "state_crcs"))
        return Checksums(tiles, states, pages, manifest["rest_crc"])


def checksums(
    read: Read,
    plans: Sequence[Plan],
    write: Write = lambda content, offset: None,
    advance: Advance = lambda nbytes: None,
) -> tuple[Checksums, ...]:
    """Those of each of `plans`, which are of programs with the same weight part. It is got from `read`, and
    every block of it is also given to `write`, both called by THREADS threads; `advance` gets the bytes done.
    Takes 16 MiB of memory. Raises what `read` and `write` raise.
    """
    nbytes = plans[0].program.file_nbytes
    spans = [_spans_of(plan) for plan in plans]
    edges = {edge for each in spans for span in each.all for edge in span}
    begins = sorted({*range(0, nbytes, BLOCK_NBYTES), *edges} - {nbytes})
    stretches = _Stretches(begins, nbytes, _taken(begins, nbytes, read, write, advance))
    return tuple(
        Checksums(
            tuple(map(stretches.crc, each.tiles)),
            tuple(0 if span is None else stretches.crc(span) for span in each.states),
            struct.pack(f"<{len(each.pages)}I", *map(stretches.crc, each.pages)),
            stretches.crc_outside(each.all),
        )
        for each in spans
    )


def checked(
    path: str,
    plan: Plan,
    recorded: Checksums,
    others: Sequence[Plan] = (),
    write: Write = lambda content, offset: None,
    advance: Advance = lambda nbytes: None,
) -> tuple[Checksums, ...]:
    """Read the weights of the artifact of `plan` at `path` and compare them with what was `recorded`; the
    checksums for `others`. `write` and `advance` are those of `checksums`.

    Raises ArtifactError where the file is damaged, and OSError where it cannot be opened.
    """
    try:
        with closing(WeightFile(path)) as file:
            found, *of_others = checksums(file.read_pages, [plan, *others], write, advance)
    except DamageError as error:
        raise ArtifactError(str(error)) from error
    _compare(path, plan, found, recorded)
    return tuple(of_others)


def _compare(path: str, plan: Plan, found: Checksums, recorded: Checksums) -> None:
    """Raise ArtifactError, naming the first tile, state or page of `path` that is not what was recorded."""
    for tile, have, want in zip(plan.sizing.tiles, found.tiles, recorded.tiles, strict=True):
        if have != want:
            raise ArtifactError(
                f"{path} is damaged: tile {tile.id} ({tile.nbytes} bytes at {tile.file_offset}) has CRC-32"
                f" {have:08x}, not {want:08x}; copy or compile it again"
            )
    for state, have, want in zip(plan.program.states, found.states, recorded.states, strict=True):
        if have != want:
            raise ArtifactError(f"{path} is damaged: the initial value of state {state.name!r} has changed")
    if found.pages != recorded.pages:
        pairs = zip(found.pages, recorded.pages, strict=True)
        page = next(place // 4 for place, (have, want) in enumerate(pairs) if have != want)
        raise ArtifactError(f"{path} is damaged: page {page} of the tables read by row has changed")
    if found.rest != recorded.rest:
        raise ArtifactError(f"{path} is damaged: weights that its plan does not read have changed")


@dataclass(frozen=True, slots=True)
class _Spans:
    tiles: tuple[Span, ...]
    states: tuple[Span | None, ...]
    pages: tuple[Span, ...]

    @property
    def all(self) -> Iterator[Span]:
        yield from self.tiles
        yield from (span for span in self.states if span is not None)
        yield from self.pages


def _spans_of(plan: Plan) -> _Spans:
    program = plan.program
    return _Spans(
        tuple((tile.file_offset, tile.file_offset + tile.nbytes) for tile in plan.sizing.tiles),
        tuple(
            None
            if state.file_offset is None
            else (state.file_offset, state.file_offset + program.buffers[state.buffer].nbytes)
            for state in program.states
        ),
        tuple(
            (page, page + PAGE)
            for table in Addresses(plan).stored
            for page in table_pages(table.file_offset, table.row_nbytes, table.rows)
        ),
    )


def _taken(begins: Sequence[int], nbytes: int, read: Read, write: Write, advance: Advance) -> list[int]:
    """The CRC of every stretch, each from its begin to the next one's, none across the edge of a block."""
    pages = HugePages(THREADS * BLOCK_NBYTES, "copying weights")
    buffers: SimpleQueue[memoryview] = SimpleQueue()
    for number in range(THREADS):
        buffers.put(pages.memory[number * BLOCK_NBYTES :][:BLOCK_NBYTES])

    def taken(block: int) -> list[int]:
        end = min(block + BLOCK_NBYTES, nbytes)
        inside = begins[bisect_left(begins, block) : bisect_left(begins, end)]
        buffer = buffers.get()
        try:
            content = buffer[: end - block]
            read(content, block)
            write(content, block)
            return [
                zlib.crc32(content[first - block : last - block]) for first, last in pairwise([*inside, end])
            ]
        finally:
            buffers.put(buffer)

    crcs: list[int] = []
    blocks = range(0, nbytes, BLOCK_NBYTES)
    pool = ThreadPoolExecutor(THREADS, "occ-checksums")
    try:
        for block, found in zip(blocks, pool.map(taken, blocks), strict=True):
            crcs += found
            advance(min(BLOCK_NBYTES, nbytes - block))
    finally:
        pool.shutdown(cancel_futures=True)
    return crcs


class _Stretches:
    def __init__(self, begins: Sequence[int], nbytes: int, crcs: Sequence[int]) -> None:
        self._begins = begins
        self._nbytes = [last - first for first, last in pairwise([*begins, nbytes])]
        self._crcs = crcs

    def crc(self, span: Span) -> int:
        """That of the bytes of `span`, whose edges are among the stretches'."""
        return self._joined(range(*self._inside(span)))

    def crc_outside(self, spans: Iterable[Span]) -> int:
        """That of all bytes in none of `spans`, joined."""
        covered = {index for span in spans for index in range(*self._inside(span))}
        return self._joined(index for index in range(len(self._begins)) if index not in covered)

    def _inside(self, span: Span) -> Span:
        first, last = span
        return bisect_left(self._begins, first), bisect_left(self._begins, last)

    def _joined(self, indices: Iterable[int]) -> int:
        crc = 0
        for index in indices:
            crc = joined(crc, self._crcs[index], self._nbytes[index])
        return crc
