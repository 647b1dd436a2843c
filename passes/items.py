"""What placement has to fit: the live ranges of buffers and of tiles, as items."""

from __future__ import annotations

from occ.ir import ARENA_KINDS, BufferKind, PlacementItem, Program, Sizing
from occ.passes.liveness import Liveness
from occ.units import ALIGNMENT, PAGE


def items_of(program: Program, liveness: Liveness, sizing: Sizing) -> tuple[PlacementItem, ...]:
    """One item per buffer of `placed_buffers`, in that order, then one per tile.

    Tiles, states and the scratch of gathers are read into directly, so they lie at whole pages. A tile
    loaded twice a run keeps its offset; its bytes are its own only from each load to the last use after it.
    """
    steps = len(program.steps)
    paged = {
        program.values[scratch].buffer for step in program.steps if step.stored for scratch in step.scratch
    }
    items = []
    for buffer in placed_buffers(program, liveness):
        live = liveness.ranges[buffer]
        assert live is not None
        drafted = program.buffers[buffer]
        alignment = PAGE if buffer in paged or drafted.kind is BufferKind.STATE else ALIGNMENT
        items.append(PlacementItem(drafted.name, drafted.nbytes, alignment, ((live.first, live.last),)))
    for tile, ranges in zip(sizing.tiles, _tile_ranges(sizing, steps), strict=True):
        items.append(PlacementItem(f"tile {tile.id}", tile.nbytes, PAGE, ranges))
    return tuple(items)


def placed_buffers(program: Program, liveness: Liveness) -> tuple[int, ...]:
    """Ids of the buffers that get an offset: those in the arena that any step touches, and states."""
    return tuple(
        buffer.id
        for buffer in program.buffers
        if buffer.kind in ARENA_KINDS and liveness.ranges[buffer.id] is not None
    )


def _tile_ranges(sizing: Sizing, steps: int) -> list[tuple[tuple[int, int], ...]]:
    held: list[list[tuple[int, int]]] = [[] for _ in sizing.tiles]
    for tile in sizing.resident:
        held[tile].append((0, steps))
    for load in sizing.loads:
        if load.wraps:
            held[load.tile].append((0, load.last_use + 1))
            held[load.tile].append((load.issue, steps))
        else:
            held[load.tile].append((load.issue, load.last_use + 1))
    return [_merged(ranges) for ranges in held]


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)
