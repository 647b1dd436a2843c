"""Where each value of a plan lies in the arena, and each stored table in the file."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from occ.errors import InternalError
from occ.ir import ARENA_KINDS, BufferKind, Plan, Tile, Value, weight_file_offsets


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A value that steps read from the file by row: `rows` rows of `row_nbytes` from `file_offset`."""

    value: int
    name: str
    file_offset: int
    row_nbytes: int
    rows: int


@dataclass(frozen=True)
class Addresses:
    """Arena addresses (bytes from the arena's begin) of the values of `plan`."""

    plan: Plan

    @cached_property
    def _buffer_offsets(self) -> dict[int, int]:
        return dict(self.plan.buffer_offsets)

    @cached_property
    def _weight_starts(self) -> dict[int, int]:
        return weight_file_offsets(self.plan.program)

    @cached_property
    def _tile_order(self) -> tuple[list[int], list[int]]:
        """File offsets of the tiles, ascending, and the tiles' ids in that order."""
        tiles = sorted(self.plan.sizing.tiles, key=lambda tile: tile.file_offset)
        return [tile.file_offset for tile in tiles], [tile.id for tile in tiles]

    def of(self, value: Value) -> int | None:
        """The address of the value's first element, or None where the caller holds its bytes.

        Raises InternalError for a weight that no single tile holds.
        """
        buffer = self.plan.program.buffers[value.buffer]
        if buffer.kind in ARENA_KINDS:
            return self._buffer_offsets[buffer.id] + value.offset
        if buffer.kind is not BufferKind.WEIGHT:
            return None
        tile = self.tile_of(value)
        first = self._weight_starts[buffer.id] + value.extent[0]
        return self.plan.tile_offsets[tile.id] + first - tile.file_offset

    def tile_of(self, weight: Value) -> Tile:
        """The tile that holds a view of a weight. Raises InternalError where no single one does."""
        first, last = (self._weight_starts[weight.buffer] + place for place in weight.extent)
        starts, ids = self._tile_order
        position = bisect_right(starts, first) - 1
        if position >= 0:
            tile = self.plan.sizing.tiles[ids[position]]
            if last <= tile.file_offset + tile.nbytes:
                return tile
        raise InternalError(
            f"weight {weight.name!r} (bytes {first} to {last} of the file) lies in no single tile"
        )

    @cached_property
    def residents_first_used(self) -> dict[int, tuple[int, ...]]:
        """The resident tiles that each step is the first to read, by step; ascending tile ids."""
        program, resident = self.plan.program, set(self.plan.sizing.resident)
        found: dict[int, tuple[int, ...]] = {}
        for index, step in enumerate(program.steps):
            weights = (
                program.values[id]
                for id in step.reads
                if program.buffers[program.values[id].buffer].kind is BufferKind.WEIGHT
            )
            fresh = sorted({self.tile_of(weight).id for weight in weights} & resident)
            if fresh:
                found[index] = tuple(fresh)
                resident.difference_update(fresh)
        return found

    def arena_range(self, value: Value) -> tuple[int, int] | None:
        """Half-open range of the arena that the value spans, or None where the caller holds its bytes."""
        address = self.of(value)
        if address is None:
            return None
        first, last = value.extent
        return address, address + last - first

    @cached_property
    def stored(self) -> tuple[StoredTable, ...]:
        """The tables that gathers read from the file, in order of their first use.

        Raises InternalError for one whose rows do not follow each other without gaps.
        """
        program = self.plan.program
        found: dict[int, StoredTable] = {}
        for step in program.steps:
            for id in step.stored:
                if id not in found:
                    value = program.values[id]
                    first, last = value.extent
                    rows = value.shape[0] if value.shape else 0
                    row_nbytes = value.strides[0] * value.itemsize if rows else 0
                    if row_nbytes <= 0 or last - first != rows * row_nbytes:
                        raise InternalError(f"table {value.name!r} of step {step.name!r} is not dense by row")
                    start = self._weight_starts[value.buffer] + value.offset
                    found[id] = StoredTable(id, value.name, start, row_nbytes, rows)
        return tuple(found.values())
