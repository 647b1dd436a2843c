"""Proves a plan safe, knowing nothing of the passes that made it.

Naive on purpose: everything is recomputed from the steps. A shadow of the arena says who holds every byte;
walking the steps and loads of a few runs in order, each first write and each submitted load takes its bytes
and holds them until after the last use, and each access demands that what it touches is held. A load holds
its bytes from its submission on, so the proof is good for every order in which reads may complete.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from math import gcd

from occ.errors import OccError
from occ.ir import ARENA_KINDS, DTYPE_NBYTES, Buffer, BufferKind, Plan, Program, Value, refs_of
from occ.units import ALIGNMENT, PAGE, round_up

RUNS = 3
"""Runs that are walked: the first, which begins in a fresh arena, and two of the steady state."""


class PlanError(OccError):
    """A plan that must not run. The text names the step, the bytes and whose they are."""

    exit_code = 4


def verify(plan: Plan) -> None:
    """Raise PlanError unless the plan is safe to run.

    Proven are: references and byte ranges inside their bounds; every byte that a step reads or that the
    caller gets written before; tiles and stored tables inside the file; one aligned offset per buffer and
    tile, inside the arena; no two live buffers or tiles on the same bytes, over the cyclic schedule; every
    weight that a step reads in one tile, loaded by then and intact; the budget's parts as they are. Not
    proven: that kernels do what they declare, and what is measured (seconds, workspaces, loader bytes).

    On a device that queues its work the order is that of the queues: a copy into the arena waits for the
    steps that were queued before its load was asked for, and for nothing else, and a step waits for the
    copies that it is told to. The walk takes each load's bytes when it is asked for, while they may be held
    by no step at or after that point, so every order that the device may choose is covered; a copy takes its
    bytes of the ring only when they are there, and gives them back when it is done, whatever tile comes next.

    Takes time linear in steps and loads, up to the logarithm of the buffers live at once.
    """
    _check_program(plan.program)
    _check_dataflow(plan.program)
    _check_file(plan)
    _check_loads(plan)
    _check_offsets(plan)
    _check_budget(plan)
    _check_machine(plan)
    _Walk(plan).check()


# Structure -----------------------------------------------------------------------------------------------


def _check_program(program: Program) -> None:
    for position, buffer in enumerate(program.buffers):
        if buffer.id != position or buffer.nbytes < 0:
            raise PlanError(
                f"buffer {buffer.name} at position {position} has id {buffer.id} and {buffer.nbytes} bytes"
            )
    for position, value in enumerate(program.values):
        if value.id != position or not 0 <= value.buffer < len(program.buffers):
            raise PlanError(
                f"value {value.name} at position {position} has id {value.id}, buffer {value.buffer}"
            )
        if (
            value.dtype not in DTYPE_NBYTES
            or len(value.shape) != len(value.strides)
            or min((*value.shape, *value.strides), default=0) < 0
        ):
            raise PlanError(
                f"value {value.name} is no tensor: {value.dtype} {value.shape}, strides {value.strides}"
            )
        first, last = value.extent
        buffer = program.buffers[value.buffer]
        if not 0 <= first <= last <= buffer.nbytes:
            raise PlanError(
                f"value {value.name} spans bytes {first}-{last} of buffer {buffer.name}, "
                f"which has {buffer.nbytes}"
            )
    _check_steps(program)
    _check_interface(program)


def _check_steps(program: Program) -> None:
    writing_inputs = False
    for index, step in enumerate(program.steps):
        operands = {ref.value for _, arg in step.args for ref in refs_of(arg)}
        for value in operands.union(step.writes, step.stored):
            if not 0 <= value < len(program.values):
                raise PlanError(
                    f"step {index} ({step.name}) refers to value {value}; there are {len(program.values)}"
                )
        for value in step.stored:
            if value not in operands or _buffer(program, value).kind is not BufferKind.WEIGHT:
                raise PlanError(
                    f"step {index} ({step.name}) reads {program.values[value].name} from the file, "
                    f"but it is no weight among its operands"
                )
        kinds = {_buffer(program, value).kind for value in step.writes}
        if BufferKind.WEIGHT in kinds:
            raise PlanError(f"step {index} ({step.name}) writes a weight")
        writing_inputs = writing_inputs or BufferKind.INPUT in kinds
        if writing_inputs and step.kernel != "copy":
            raise PlanError(
                f"step {index} ({step.name}) writes an input or follows a step that does, and is no copy; "
                f"inputs change only by copies at the end of the program"
            )


def _check_interface(program: Program) -> None:
    for given in program.inputs:
        if not _is_of_kind(program, given.value, BufferKind.INPUT):
            raise PlanError(f"input {given.name} is not a value that the caller owns")
    for result in program.outputs:
        if not _is_of_kind(program, result.value, BufferKind.OUTPUT, BufferKind.INPUT):
            raise PlanError(f"output {result.name} is not a value that the caller owns")
    states = [buffer.id for buffer in program.buffers if buffer.kind is BufferKind.STATE]
    if sorted(state.buffer for state in program.states) != states:
        raise PlanError("the states declared are not the buffers that are kept across runs")
    for state in program.states:
        end = (state.file_offset or 0) + program.buffers[state.buffer].nbytes
        if state.file_offset is not None and not 0 <= state.file_offset <= end <= program.file_nbytes:
            raise PlanError(
                f"the initial bytes of state {state.name} are {state.file_offset}-{end} of the file, "
                f"which has {program.file_nbytes}"
            )


def _is_of_kind(program: Program, value: int, *kinds: BufferKind) -> bool:
    return 0 <= value < len(program.values) and _buffer(program, value).kind in kinds


def _buffer(program: Program, value: int) -> Buffer:
    return program.buffers[program.values[value].buffer]


# Written before read, element by element -----------------------------------------------------------------


def _check_dataflow(program: Program) -> None:
    """Every element read in a run was written in it, but for inputs, weights and state."""
    masks = _masks(program)
    for index, step in enumerate(program.steps):
        for read in step.reads:
            value = program.values[read]
            if value.buffer in masks and not masks[value.buffer].covers(value):
                raise PlanError(
                    f"step {index} ({step.name}) reads {value.name}, and no earlier step writes all of it"
                )
        for write in step.writes:
            value = program.values[write]
            if value.buffer in masks:
                masks[value.buffer].mark(value)
    for output in program.outputs:
        value = program.values[output.value]
        if value.buffer in masks and not masks[value.buffer].covers(value):
            raise PlanError(f"no step writes all of output {output.name}")


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The bytes of a value: blocks of `nbytes` that begin at `offset` plus any sum of multiples, one of each
    of `dims` = (count, distance), outermost first."""

    offset: int
    dims: tuple[tuple[int, int], ...]
    nbytes: int


def _blocks(value: Value) -> _Blocks | None:
    """The fewest such blocks; None where the value has no elements."""
    if 0 in value.shape:
        return None
    nbytes = value.itemsize
    dims: list[tuple[int, int]] = []
    sized = zip(value.shape, value.strides, strict=True)
    for distance, count in sorted((stride * value.itemsize, size) for size, stride in sized if size > 1):
        if not dims and distance <= nbytes:
            nbytes += (count - 1) * distance
        elif dims and distance == dims[-1][0] * dims[-1][1]:
            dims[-1] = (dims[-1][0] * count, dims[-1][1])
        else:
            dims.append((count, distance))
    return _Blocks(value.offset, tuple(reversed(dims)), nbytes)


class _Mask:
    """Which bytes of one buffer have been written, in units that divide every block of its values."""

    def __init__(self, values: list[_Blocks], nbytes: int) -> None:
        unit = nbytes
        for blocks in values:
            unit = gcd(unit, blocks.offset, blocks.nbytes, *(distance for _, distance in blocks.dims))
        self._unit = max(unit, 1)
        self._written = bytearray(nbytes // self._unit)

    def mark(self, value: Value) -> None:
        for part in self._slices(value):
            self._written[part] = b"\1" * len(range(*part.indices(len(self._written))))

    def covers(self, value: Value) -> bool:
        return all(0 not in self._written[part] for part in self._slices(value))

    def _slices(self, value: Value) -> Iterator[slice]:
        blocks = _blocks(value)
        if blocks is None:
            return
        unit = self._unit
        length = blocks.nbytes // unit
        dims = [(count, distance // unit) for count, distance in blocks.dims]
        # Slicing walks one dimension; it is the longest of those that remain, block included.
        dims.append((length, 1))
        count, distance = dims.pop(max(range(len(dims)), key=lambda dim: dims[dim][0]))
        for starts in product(*(range(0, number * far, far) for number, far in dims)):
            start = blocks.offset // unit + sum(starts)
            yield slice(start, start + (count - 1) * distance + 1, distance)


def _masks(program: Program) -> dict[int, _Mask]:
    """A mask for every buffer whose bytes only the steps of a run provide."""
    given = (BufferKind.INPUT, BufferKind.WEIGHT, BufferKind.STATE)
    touched: dict[int, list[_Blocks]] = {b.id: [] for b in program.buffers if b.kind not in given}
    used = {value for step in program.steps for value in step.reads + step.writes}
    used.update(output.value for output in program.outputs)
    for value in used:
        blocks = _blocks(program.values[value])
        if blocks is not None and program.values[value].buffer in touched:
            touched[program.values[value].buffer].append(blocks)
    return {buffer: _Mask(values, program.buffers[buffer].nbytes) for buffer, values in touched.items()}


# The file ------------------------------------------------------------------------------------------------


def _check_file(plan: Plan) -> None:
    program = plan.program
    if program.file_nbytes % PAGE:
        raise PlanError(f"the file's weights take {program.file_nbytes} bytes, no multiple of {PAGE}")
    for grain in program.grains:
        weight = program.buffers[grain.weight] if 0 <= grain.weight < len(program.buffers) else None
        if weight is None or weight.kind is not BufferKind.WEIGHT:
            raise PlanError(f"the grain at byte {grain.file_offset} of the file belongs to no weight")
        if not (0 <= grain.first <= grain.end <= weight.nbytes) or not (
            0 <= grain.file_offset <= program.file_nbytes - grain.nbytes
        ):
            raise PlanError(
                f"the grain of {weight.name} at byte {grain.file_offset} of the file holds its bytes "
                f"{grain.first}-{grain.end}; the weight has {weight.nbytes}, the file {program.file_nbytes}"
            )
    _check_grain_order(program)
    _check_tiles(plan)
    _check_stored(plan)


def _check_grain_order(program: Program) -> None:
    """Grains do not overlap in the file, and those of one weight follow each other from its first byte."""
    ends: dict[int, tuple[int, int]] = {}
    file_end = 0
    for grain in program.grains:
        name = program.buffers[grain.weight].name
        if grain.file_offset < file_end:
            raise PlanError(
                f"the grain of {name} at byte {grain.file_offset} of the file begins before the end "
                f"of the one before, {file_end}"
            )
        file_end = grain.file_offset + grain.nbytes
        if ends.get(grain.weight, (0, grain.file_offset)) != (grain.first, grain.file_offset):
            raise PlanError(
                f"the grain of {name} at byte {grain.file_offset} of the file does not follow the one before"
            )
        ends[grain.weight] = (grain.end, file_end)


def _check_tiles(plan: Plan) -> None:
    program, tiles = plan.program, plan.sizing.tiles
    for position, tile in enumerate(tiles):
        if tile.id != position or not 0 <= tile.first_grain < tile.last_grain <= len(program.grains):
            raise PlanError(
                f"tile {tile.id} at position {position} holds grains {tile.first_grain}-{tile.last_grain} "
                f"of {len(program.grains)}"
            )
        start = program.grains[tile.first_grain].file_offset
        last = program.grains[tile.last_grain - 1]
        nbytes = round_up(last.file_offset + last.nbytes - start, PAGE)
        if start % PAGE or (tile.file_offset, tile.nbytes) != (start, nbytes):
            raise PlanError(
                f"tile {tile.id} is {tile.nbytes} bytes at byte {tile.file_offset} of the file, "
                f"but its grains take {nbytes} at byte {start}, and tiles begin at multiples of {PAGE}"
            )
        if start + nbytes > program.file_nbytes:
            raise PlanError(
                f"tile {tile.id} ends at byte {start + nbytes} of a file of {program.file_nbytes}"
            )
    for left, right in pairwise(sorted(tiles, key=lambda tile: tile.file_offset)):
        if left.file_offset + left.nbytes > right.file_offset or left.last_grain > right.first_grain:
            raise PlanError(f"tiles {left.id} and {right.id} overlap at byte {right.file_offset} of the file")


def _check_stored(plan: Plan) -> None:
    program = plan.program
    filed: dict[int, int] = {}
    for grain in program.grains:
        filed[grain.weight] = grain.end
    for index, step in enumerate(program.steps):
        for value in step.stored:
            stored = program.values[value]
            if stored.extent[1] > filed.get(stored.buffer, 0):
                raise PlanError(
                    f"step {index} ({step.name}) reads {stored.name} from the file up to its byte "
                    f"{stored.extent[1]}, but the file holds {filed.get(stored.buffer, 0)}"
                )


def _check_loads(plan: Plan) -> None:
    sizing, count = plan.sizing, len(plan.program.steps)
    if len(set(sizing.resident)) < len(sizing.resident) or not all(
        0 <= tile < len(sizing.tiles) for tile in sizing.resident
    ):
        raise PlanError(f"resident tiles are named twice or are not among the {len(sizing.tiles)}")
    resident = set(sizing.resident)
    for load in sizing.loads:
        if not 0 <= load.tile < len(sizing.tiles) or load.tile in resident:
            raise PlanError(f"tile {load.tile} is loaded at every run, but is resident or does not exist")
        if not 0 <= load.deadline <= load.last_use < count:
            raise PlanError(
                f"the load of tile {load.tile} is due at step {load.deadline} and used until step "
                f"{load.last_use}, of {count}"
            )
        in_time = load.last_use < load.issue < count if load.wraps else 0 <= load.issue <= load.deadline
        if not in_time:
            when = "in the run before" if load.wraps else "in the same run"
            raise PlanError(
                f"the load of tile {load.tile} is submitted at step {load.issue} {when}, "
                f"and is due at step {load.deadline}"
            )
    for left, right in pairwise(sizing.loads):
        if left.issue > right.issue:
            raise PlanError(
                f"the load of tile {right.tile}, submitted at step {right.issue}, stands in the queue behind "
                f"that of tile {left.tile}, submitted at step {left.issue}"
            )


# Offsets and sizes ---------------------------------------------------------------------------------------


def _check_offsets(plan: Plan) -> None:
    program, arena = plan.program, plan.budget.arena
    offsets = dict(plan.buffer_offsets)
    if len(offsets) < len(plan.buffer_offsets):
        raise PlanError("a buffer has two offsets in the arena")
    touched = {program.values[v].buffer for step in program.steps for v in step.reads + step.writes}
    touched.update(buffer.id for buffer in program.buffers if buffer.kind is BufferKind.STATE)
    paged = {program.values[v].buffer for step in program.steps if step.stored for v in step.scratch}
    for buffer in program.buffers:
        if buffer.kind in ARENA_KINDS and buffer.id in touched and buffer.id not in offsets:
            raise PlanError(f"buffer {buffer.name} has no offset in the arena")
    for buffer_id, offset in plan.buffer_offsets:
        if not 0 <= buffer_id < len(program.buffers) or program.buffers[buffer_id].kind not in ARENA_KINDS:
            raise PlanError(f"buffer {buffer_id} has an offset but does not lie in the arena")
        buffer = program.buffers[buffer_id]
        alignment = PAGE if buffer_id in paged else ALIGNMENT
        _check_place(f"buffer {buffer.name}", offset, buffer.nbytes, alignment, arena)
    if len(plan.tile_offsets) != len(plan.sizing.tiles):
        raise PlanError(f"{len(plan.sizing.tiles)} tiles have {len(plan.tile_offsets)} offsets")
    loaded = {*plan.sizing.resident, *(load.tile for load in plan.sizing.loads)}
    for tile, offset in zip(plan.sizing.tiles, plan.tile_offsets, strict=True):
        if tile.id in loaded:
            _check_place(f"tile {tile.id}", offset, tile.nbytes, PAGE, arena)


def _check_place(name: str, offset: int, nbytes: int, alignment: int, arena: int) -> None:
    if offset % alignment:
        raise PlanError(f"{name} is at offset {offset}, no multiple of {alignment}")
    if not 0 <= offset <= offset + nbytes <= arena:
        raise PlanError(f"{name} takes bytes {offset}-{offset + nbytes} of an arena of {arena}")


def _check_budget(plan: Plan) -> None:
    program, budget, placement = plan.program, plan.budget, plan.placement
    if len(plan.costs) != len(program.steps):
        raise PlanError(f"{len(program.steps)} steps have {len(plan.costs)} costs")
    workspace = max((cost.workspace for cost in plan.costs), default=0)
    outputs = sum(buffer.nbytes for buffer in program.buffers if buffer.kind is BufferKind.OUTPUT)
    if (budget.outputs, budget.workspace) != (outputs, workspace) or budget.loader < 0:
        raise PlanError(
            f"the budget counts {budget.outputs} bytes of outputs, {budget.workspace} of workspace and "
            f"{budget.loader} of loader buffers; outputs take {outputs}, the largest workspace {workspace}"
        )
    if budget.arena % PAGE or not 0 <= placement.bound <= placement.height <= budget.arena:
        raise PlanError(
            f"an arena of {budget.arena} bytes, in pages of {PAGE}, for a placement {placement.height} high "
            f"above a bound of {placement.bound}"
        )
    if budget.limit is not None and budget.total > budget.limit:
        raise PlanError(f"the plan takes {budget.total} bytes, more than its budget of {budget.limit}")


def _check_machine(plan: Plan) -> None:
    """What only a device with memory of its own has, and has to have."""
    machine, budget = plan.machine, plan.budget
    if machine.device not in ("cpu", "cuda"):
        raise PlanError(f"the plan is for a device called {machine.device!r}")
    if machine.device == "cpu":
        if machine.stream_from or machine.ring_nbytes or machine.graphs or budget.host:
            raise PlanError(
                f"a plan for the CPU streams from {machine.stream_from!r} through {machine.ring_nbytes} "
                f"bytes and takes {budget.host} bytes of a host"
            )
        return
    if machine.stream_from not in ("ssd", "host"):
        raise PlanError(f"weights stream from {machine.stream_from!r}, which is neither ssd nor host")
    if machine.ring_nbytes < PAGE or machine.ring_nbytes % PAGE:
        raise PlanError(f"a pinned ring of {machine.ring_nbytes} bytes is no whole number of pages of {PAGE}")
    store = 0
    if machine.stream_from == "host":
        tiles = {load.tile for load in plan.sizing.loads}
        store = sum(plan.sizing.tiles[tile].nbytes for tile in tiles)
    if budget.host < machine.ring_nbytes + store:
        raise PlanError(
            f"the budget counts {budget.host} bytes of the host's memory; the ring takes "
            f"{machine.ring_nbytes} and streamed weights that stay there {store}"
        )
    if budget.host_limit is not None and budget.host > budget.host_limit:
        raise PlanError(
            f"the plan takes {budget.host} bytes of the host, more than its budget of {budget.host_limit}"
        )
    if machine.packing or machine.native or any(value.packing for value in plan.program.values):
        raise PlanError("weights are packed, or kernels compiled, for a CPU in a plan for CUDA")


# Who holds which bytes, step by step ---------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Holder:
    """Something that takes bytes of the arena: a buffer in one run, or one load of a tile. While it is
    `held`, nothing else may take any of them."""

    label: str
    held: bool = True


class _Shadow:
    """Who took each byte of the arena last: disjoint, ascending intervals."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._holders: list[_Holder] = []

    def take(self, first: int, last: int, holder: _Holder) -> list[_Holder]:
        """Give bytes [first, last) to `holder`; those who lose bytes by it."""
        if first >= last:
            return []
        low = bisect_right(self._lasts, first)
        high = bisect_left(self._firsts, last)
        lost = self._holders[low:high]
        kept = [(first, last, holder)]
        if lost and self._firsts[low] < first:
            kept.insert(0, (self._firsts[low], first, lost[0]))
        if lost and self._lasts[high - 1] > last:
            kept.append((last, self._lasts[high - 1], lost[-1]))
        self._firsts[low:high] = [piece[0] for piece in kept]
        self._lasts[low:high] = [piece[1] for piece in kept]
        self._holders[low:high] = [piece[2] for piece in kept]
        return lost


@dataclass(frozen=True, slots=True)
class _Access:
    """What a step touches: by name the value, by id the buffer in the arena or the tile it lies in."""

    name: str
    place: int


@dataclass(frozen=True, slots=True)
class _StepAccesses:
    label: str
    tiles: tuple[_Access, ...]
    reads: tuple[_Access, ...]
    writes: tuple[_Access, ...]


class _Walk:
    """The events of `RUNS` runs, in the order in which the program causes them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._offsets = dict(plan.buffer_offsets)
        self._steps = self._accesses()
        count = len(self._steps)
        self._submitted: list[list[int]] = [[] for _ in range(count)]
        self._due: list[list[int]] = [[] for _ in range(count)]
        self._released: list[list[int]] = [[] for _ in range(count)]
        for number, load in enumerate(plan.sizing.loads):
            self._submitted[load.issue].append(number)
            self._due[load.deadline].append(number)
            self._released[load.last_use].append(number)
        self._ended = self._last_touches()
        self._shadow = _Shadow()
        # Loads by number from submission to release, tiles that are loaded now, buffers live now.
        self._loads: dict[int, _Holder] = {}
        self._tiles: set[int] = set()
        self._buffers: dict[int, _Holder] = {}

    def check(self) -> None:
        """Raise PlanError at the first event that takes bytes in use or misses bytes it needs."""
        self._begin()
        for _ in range(RUNS):
            for index in range(len(self._steps)):
                for number in self._submitted[index]:
                    self._submit(number, f"before step {index}")
                for number in self._due[index]:
                    self._complete(number, index)
                self._step(index)
                self._release(index)

    def _begin(self) -> None:
        """Before the first run: state and resident tiles in place, loads of its head submitted."""
        sizing, when = self._plan.sizing, "before the first run"
        for state in self._plan.program.states:
            self._live(state.buffer, when)
        for tile in sizing.resident:
            self._take_tile(tile, _Holder(f"resident tile {tile}"), when)
            self._tiles.add(tile)
        for number, load in enumerate(sizing.loads):
            if load.wraps:
                self._submit(number, when)

    def _submit(self, number: int, when: str) -> None:
        tile = self._plan.sizing.loads[number].tile
        holder = _Holder(f"the load of tile {tile}")
        self._take_tile(tile, holder, when)
        self._loads[number] = holder

    def _complete(self, number: int, index: int) -> None:
        tile = self._plan.sizing.loads[number].tile
        if number not in self._loads:
            raise PlanError(f"step {index} waits for a load of tile {tile} that was not submitted")
        self._tiles.add(tile)

    def _step(self, index: int) -> None:
        step = self._steps[index]
        for access in step.tiles:
            if access.place not in self._tiles:
                raise PlanError(
                    f"step {index} ({step.label}) reads {access.name} in tile {access.place}, "
                    f"which is not loaded at that step"
                )
        for access in step.reads:
            if access.place not in self._buffers:
                raise PlanError(
                    f"step {index} ({step.label}) reads {access.name}, which is not yet written in this run"
                )
        # Operands are still held here, so a result under one of them is found.
        for access in step.writes:
            if access.place not in self._buffers:
                self._live(access.place, f"at step {index} ({step.label})")

    def _release(self, index: int) -> None:
        """After the step, the bytes it was the last to use are free."""
        for buffer in self._ended[index]:
            self._buffers.pop(buffer).held = False
        for number in self._released[index]:
            self._loads.pop(number).held = False
            self._tiles.discard(self._plan.sizing.loads[number].tile)

    def _live(self, buffer: int, when: str) -> None:
        holder = _Holder(f"buffer {self._plan.program.buffers[buffer].name}")
        self._take(self._offsets[buffer], self._plan.program.buffers[buffer].nbytes, holder, when)
        self._buffers[buffer] = holder

    def _take_tile(self, tile: int, holder: _Holder, when: str) -> None:
        self._take(self._plan.tile_offsets[tile], self._plan.sizing.tiles[tile].nbytes, holder, when)

    def _take(self, offset: int, nbytes: int, holder: _Holder, when: str) -> None:
        for other in self._shadow.take(offset, offset + nbytes, holder):
            if other.held:
                raise PlanError(
                    f"{holder.label} takes bytes {offset}-{offset + nbytes} of the arena {when}, "
                    f"where some are still in use by {other.label}"
                )

    def _last_touches(self) -> list[list[int]]:
        """Per step, the buffers that it is the last to touch in a run; state stays."""
        last: dict[int, int] = {}
        for index, step in enumerate(self._steps):
            for access in step.reads + step.writes:
                last[access.place] = index
        ended: list[list[int]] = [[] for _ in self._steps]
        for buffer, index in last.items():
            if self._plan.program.buffers[buffer].kind is not BufferKind.STATE:
                ended[index].append(buffer)
        return ended

    def _accesses(self) -> list[_StepAccesses]:
        program = self._plan.program
        places = _WeightPlaces(self._plan)
        found = []
        for index, step in enumerate(program.steps):
            tiles = []
            for value in step.reads:
                read = program.values[value]
                if _buffer(program, value).kind is BufferKind.WEIGHT and read.extent[0] < read.extent[1]:
                    tiles.append(places.access(read, f"step {index} ({step.name})"))
            found.append(
                _StepAccesses(step.name, tuple(tiles), self._touched(step.reads), self._touched(step.writes))
            )
        return found

    def _touched(self, values: tuple[int, ...]) -> tuple[_Access, ...]:
        """The buffers in the arena that the values lie in; a buffer lives in all its bytes at once."""
        program = self._plan.program
        buffers = {program.values[v].buffer: program.values[v] for v in values}
        return tuple(
            _Access(value.name, buffer)
            for buffer, value in buffers.items()
            if program.buffers[buffer].kind in ARENA_KINDS
        )


class _WeightPlaces:
    """Which bytes of the weights are in which tile."""

    def __init__(self, plan: Plan) -> None:
        # Per weight, ascending: [first, last) of the bytes in one tile, and the tile.
        self._pieces: dict[int, list[tuple[int, int, int]]] = {}
        for tile in plan.sizing.tiles:
            for grain in plan.program.grains[tile.first_grain : tile.last_grain]:
                pieces = self._pieces.setdefault(grain.weight, [])
                first = pieces.pop()[0] if pieces and pieces[-1][2] == tile.id else grain.first
                pieces.append((first, grain.end, tile.id))
        for pieces in self._pieces.values():
            pieces.sort()

    def access(self, value: Value, reader: str) -> _Access:
        """The tile that holds all bytes of the weight `value`."""
        first, last = value.extent
        pieces = self._pieces.get(value.buffer, [])
        at = bisect_right(pieces, first, key=lambda piece: piece[0]) - 1
        if at < 0 or pieces[at][1] < last:
            raise PlanError(
                f"{reader} reads {value.name}, whose bytes {first}-{last} are not all in one tile"
            )
        return _Access(value.name, pieces[at][2])
