"""Executes programs byte by byte, with abstract kernels, in the cruellest way a plan allows.

`run_unplanned` gives every buffer memory of its own. `PlannedMachine` has one arena and a plan: bytes that
nobody may rely on are garbage, results are scribbled over before operands are read, and a load leaves either
its data or garbage in its bytes from its submission until the wait for it. A plan is right if both agree.

Kernels mix the bytes of their operands into their results with a hash. A constant operand `rows` =
(dimension of each result, ((operand, dimension), ...)) makes every row of the results depend on the same rows
of the named operands and on the whole of the others, so that splitting such a step changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from hashlib import shake_128
from random import Random

from occ.ir import BufferKind, Load, Plan, Program, Ref, Step, Value, refs_of, weight_file_offsets
from occ.units import PAGE, round_down, round_up

Locate = Callable[[Value], tuple[bytearray, int]]
"""Value -> the memory its buffer lies in, and the address there of the buffer's first byte."""

Results = dict[str, bytes]


def file_bytes(program: Program) -> bytes:
    """Contents for the weight part of an artifact, the same for programs of the same file size."""
    return shake_128(b"weights").digest(program.file_nbytes)


def input_bytes(program: Program, run: int) -> dict[int, bytes]:
    """Contents for every input buffer, by buffer id; different in every run."""
    return {
        buffer.id: shake_128(f"input {buffer.id} {run}".encode()).digest(buffer.nbytes)
        for buffer in program.buffers
        if buffer.kind is BufferKind.INPUT
    }


def run_unplanned(program: Program, runs: int) -> list[Results]:
    """Outputs and final inputs of consecutive runs in memory of their own."""
    file = bytearray(file_bytes(program))
    file_offsets = weight_file_offsets(program)
    memory = {b.id: bytearray(b.nbytes) for b in program.buffers if b.kind is not BufferKind.WEIGHT}
    for state in program.states:
        if state.file_offset is not None:
            end = state.file_offset + program.buffers[state.buffer].nbytes
            memory[state.buffer][:] = file[state.file_offset : end]

    def locate(value: Value) -> tuple[bytearray, int]:
        if program.buffers[value.buffer].kind is BufferKind.WEIGHT:
            return file, file_offsets[value.buffer]
        return memory[value.buffer], 0

    found = []
    for run in range(runs):
        for buffer, given in input_bytes(program, run).items():
            memory[buffer][:] = given
        for step in program.steps:
            execute(program, step, locate, locate, Random(0))
        found.append(_results(program, locate))
    return found


class PlannedMachine:
    """One arena, filled as the plan says. `seed` chooses garbage and when loads complete."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._plan = plan
        self._program = plan.program
        self._random = Random(seed)
        self._file = bytearray(file_bytes(plan.program))
        self._arena = bytearray(self._random.randbytes(plan.budget.arena))
        self._outside: dict[int, bytearray] = {}
        self._offsets = dict(plan.buffer_offsets)
        self._bases = _tile_bases(plan)
        self._late: list[Load] = []
        self._dying = _dying_buffers(plan.program)
        for state in plan.program.states:
            nbytes = plan.program.buffers[state.buffer].nbytes
            start = state.file_offset
            initial = bytes(nbytes) if start is None else bytes(self._file[start : start + nbytes])
            self._put(self._offsets[state.buffer], initial)
        for tile in plan.sizing.resident:
            self._fill_tile(tile)
        for load in plan.sizing.loads:
            if load.wraps:
                self._submit(load)

    def run(self, number: int) -> Results:
        """Outputs and final inputs of the next run."""
        program = self._program
        self._outside = {key: bytearray(given) for key, given in input_bytes(program, number).items()}
        for buffer in program.buffers:
            if buffer.kind is BufferKind.OUTPUT:
                self._outside[buffer.id] = bytearray(self._random.randbytes(buffer.nbytes))
        for index, step in enumerate(program.steps):
            for load in self._plan.sizing.loads:
                if load.issue == index:
                    self._submit(load)
            for load in self._plan.sizing.loads:
                if load.deadline == index and load in self._late:
                    self._late.remove(load)
                    self._fill_tile(load.tile)
            for load in self._late:
                self._spoil_tile(load.tile)
            execute(program, step, self._locate, self._locate_stored, self._random)
            self._bury(index)
        return _results(program, self._locate)

    def _submit(self, load: Load) -> None:
        if self._random.random() < 0.5:
            self._fill_tile(load.tile)
        else:
            self._late.append(load)
            self._spoil_tile(load.tile)

    def _fill_tile(self, tile: int) -> None:
        start = self._plan.sizing.tiles[tile].file_offset
        nbytes = self._plan.sizing.tiles[tile].nbytes
        self._put(self._plan.tile_offsets[tile], bytes(self._file[start : start + nbytes]))

    def _spoil_tile(self, tile: int) -> None:
        nbytes = self._plan.sizing.tiles[tile].nbytes
        self._put(self._plan.tile_offsets[tile], self._random.randbytes(nbytes))

    def _bury(self, index: int) -> None:
        """Garbage over everything that step `index` was the last to use."""
        for buffer in self._dying[index]:
            self._put(self._offsets[buffer], self._random.randbytes(self._program.buffers[buffer].nbytes))
        for load in self._plan.sizing.loads:
            if load.last_use == index:
                self._spoil_tile(load.tile)

    def _put(self, first: int, data: bytes) -> None:
        if not 0 <= first <= first + len(data) <= len(self._arena):
            raise AssertionError(f"bytes {first}-{first + len(data)} are outside the arena")
        self._arena[first : first + len(data)] = data

    def _locate(self, value: Value) -> tuple[bytearray, int]:
        kind = self._program.buffers[value.buffer].kind
        if kind is BufferKind.WEIGHT:
            first, last = value.extent
            for start, end, base in self._bases[value.buffer]:
                if start <= first and last <= end:
                    return self._arena, base
            raise AssertionError(f"{value.name} is in no tile")
        if kind in (BufferKind.INPUT, BufferKind.OUTPUT):
            return self._outside[value.buffer], 0
        return self._arena, self._offsets[value.buffer]

    def _locate_stored(self, value: Value) -> tuple[bytearray, int]:
        return self._file, weight_file_offsets(self._program)[value.buffer]


def execute(program: Program, step: Step, locate: Locate, locate_stored: Locate, random: Random) -> None:
    """Run one step. Scratch, and results that share no buffer with an operand, are garbage at first; scratch
    is garbage at last."""
    values = program.values
    read_buffers = {values[v].buffer for v in step.reads}
    clobbered = [v for v in step.writes if values[v].buffer not in read_buffers]
    _scribble(program, clobbered, locate, random)
    if step.kernel == "copy":
        (source,) = (values[v] for v in step.reads)
        _write(values[step.outs[0]], locate, _read(source, locate))
    elif step.kernel in ("embedding", "gather"):
        _look_up(program, step, locate, locate_stored)
    elif step.kernel == "recurrence":
        _recur(program, step, locate)
    else:
        _mix(program, step, locate)
    _scribble(program, list(step.scratch), locate, random)


def _mix(program: Program, step: Step, locate: Locate) -> None:
    values = program.values
    constants = {name: arg for name, arg in step.args if not list(refs_of(arg))}
    rows = constants.get("rows")
    result_dims, sliced = _rows_of(rows)
    whole = shake_128(f"{step.kernel} {sorted(constants)} {constants.get('salt')}".encode())
    pieces: list[tuple[str, Value, int]] = []
    for name, arg in step.args:
        for ref in refs_of(arg):
            if name in sliced:
                pieces.append((name, values[ref.value], sliced[name]))
            else:
                whole.update(name.encode() + _read(values[ref.value], locate))
    count = values[step.outs[0]].shape[result_dims[0]] if result_dims else 1
    for row in range(count):
        mixed = whole.copy()
        for name, value, dim in pieces:
            mixed.update(name.encode() + _read(_row(value, dim, row), locate))
        for number, out in enumerate(step.outs):
            target = _row(values[out], result_dims[number], row) if result_dims else values[out]
            nbytes = sum(size for _, size in _blocks(target))
            seed = mixed.digest(16) + bytes([number])
            _write(target, locate, shake_128(seed).digest(nbytes))


def _recur(program: Program, step: Step, locate: Locate) -> None:
    """Every row of the first result depends on that row of `x` and on the row computed before, or on `state`;
    the second result is the row computed last."""
    args = dict(step.args)
    x, state = args["x"], args["state"]
    assert isinstance(x, Ref)
    before = _read(program.values[state.value], locate) if isinstance(state, Ref) else b""
    out, last = (program.values[result] for result in step.outs)
    nbytes = sum(size for _, size in _blocks(last))
    for row in range(out.shape[0])[:: -1 if args["reverse"] else 1]:
        given = _read(_row(program.values[x.value], 0, row), locate)
        before = shake_128(f"{args['salt']}".encode() + given + before).digest(nbytes)
        _write(_row(out, 0, row), locate, before)
    _write(last, locate, before)


def _rows_of(constant: object) -> tuple[tuple[int, ...], dict[str, int]]:
    if constant is None:
        return (), {}
    assert isinstance(constant, tuple)
    results, operands = constant
    return tuple(results), dict(operands)


def _look_up(program: Program, step: Step, locate: Locate, locate_stored: Locate) -> None:
    args = dict(step.args)
    weight, indices = args["weight"], args["indices"]
    assert isinstance(weight, Ref)
    assert isinstance(indices, Ref)
    table = program.values[weight.value]
    data = _read(program.values[indices.value], locate)
    found = bytearray()
    for start in range(0, len(data), 8):
        row = _row(table, 0, int.from_bytes(data[start : start + 8], "little") % table.shape[0])
        if not step.stored:
            found += _read(row, locate)
            continue
        pages = program.values[step.scratch[-1]]
        file, base = locate_stored(row)
        first, last = base + row.extent[0], base + row.extent[1]
        page = round_down(first, PAGE)
        nbytes = round_up(last, PAGE) - page
        assert nbytes <= pages.shape[0], "a row does not fit the scratch of its gather"
        memory, address = locate(pages)
        assert address % PAGE == 0, "the scratch of a gather is not at a page"
        memory[address : address + nbytes] = file[page : page + nbytes]
        found += memory[address + first - page : address + last - page]
    _write(program.values[step.outs[0]], locate, bytes(found))


def _row(value: Value, dim: int, row: int) -> Value:
    shape = (*value.shape[:dim], 1, *value.shape[dim + 1 :])
    return replace(value, shape=shape, offset=value.offset + row * value.strides[dim] * value.itemsize)


@lru_cache(maxsize=100_000)
def _blocks(value: Value) -> tuple[tuple[int, int], ...]:
    """(byte in the buffer, number of bytes) of the value's bytes, in the order of its elements."""

    def walk(dim: int, start: int) -> Iterator[tuple[int, int]]:
        rest = 1
        for size, stride in zip(reversed(value.shape[dim:]), reversed(value.strides[dim:]), strict=True):
            if size != 1 and stride != rest:
                break
            rest *= size
        else:
            yield start, rest * value.itemsize
            return
        for index in range(value.shape[dim]):
            yield from walk(dim + 1, start + index * value.strides[dim] * value.itemsize)

    return tuple(walk(0, value.offset))


def _read(value: Value, locate: Locate) -> bytes:
    memory, base = locate(value)
    return b"".join(bytes(memory[base + at : base + at + nbytes]) for at, nbytes in _blocks(value))


def _write(value: Value, locate: Locate, data: bytes) -> None:
    memory, base = locate(value)
    written = 0
    for at, nbytes in _blocks(value):
        if not 0 <= base + at <= base + at + nbytes <= len(memory):
            raise AssertionError(f"{value.name} is outside its memory")
        memory[base + at : base + at + nbytes] = data[written : written + nbytes]
        written += nbytes
    assert written == len(data)


def _scribble(program: Program, values: list[int], locate: Locate, random: Random) -> None:
    for value in values:
        for at, nbytes in _blocks(program.values[value]):
            memory, base = locate(program.values[value])
            memory[base + at : base + at + nbytes] = random.randbytes(nbytes)


def _results(program: Program, locate: Locate) -> Results:
    found = {
        f"output {output.name}": _read(program.values[output.value], locate) for output in program.outputs
    }
    for given in program.inputs:
        found[f"input {given.name}"] = _read(program.values[given.value], locate)
    return found


def _tile_bases(plan: Plan) -> Mapping[int, list[tuple[int, int, int]]]:
    """Per weight: bytes [first, last) that one tile holds, and where byte 0 would lie in the arena."""
    bases: dict[int, list[tuple[int, int, int]]] = {}
    starts = weight_file_offsets(plan.program)
    for tile, offset in zip(plan.sizing.tiles, plan.tile_offsets, strict=True):
        grains = plan.program.grains[tile.first_grain : tile.last_grain]
        for weight in dict.fromkeys(grain.weight for grain in grains):
            held = [grain for grain in grains if grain.weight == weight]
            base = offset - tile.file_offset + starts[weight]
            bases.setdefault(weight, []).append((held[0].first, held[-1].end, base))
    return bases


def _dying_buffers(program: Program) -> list[list[int]]:
    last: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        for value in step.reads + step.writes:
            last[program.values[value].buffer] = index
    dying: list[list[int]] = [[] for _ in program.steps]
    for buffer, index in last.items():
        if program.buffers[buffer].kind in (BufferKind.ACTIVATION, BufferKind.SCRATCH):
            dying[index].append(buffer)
    return dying
