"""Cut the file of weights into tiles, the units of loading.

A tile is a run of grains that begins at a page. Every weight extent that a step reads in memory lies in
exactly one tile, and no tile is larger than that asks for: each part of a split weight gets its own, and
weights used by several steps (tied weights, shared layers) merge where their extents overlap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from occ.errors import InternalError
from occ.ir import BufferKind, Program, Tile, tile_nbytes
from occ.units import PAGE

SMALL_NBYTES = 256 * 1024
"""Bytes; below it a read's fixed cost outweighs its bytes, so such a tile joins a neighbour that is used at
the same steps."""


GrainUse = tuple[int, int, int]
"""First grain, end of grains and step of a weight extent that a step reads in memory."""


@dataclass(frozen=True, slots=True)
class TileUses:
    """Which tiles each step reads (`of_step`: ascending tile ids), and which steps read each tile (`of_tile`:
    ascending step indices, never empty)."""

    of_step: tuple[tuple[int, ...], ...]
    of_tile: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiles of a program and who uses them."""

    tiles: tuple[Tile, ...]
    uses: TileUses


def tiling(program: Program) -> Tiling:
    """What `tile` and `tile_uses` say of a rewritten program, in one go. Raises what they raise."""
    grain_uses = _grain_uses(program)
    tiles = _cut(program, grain_uses)
    return Tiling(tiles, _uses(program, tiles, grain_uses))


def tile(program: Program) -> tuple[Tile, ...]:
    """Cut the grains into tiles, in file order; grains that no step reads in memory are in none.

    `program` is already rewritten: a part of a split step reads the rows of its weight that it needs. Tiles
    are a partition refined as far as the extents allow: a cut lies at every page-aligned grain that is not
    inside an extent. Neighbours that the same steps read are joined where one of them is small.

    Raises InternalError where a step reads weight bytes that are in no grain.
    """
    return _cut(program, _grain_uses(program))


def _cut(program: Program, grain_uses: Sequence[GrainUse]) -> tuple[Tile, ...]:
    grains = program.grains
    change = [0] * (len(grains) + 2)
    for first, last, _ in grain_uses:
        change[first + 1] += 1
        change[max(last, first + 1)] -= 1
    inside = accumulate(change)
    cuts = [
        i
        for i, (grain, extents) in enumerate(zip(grains, inside, strict=False))
        if not extents and grain.file_offset % PAGE == 0
    ]

    users: dict[int, set[int]] = {}
    for first, _, step in grain_uses:
        users.setdefault(bisect_right(cuts, first) - 1, set()).add(step)
    runs: list[tuple[int, int, frozenset[int]]] = []
    for piece in sorted(users):
        if piece < 0:
            raise InternalError(f"the file's first grain of {program.name} is not at a page")
        first, last = cuts[piece], cuts[piece + 1] if piece + 1 < len(cuts) else len(grains)
        steps = frozenset(users[piece])
        if runs and runs[-1][1] == first and runs[-1][2] == steps:
            small = min(tile_nbytes(program, *runs[-1][:2]), tile_nbytes(program, first, last))
            if small < SMALL_NBYTES:
                runs[-1] = (runs[-1][0], last, steps)
                continue
        runs.append((first, last, steps))
    return tuple(
        Tile(i, first, last, grains[first].file_offset, tile_nbytes(program, first, last))
        for i, (first, last, _) in enumerate(runs)
    )


def tile_uses(program: Program, tiles: tuple[Tile, ...]) -> TileUses:
    """Relate steps and tiles; `tiles` are those of `tile(program)`, in file order.

    Raises InternalError where an extent that a step reads is not inside one tile.
    """
    return _uses(program, tiles, _grain_uses(program))


def _uses(program: Program, tiles: tuple[Tile, ...], grain_uses: Sequence[GrainUse]) -> TileUses:
    starts = [t.first_grain for t in tiles]
    of_step: list[set[int]] = [set() for _ in program.steps]
    of_tile: list[set[int]] = [set() for _ in tiles]
    for first, last, step in grain_uses:
        found = bisect_right(starts, first) - 1
        if found < 0 or last > tiles[found].last_grain:
            name = program.steps[step].name
            raise InternalError(f"step {step} ({name}) reads grains [{first}, {last}), which no tile holds")
        of_step[step].add(found)
        of_tile[found].add(step)
    return TileUses(
        of_step=tuple(tuple(sorted(ids)) for ids in of_step),
        of_tile=tuple(tuple(sorted(steps)) for steps in of_tile),
    )


def _grain_uses(program: Program) -> list[GrainUse]:
    by_weight: dict[int, tuple[list[int], list[int]]] = {}
    for i, grain in enumerate(program.grains):
        ids, firsts = by_weight.setdefault(grain.weight, ([], []))
        ids.append(i)
        firsts.append(grain.first)
    found = []
    for step, node in enumerate(program.steps):
        for value_id in node.reads:
            value = program.values[value_id]
            if program.buffers[value.buffer].kind is not BufferKind.WEIGHT:
                continue
            first, last = value.extent
            if first == last:
                continue
            ids, firsts = by_weight.get(value.buffer, ([], []))
            low, high = bisect_right(firsts, first) - 1, bisect_right(firsts, last - 1) - 1
            if low < 0 or program.grains[ids[high]].end < last:
                weight = program.buffers[value.buffer].name
                raise InternalError(
                    f"step {step} ({node.name}) reads bytes [{first}, {last}) of {weight}, which no grain has"
                )
            found.append((ids[low], ids[high] + 1, step))
    return found
