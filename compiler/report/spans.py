"""The arena over one run as rectangles: which bytes are taken by what, during which steps.

This is what every picture of a plan is drawn from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from occ.ir import BufferKind, Plan, Program, Tile
from occ.passes.liveness import liveness
from occ.passes.tiling import tile_uses
from occ.units import ALIGNMENT, round_up


class SpanKind(str, Enum):
    """What taken bytes hold."""

    RESIDENT = "resident"
    STREAMED = "streamed"
    ACTIVATION = "activation"
    STATE = "state"
    SCRATCH = "scratch"


_OF_BUFFER = {
    BufferKind.ACTIVATION: SpanKind.ACTIVATION,
    BufferKind.STATE: SpanKind.STATE,
    BufferKind.SCRATCH: SpanKind.SCRATCH,
}


@dataclass(frozen=True, slots=True)
class Owner:
    """A buffer or a tile: what one or more spans belong to.

    `module` is that of the first step that touches it; `holds` names the weights of a tile, with the bytes
    [first, last) of each, and is empty for a buffer.
    """

    name: str
    module: str
    kind: SpanKind
    holds: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [offset, offset + nbytes) of the arena, taken during steps [first, last) by `owners[owner]`.

    Steps from `ready` on may use them; before it a load, issued just before step `first` (or, where
    `first` is 0, in the run before), fills them.
    """

    owner: int
    first: int
    ready: int
    last: int
    offset: int
    nbytes: int

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Bytes of the arena in use at every step, buffers rounded up to the alignment.

    `held` has one tuple per kind of usable bytes; `loading` those that a load has taken and no step may use
    yet; `total` is the sum.
    """

    held: dict[SpanKind, tuple[int, ...]]
    loading: tuple[int, ...]
    total: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ArenaPicture:
    """The owners and their spans: buffers by id, then tiles by id. A tile whose load wraps past the last
    step, or that is loaded several times, has several spans."""

    steps: int
    owners: tuple[Owner, ...]
    spans: tuple[Span, ...]
    loads: tuple[int, ...]
    """Owner of every load of the plan, in order of submission."""

    def occupancy(self) -> Occupancy:
        """Bytes in use at every step, in time linear in spans and steps."""
        deltas = {kind: [0] * (self.steps + 1) for kind in SpanKind}
        loading = [0] * (self.steps + 1)
        for span in self.spans:
            nbytes = round_up(span.nbytes, ALIGNMENT)
            usable = deltas[self.owners[span.owner].kind]
            loading[span.first] += nbytes
            loading[span.ready] -= nbytes
            usable[span.ready] += nbytes
            usable[span.last] -= nbytes
        held = {kind: _running(delta) for kind, delta in deltas.items()}
        arriving = _running(loading)
        total = tuple(sum(column) for column in zip(arriving, *held.values(), strict=True))
        return Occupancy(held, arriving, total)


def picture(plan: Plan) -> ArenaPicture:
    """The rectangles of a plan's arena."""
    program, sizing = plan.program, plan.sizing
    steps = len(program.steps)
    ranges = liveness(program).ranges
    first_touch = _first_touch(program)
    owners: list[Owner] = []
    spans: list[Span] = []
    for buffer, offset in sorted(plan.buffer_offsets):
        live, entry = ranges[buffer], program.buffers[buffer]
        if live is None:
            continue
        module = program.steps[first_touch[buffer]].module if buffer in first_touch else ""
        spans.append(Span(len(owners), live.first, live.first, live.last, offset, entry.nbytes))
        owners.append(Owner(entry.name, module, _OF_BUFFER[entry.kind]))

    resident = set(sizing.resident)
    uses = tile_uses(program, sizing.tiles).of_tile
    owner_of_tile = {}
    for tile in sizing.tiles:
        owner_of_tile[tile.id] = len(owners)
        kind = SpanKind.RESIDENT if tile.id in resident else SpanKind.STREAMED
        module = program.steps[uses[tile.id][0]].module
        owners.append(_tile_owner(program, tile, module, kind))
    for tile_id in sizing.resident:
        offset, nbytes = plan.tile_offsets[tile_id], sizing.tiles[tile_id].nbytes
        spans.append(Span(owner_of_tile[tile_id], 0, 0, steps, offset, nbytes))
    for load in sizing.loads:
        owner, offset = owner_of_tile[load.tile], plan.tile_offsets[load.tile]
        nbytes = sizing.tiles[load.tile].nbytes
        if load.wraps:
            spans.append(Span(owner, 0, load.deadline, load.last_use + 1, offset, nbytes))
            spans.append(Span(owner, load.issue, steps, steps, offset, nbytes))
        else:
            spans.append(Span(owner, load.issue, load.deadline, load.last_use + 1, offset, nbytes))
    loads = tuple(owner_of_tile[load.tile] for load in sizing.loads)
    return ArenaPicture(steps, tuple(owners), tuple(spans), loads)


def weight_extents(program: Program, tile: Tile) -> dict[int, tuple[int, int]]:
    """Bytes [first, last) of every weight buffer in a tile, in file order."""
    extents: dict[int, tuple[int, int]] = {}
    for grain in program.grains[tile.first_grain : tile.last_grain]:
        extents[grain.weight] = (extents.get(grain.weight, (grain.first, 0))[0], grain.end)
    return extents


def _tile_owner(program: Program, tile: Tile, module: str, kind: SpanKind) -> Owner:
    """A tile is named after its first weight: how much of it, where it is not whole, and how many others."""
    extents = weight_extents(program, tile)
    holds = tuple((program.buffers[weight].name, *extent) for weight, extent in extents.items())
    weight, (first, end) = next(iter(extents.items()))
    name = program.buffers[weight].name
    if len(extents) > 1:
        name = f"{name} and {len(extents) - 1} more"
    elif end - first < program.buffers[weight].nbytes:
        name = f"{name}[{first}:{end}]"
    return Owner(name, module, kind, holds)


def _first_touch(program: Program) -> dict[int, int]:
    found: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        for value in step.reads + step.writes:
            found.setdefault(program.values[value].buffer, index)
    return found


def _running(deltas: list[int]) -> tuple[int, ...]:
    sums = []
    total = 0
    for delta in deltas[:-1]:
        total += delta
        sums.append(total)
    return tuple(sums)
