"""Checksums of the weight part of an artifact: CRC-32 of each tile, state and page of a stored table."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass

from occ.codegen.addresses import Addresses
from occ.codegen.weights import Advance
from occ.errors import ArtifactError
from occ.ir import Plan
from occ.runtime_stub.jobs import table_pages
from occ.units import PAGE

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Checksums:
    """`tiles` in order of their ids, `states` in order of the program's (0 where the initial value is zeros),
    `pages` 4 bytes little endian per page, table after table."""

    tiles: tuple[int, ...]
    states: tuple[int, ...]
    pages: bytes


def checksums(descriptor: int, plan: Plan, advance: Advance = lambda nbytes: None) -> Checksums:
    """Read the weights that `plan` uses from an open file; `advance` gets the bytes of every tile. Takes
    4 MiB of memory.

    Raises ArtifactError where the file ends before them.
    """
    program = plan.program
    buffer = memoryview(bytearray(_CHUNK))
    states = tuple(
        0
        if state.file_offset is None
        else _crc(descriptor, buffer, state.file_offset, program.buffers[state.buffer].nbytes)
        for state in program.states
    )
    pages = [
        _crc(descriptor, buffer, page, PAGE)
        for table in Addresses(plan).stored
        for page in table_pages(table.file_offset, table.row_nbytes, table.rows)
    ]
    tiles = []
    for tile in plan.sizing.tiles:
        tiles.append(_crc(descriptor, buffer, tile.file_offset, tile.nbytes))
        advance(tile.nbytes)
    return Checksums(
        tuple(tiles),
        states,
        struct.pack(f"<{len(pages)}I", *pages),
    )


def compare(path: str, plan: Plan, found: Checksums, recorded: Checksums) -> None:
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


def _crc(descriptor: int, buffer: memoryview, offset: int, nbytes: int) -> int:
    crc = 0
    end = offset + nbytes
    while offset < end:
        count = os.preadv(descriptor, [buffer[: min(_CHUNK, end - offset)]], offset)
        if count == 0:
            raise ArtifactError(f"the weights end at byte {offset}, before byte {end} that the plan reads")
        crc = zlib.crc32(buffer[:count], crc)
        offset += count
    return crc
