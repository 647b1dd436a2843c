"""Checksums of the weight part of an artifact: CRC-32 of each tile, state and page of a stored table, and of
all that is none of these.

The weight part is read once, block by block and by several threads, for any number of plans: what lies
between two neighbouring places where a plan may draw a boundary gets a CRC, from which those of tiles and
pages are made. So reading can begin before there is a plan.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

from occ.codegen.addresses import Addresses
from occ.codegen.crc32 import joined
from occ.codegen.weights import Advance, Read
from occ.errors import ArtifactError, InternalError
from occ.gathers import BY_ROW
from occ.ir import Plan, Program, refs_of, weight_file_offsets
from occ.runtime_stub.hugepages import HugePages
from occ.runtime_stub.jobs import table_pages
from occ.units import PAGE, round_down, round_up

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


class Summing:
    """The reading of the weight part of `program`, which begins at once: blocks of it are got from `read` and
    given to `write`, both called by THREADS threads. `program` may be the unsplit one or that of a plan.

    Takes 16 MiB of memory. Use as a context manager: what has not begun at its end is left undone.
    """

    def __init__(self, program: Program, read: Read, write: Write = lambda content, offset: None) -> None:
        self._nbytes = program.file_nbytes
        blocks = range(0, self._nbytes, BLOCK_NBYTES)
        self._edges = sorted({*blocks, *_edges(program), self._nbytes})
        self._read = read
        self._write = write
        pages = HugePages(THREADS * BLOCK_NBYTES, "copying weights")
        self._buffers: SimpleQueue[memoryview] = SimpleQueue()
        for number in range(THREADS):
            self._buffers.put(pages.memory[number * BLOCK_NBYTES :][:BLOCK_NBYTES])
        self._pool = ThreadPoolExecutor(THREADS, "occ-checksums")
        self._blocks = [self._pool.submit(self._summed, block) for block in blocks]

    def sums(self, advance: Advance = lambda nbytes: None) -> Sums:
        """When all is read: the checksums for any plan. `advance` gets the bytes done. Raises what `read` and
        `write` raise."""
        crcs: list[int] = []
        for number, block in enumerate(self._blocks):
            crcs += block.result()
            advance(min(BLOCK_NBYTES, self._nbytes - number * BLOCK_NBYTES))
        return Sums(self._edges, crcs)

    def settle(self) -> None:
        """Return when nothing is read or written any more, however that ended."""
        wait(self._blocks)

    def __enter__(self) -> Summing:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _summed(self, block: int) -> list[int]:
        """The CRC of every stretch of a block."""
        end = min(block + BLOCK_NBYTES, self._nbytes)
        inside = self._edges[bisect_left(self._edges, block) : bisect_left(self._edges, end) + 1]
        buffer = self._buffers.get()
        try:
            content = buffer[: end - block]
            self._read(content, block)
            self._write(content, block)
            return [zlib.crc32(content[first - block : last - block]) for first, last in pairwise(inside)]
        finally:
            self._buffers.put(buffer)


class Sums:
    """A weight part cut at `edges`, ascending from 0 to its length, and the CRC-32 of each stretch."""

    def __init__(self, edges: Sequence[int], crcs: Sequence[int]) -> None:
        self._edges = edges
        self._crcs = crcs

    def of(self, plan: Plan) -> Checksums:
        """Those of a plan of the program that was cut. Raises InternalError where it draws other edges."""
        spans = _spans_of(plan)
        return Checksums(
            tuple(map(self._crc, spans.tiles)),
            tuple(0 if span is None else self._crc(span) for span in spans.states),
            struct.pack(f"<{len(spans.pages)}I", *map(self._crc, spans.pages)),
            self._crc_outside(spans.all),
        )

    def _crc(self, span: Span) -> int:
        return self._joined(self._inside(span))

    def _crc_outside(self, spans: Iterable[Span]) -> int:
        """That of all bytes in none of `spans`, joined."""
        covered = {index for span in spans for index in self._inside(span)}
        return self._joined(index for index in range(len(self._crcs)) if index not in covered)

    def _inside(self, span: Span) -> range:
        """The stretches that a span consists of."""
        first, last = (bisect_left(self._edges, edge) for edge in span)
        if (self._edges[first], self._edges[last]) != span:
            raise InternalError(f"bytes {span[0]} to {span[1]} of the weights are not whole stretches")
        return range(first, last)

    def _joined(self, indices: Iterable[int]) -> int:
        crc = 0
        for index in indices:
            crc = joined(crc, self._crcs[index], self._edges[index + 1] - self._edges[index])
        return crc


def compare(path: str, plan: Plan, found: Checksums, recorded: Checksums) -> None:
    """Raise ArtifactError, naming the first tile, state or page of the artifact of `plan` at `path` that is
    not what was recorded."""
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


def _edges(program: Program) -> Iterator[int]:
    """Where tiles, states and pages of tables begin and end in the file, in any plan of a program."""
    for grain in program.grains:
        # Tiles begin at pages, and are padded to whole ones.
        yield from (round_down(grain.file_offset, PAGE), round_up(grain.file_offset + grain.nbytes, PAGE))
    for state in program.states:
        if state.file_offset is not None:
            yield from (state.file_offset, state.file_offset + program.buffers[state.buffer].nbytes)
    begins = weight_file_offsets(program)
    for step in program.steps:
        tables = refs_of(dict(step.args).get("weight")) if step.kernel in BY_ROW else ()
        for table in {*step.stored, *(ref.value for ref in tables)}:
            value = program.values[table]
            if value.buffer in begins:
                first, last = (begins[value.buffer] + place for place in value.extent)
                for page in table_pages(first, last - first, 1):
                    yield from (page, page + PAGE)
