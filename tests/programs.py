"""Programs and plans for tests: a builder for small ones by hand, strategies for random ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from random import Random

from hypothesis import strategies as st

from occ.ir import (
    Arg,
    Budget,
    Buffer,
    BufferKind,
    Choices,
    Grain,
    Input,
    Load,
    Machine,
    Output,
    Placement,
    PlacementItem,
    Plan,
    Prediction,
    Program,
    Reader,
    Ref,
    Sizing,
    SplitAxis,
    State,
    Step,
    StepCost,
    Tile,
    Value,
    weight_file_offsets,
)
from occ.passes.liveness import liveness
from occ.passes.ordering import needed_steps, runs_of
from occ.passes.tiling import tile
from occ.rewrite import rewrite
from occ.units import ALIGNMENT, PAGE, round_up

UNSPLIT = Choices()
SMALL_WEIGHT = 32 * 1024
PACK = 64 * 1024

MACHINE = Machine("cpu", 1, "default", "2.13.0", "none", "none")
READER = Reader(bandwidth=2e9)


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, in elements."""
    return tuple(prod(shape[dim + 1 :]) for dim in range(len(shape)))


@dataclass
class Builder:
    """Puts a program together; methods that make a tensor return its value's id. Tensors are float32."""

    buffers: list[Buffer] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    granules: dict[int, int] = field(default_factory=dict)
    """Bytes per grain of the weights that have several."""

    def buffer(self, kind: BufferKind, nbytes: int, name: str = "") -> int:
        identity = len(self.buffers)
        self.buffers.append(Buffer(identity, name or f"{kind.value}{identity}", kind, nbytes))
        return identity

    def value(
        self,
        buffer: int,
        shape: tuple[int, ...],
        *,
        offset: int = 0,
        strides: tuple[int, ...] | None = None,
        dtype: str = "float32",
    ) -> int:
        identity = len(self.values)
        name = f"v{identity}"
        self.values.append(Value(identity, name, buffer, offset, dtype, shape, strides or dense(shape)))
        return identity

    def tensor(self, kind: BufferKind, shape: tuple[int, ...], dtype: str = "float32") -> int:
        itemsize = 8 if dtype == "int64" else 4
        return self.value(self.buffer(kind, prod(shape) * itemsize), shape, dtype=dtype)

    def input(self, shape: tuple[int, ...], dtype: str = "float32") -> int:
        value = self.tensor(BufferKind.INPUT, shape, dtype)
        self.inputs.append(Input(f"x{len(self.inputs)}", value))
        return value

    def weight(self, shape: tuple[int, ...], grain_rows: int | None = None) -> int:
        value = self.tensor(BufferKind.WEIGHT, shape)
        if grain_rows is not None:
            self.granules[self.values[value].buffer] = grain_rows * prod(shape[1:]) * 4
        return value

    def state(self, shape: tuple[int, ...]) -> int:
        value = self.tensor(BufferKind.STATE, shape)
        self.states.append(State(f"cache{len(self.states)}", self.values[value].buffer, None))
        return value

    def output(self, value: int) -> None:
        self.outputs.append(Output(f"y{len(self.outputs)}", value))

    def step(
        self,
        outs: tuple[int, ...],
        args: dict[str, Arg],
        kernel: str = "mix",
        splits: tuple[SplitAxis, ...] = (),
        scratch: tuple[int, ...] = (),
    ) -> None:
        name = f"step{len(self.steps)}"
        self.steps.append(Step(name, f"block.{name}", kernel, tuple(args.items()), outs, scratch, (), splits))

    def mix(self, shape: tuple[int, ...], *operands: int) -> int:
        """A step that computes a new activation of all operands."""
        out = self.tensor(BufferKind.ACTIVATION, shape)
        self.step((out,), {f"x{number}": Ref(value) for number, value in enumerate(operands)})
        return out

    def build(self) -> Program:
        grains, file_nbytes = self._lay_out()
        return Program(
            name="test",
            buffers=tuple(self.buffers),
            values=tuple(self.values),
            steps=tuple(self.steps),
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            states=tuple(self.states),
            grains=grains,
            input_tree=None,
            output_tree=None,
            weights_nbytes=sum(b.nbytes for b in self.buffers if b.kind is BufferKind.WEIGHT),
            file_nbytes=file_nbytes,
            activation_peak=0,
        )

    def _lay_out(self) -> tuple[tuple[Grain, ...], int]:
        """Grains in order of first use: small weights packed, others from a page on."""
        used = [self.values[v].buffer for step in self.steps for v in step.reads]
        weights = [b for b in dict.fromkeys(used) if self.buffers[b].kind is BufferKind.WEIGHT]
        grains: list[Grain] = []
        position = 0
        pack: int | None = None
        for weight in weights:
            nbytes = self.buffers[weight].nbytes
            if nbytes < SMALL_WEIGHT:
                start = round_up(position, ALIGNMENT)
                if pack is None or start + nbytes > pack + PACK:
                    start = pack = round_up(position, PAGE)
                grains.append(Grain(weight, 0, nbytes, start))
            else:
                pack = None
                start = round_up(position, PAGE)
                size = self.granules.get(weight, round_up(nbytes, PAGE))
                for first in range(0, nbytes, size):
                    grains.append(Grain(weight, first, min(size, nbytes - first), start + first))
            position = start + nbytes
        return tuple(grains), round_up(position, PAGE)


# Random programs -----------------------------------------------------------------------------------------

ROW_NBYTES = PAGE
"""A row of a huge weight is a page, so that it can be cut at every row."""


@dataclass
class _Growing:
    """A program being drawn. `live` are matrices that later steps may read; in-place steps retire them."""

    draw: st.DrawFn
    builder: Builder
    live: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    states: list[int] = field(default_factory=list)

    def pick(self) -> int:
        return self.draw(st.sampled_from(self.live))

    def shape(self, value: int) -> tuple[int, ...]:
        return self.builder.values[value].shape

    def salt(self) -> int:
        return len(self.builder.steps)

    def retire(self, buffer: int) -> None:
        self.live = [v for v in self.live if self.builder.values[v].buffer != buffer]

    # Each operation adds one or more steps.

    def mix(self) -> None:
        """A step of one or two operands, over rows where they have as many; sometimes with two results."""
        x, y = self.pick(), self.pick()
        rows = self.shape(x)[0]
        columns = self.draw(st.sampled_from([4, 16, 40]))
        outs = [
            self.builder.tensor(BufferKind.ACTIVATION, (rows, columns))
            for _ in range(self.draw(st.integers(1, 2)))
        ]
        scratch = self.draw(st.sampled_from([0, 24, 500]))
        sliced = [("x", 0)] if x != y else [("x", 0), ("y", 0)]
        staged = self.draw(st.booleans())
        self.builder.step(
            tuple(outs),
            {"x": Ref(x), "y": Ref(y), "salt": self.salt(), "rows": ((0,) * len(outs), tuple(sliced))},
            splits=(SplitAxis("rows", rows, 1, tuple(sliced), (0,) * len(outs), staged),),
            scratch=(self.builder.tensor(BufferKind.SCRATCH, (scratch,)),) if scratch else (),
        )
        self.live += outs

    def regroup(self) -> None:
        """Rows that one step writes, and another reads several at a time or each as several."""
        source = self.pick()
        rows, times = self.shape(source)[0], self.draw(st.sampled_from([2, 3]))
        joins = rows % times == 0 and self.draw(st.booleans())
        granule = self.draw(st.sampled_from([1, 2]))
        written = self._rows_of(source, (rows, 4 * times), granule)
        seen = (rows // times, 4 * times * times) if joins else (rows * times, 4)
        read = self.builder.value(self.builder.values[written].buffer, seen)
        self.live += [read, self._rows_of(read, (seen[0], 8), 1)]

    def _rows_of(self, source: int, shape: tuple[int, int], granule: int) -> int:
        """A new matrix, each row of it made of that of another."""
        out = self.builder.tensor(BufferKind.ACTIVATION, shape)
        sliced = (("x", 0),)
        args = {"x": Ref(source), "salt": self.salt(), "rows": ((0,), sliced)}
        self.builder.step((out,), args, splits=(SplitAxis("rows", shape[0], granule, sliced, (0,)),))
        return out

    def linear(self) -> None:
        """A weight (small, huge, or used before) and a bias, cut along the weight's rows."""
        x = self.pick()
        reused = self.draw(st.booleans()) if self.weights else False
        if reused:
            weight = self.draw(st.sampled_from(self.weights))
        elif self.draw(st.booleans()):
            grain = self.draw(st.sampled_from([1, 2, 4]))
            rows = self.draw(st.sampled_from([8, 12, 17]))
            weight = self.builder.weight((rows, ROW_NBYTES // 4), grain)
            self.weights.append(weight)
        else:
            weight = self.builder.weight((self.draw(st.sampled_from([3, 8, 30])), 16))
            self.weights.append(weight)
        features = self.shape(weight)[0]
        buffer = self.builder.values[weight].buffer
        granule = self.builder.granules.get(buffer, 4 * ROW_NBYTES) // ROW_NBYTES
        bias = self.builder.weight((features,))
        out = self.builder.tensor(BufferKind.ACTIVATION, (self.shape(x)[0], features))
        sliced = (("weight", 0), ("bias", 0))
        self.builder.step(
            (out,),
            {
                "x": Ref(x),
                "weight": Ref(weight),
                "bias": Ref(bias),
                "salt": self.salt(),
                "rows": ((1,), sliced),
            },
            splits=(SplitAxis("features", features, granule, sliced, (1,), self.draw(st.booleans())),),
        )
        self.live.append(out)

    def recur(self) -> None:
        """A step that goes over the rows of an operand, forwards or backwards, with a state that it also
        gives in the end; sometimes two of them do, one after the other."""
        source = self.pick()
        rows, columns = self.shape(source)[0], self.draw(st.sampled_from([4, 16]))
        for _ in range(self.draw(st.integers(1, 2))):
            reverse = self.draw(st.booleans())
            out = self.builder.tensor(BufferKind.ACTIVATION, (rows, columns))
            last = self.builder.tensor(BufferKind.ACTIVATION, (1, columns))
            axis = SplitAxis("rows", rows, 1, (("x", 0),), (0,), carries=(("state", 1),), descending=reverse)
            args = {"x": Ref(source), "state": None, "reverse": reverse, "salt": self.salt()}
            self.builder.step((out, last), args, kernel="recurrence", splits=(axis,))
            self.live += [out, last]
            source = out

    def update(self) -> None:
        """A result over one of its operands."""
        candidates = [v for v in self.live if self._owned(v)]
        if not candidates:
            return
        target = self.draw(st.sampled_from(candidates))
        x = self.pick()
        buffer = self.builder.values[target].buffer
        columns = self.shape(target)[1]
        out = self.builder.value(
            buffer,
            self.shape(target),
            offset=self.builder.values[target].offset,
            strides=self.builder.values[target].strides,
        )
        others: dict[str, Arg] = {"x": Ref(x)} if self.builder.values[x].buffer != buffer else {}
        sliced = (("residual", 1),)
        self.builder.step(
            (out,),
            {**others, "residual": Ref(target), "salt": self.salt(), "rows": ((1,), sliced)},
            splits=(SplitAxis("columns", columns, 2, sliced, (1,), self.draw(st.booleans())),),
        )
        self.retire(buffer)
        self.live.append(out)

    def _owned(self, value: int) -> bool:
        return self.builder.buffers[self.builder.values[value].buffer].kind is BufferKind.ACTIVATION

    def view(self) -> None:
        """Some rows or some columns, or the transpose, of a matrix."""
        whole = self.builder.values[self.pick()]
        dim = self.draw(st.sampled_from([0, 1]))
        start = self.draw(st.integers(0, whole.shape[dim] - 1))
        size = self.draw(st.integers(1, whole.shape[dim] - start))
        shape = (size, whole.shape[1]) if dim == 0 else (whole.shape[0], size)
        strides = whole.strides
        if self.draw(st.booleans()):
            shape, strides = shape[::-1], strides[::-1]
        offset = whole.offset + start * whole.strides[dim] * 4
        self.live.append(self.builder.value(whole.buffer, shape, offset=offset, strides=strides))

    def concat(self) -> None:
        """Pieces written by different steps into one buffer, side by side or one after another."""
        rows = self.draw(st.integers(1, 6))
        widths = self.draw(st.lists(st.sampled_from([1, 4, 16]), min_size=2, max_size=3))
        columns = sum(widths)
        buffer = self.builder.buffer(BufferKind.ACTIVATION, rows * columns * 4)
        start = 0
        sources = [self.pick() for _ in widths]
        for source, width in zip(sources, widths, strict=True):
            piece = self.builder.value(buffer, (rows, width), offset=start * 4, strides=(columns, 1))
            self.builder.step((piece,), {"x": Ref(source), "salt": self.salt()})
            start += width
        self.live.append(self.builder.value(buffer, (rows, columns)))

    def embed(self) -> None:
        """Rows of a table, picked by an input."""
        huge = self.draw(st.booleans())
        shape = (self.draw(st.sampled_from([20, 50])), 768 if huge else 12)
        table = self.builder.weight(shape)
        self.weights.append(table)
        count = self.draw(st.integers(1, 3))
        indices = self.builder.input((count,), "int64")
        out = self.builder.tensor(BufferKind.ACTIVATION, (count, shape[1]))
        args: dict[str, Arg] = {"weight": Ref(table), "indices": Ref(indices)}
        self.builder.step((out,), args, kernel="embedding")
        self.live.append(out)

    def remember(self) -> None:
        """A state is updated and read."""
        if not self.states or self.draw(st.booleans()):
            self.states.append(self.builder.state((2, 6)))
        state = self.draw(st.sampled_from(self.states))
        updated = self.builder.value(self.builder.values[state].buffer, (2, 6))
        self.builder.step((updated,), {"x": Ref(self.pick()), "state": Ref(state), "salt": self.salt()})
        self.live.append(self.builder.mix((2, 6), updated))

    def give(self) -> None:
        """An output, written by the step that computes it or copied."""
        source = self.pick()
        out = self.builder.tensor(BufferKind.OUTPUT, self.shape(source))
        if self.draw(st.booleans()):
            self.builder.step((out,), {"source": Ref(source)}, kernel="copy")
        else:
            self.builder.step((out,), {"x": Ref(source), "salt": self.salt()})
        self.builder.output(out)


OPERATIONS = (
    *("mix", "regroup", "linear", "linear", "recur", "update"),
    *("view", "concat", "embed", "remember", "give"),
)


@st.composite
def programs(draw: st.DrawFn, max_operations: int = 16) -> Program:
    """Programs of every shape that the lowering makes: chains, branches, results in place, views, concat
    pieces, shared and huge weights that can be cut, embeddings, states, changed inputs, several outputs."""
    growing = _Growing(draw, Builder())
    first = growing.builder.input((draw(st.integers(1, 6)), 8))
    growing.live.append(first)
    count = draw(st.integers(1, max_operations))
    operations = draw(st.lists(st.sampled_from(OPERATIONS), min_size=count, max_size=count))
    for operation in operations:
        getattr(growing, operation)()
    growing.give()
    if draw(st.booleans()):
        changed = growing.builder.mix(growing.shape(first), growing.pick(), first)
        growing.builder.step((first,), {"source": Ref(changed)}, kernel="copy")
    return growing.builder.build()


@st.composite
def choices(draw: st.DrawFn, program: Program) -> Choices:
    """Some of the splits and gathers that the program offers, any order of its steps, and perhaps a band."""
    splits = []
    gathers = []
    for index, step in enumerate(program.steps):
        axes = [axis for axis in step.splits if not axis.needs_band]
        if axes and draw(st.booleans()):
            axis: SplitAxis = draw(st.sampled_from(axes))
            splits.append((index, axis.name, draw(st.integers(1, granules_of(axis)))))
        elif step.kernel == "embedding" and draw(st.booleans()):
            gathers.append(index)
    order = draw(orders(program))
    bands = []
    ends = [place for place, index in enumerate(order) if divisible(program.steps[index])]
    if ends and draw(st.booleans()):
        end = draw(st.sampled_from(ends))
        begin = draw(st.integers(max(0, end - 3), end))
        banded = set(order[begin : end + 1])
        splits = [choice for choice in splits if choice[0] not in banded]
        axis = draw(st.sampled_from(divisible(program.steps[order[end]])))
        parts = draw(st.integers(2, min(4, granules_of(axis))))
        bands.append((order[begin], order[end], axis.name, parts))
    return Choices(tuple(splits), tuple(gathers), runs_of(order), tuple(bands))


def granules_of(axis: SplitAxis) -> int:
    return -(-axis.extent // axis.granule)


def divisible(step: Step) -> list[SplitAxis]:
    """The axes along which a band may end with the step."""
    return [axis for axis in step.splits if not axis.staged and granules_of(axis) > 1]


@st.composite
def orders(draw: st.DrawFn, program: Program) -> tuple[int, ...]:
    """An order in which every step comes after those it needs."""
    needed = needed_steps(program)
    order: list[int] = []
    left = list(range(len(program.steps)))
    while left:
        ready = [index for index in left if not set(needed[index]) & set(left)]
        order.append(draw(st.sampled_from(ready)))
        left.remove(order[-1])
    return tuple(order)


# Plans ---------------------------------------------------------------------------------------------------


Key = tuple[str, int]
"""("buffer", id) or ("tile", id)."""


def random_plan(program: Program, choice: Choices, seed: int) -> Plan:
    """A correct plan made without the planner: random residency and loads, first fit by size.

    Raises InternalError where a pass does.
    """
    random = Random(seed)
    rewritten = rewrite(program, choice)
    tiles = tile(rewritten)
    resident = tuple(t.id for t in tiles if random.random() < 0.3)
    loads: list[Load] = []
    for each in tiles:
        if each.id not in resident:
            loads += _random_loads(each.id, _uses(rewritten, each), len(rewritten.steps), random)
    loads.sort(key=lambda load: (load.issue, tiles[load.tile].file_offset))
    sizing = Sizing(tiles, resident, tuple(loads), 0)
    return fitted_plan(rewritten, sizing, choice)


def fitted_plan(program: Program, sizing: Sizing, choice: Choices = UNSPLIT) -> Plan:
    """A plan with everything at the lowest free offset, largest first."""
    items = placement_items(program, sizing)
    return plan_of(program, sizing, items, first_fit(tuple(items.values())), choice)


def placement_items(program: Program, sizing: Sizing) -> dict[Key, PlacementItem]:
    """What needs an offset, and when."""
    count = len(program.steps)
    paged = {program.values[v].buffer for step in program.steps if step.stored for v in step.scratch}
    items: dict[Key, PlacementItem] = {}
    for buffer, live in zip(program.buffers, liveness(program).ranges, strict=True):
        if live is not None:
            alignment = PAGE if buffer.id in paged else ALIGNMENT
            ranges = ((live.first, live.last),)
            items["buffer", buffer.id] = PlacementItem(buffer.name, buffer.nbytes, alignment, ranges)
    spans: dict[int, list[tuple[int, int]]] = {each: [(0, count)] for each in sizing.resident}
    for load in sizing.loads:
        taken = (
            [(0, load.last_use + 1), (load.issue, count)] if load.wraps else [(load.issue, load.last_use + 1)]
        )
        spans.setdefault(load.tile, []).extend(taken)
    for each, ranges_of_tile in spans.items():
        nbytes = sizing.tiles[each].nbytes
        items["tile", each] = PlacementItem(f"tile {each}", nbytes, PAGE, tuple(sorted(ranges_of_tile)))
    return items


def first_fit(items: tuple[PlacementItem, ...]) -> Placement:
    """Every item at the lowest free offset, largest first."""
    offsets: dict[int, int] = {}
    for number in sorted(range(len(items)), key=lambda number: (-items[number].nbytes, number)):
        item = items[number]
        taken = sorted(
            (offsets[other], offsets[other] + items[other].nbytes)
            for other in offsets
            if any(a < d and c < b for a, b in item.ranges for c, d in items[other].ranges)
        )
        offset = 0
        for start, end in taken:
            if start < offset + item.nbytes and offset < end:
                offset = round_up(end, item.alignment)
        offsets[number] = offset
    ordered = tuple(offsets[number] for number in range(len(items)))
    height = max((offset + item.nbytes for offset, item in zip(ordered, items, strict=True)), default=0)
    return Placement(ordered, height, 0, False, "first fit")


def plan_of(
    program: Program,
    sizing: Sizing,
    items: dict[Key, PlacementItem],
    placement: Placement,
    choice: Choices = UNSPLIT,
) -> Plan:
    """The plan with these offsets, in the order of the items."""
    offsets = dict(zip(items, placement.offsets, strict=True))
    arena = round_up(placement.height, PAGE)
    return Plan(
        program=program,
        choices=choice,
        sizing=sizing,
        buffer_offsets=tuple((key[1], offset) for key, offset in offsets.items() if key[0] == "buffer"),
        tile_offsets=tuple(offsets.get(("tile", each.id), 0) for each in sizing.tiles),
        placement=placement,
        costs=tuple(StepCost(1e-3, 0) for _ in program.steps),
        budget=Budget(None, arena, program.outputs_nbytes, 0, 0),
        prediction=Prediction(0.0, 0.0, 0.0, 0, 0.0),
        machine=MACHINE,
        reader=READER,
    )


def _uses(program: Program, each: Tile) -> list[int]:
    """Steps that read weights of the tile in memory."""
    held = {grain.weight for grain in program.grains[each.first_grain : each.last_grain]}
    starts = weight_file_offsets(program)
    used = []
    for index, step in enumerate(program.steps):
        for value in (program.values[v] for v in step.reads):
            first, last = (starts.get(value.buffer, 0) + byte for byte in value.extent)
            if value.buffer in held and first < each.file_offset + each.nbytes and each.file_offset < last:
                used.append(index)
                break
    return used


def _random_loads(tile_id: int, uses: list[int], count: int, random: Random) -> list[Load]:
    """Loads for a tile read at `uses`: once or more often a run, each as early as it likes."""
    groups: list[list[int]] = []
    for use in uses:
        if groups and (use - groups[-1][-1] < 2 or random.random() < 0.6):
            groups[-1].append(use)
        else:
            groups.append([use])
    loads = []
    for number, group in enumerate(groups):
        earliest = groups[number - 1][-1] + 1 if number else 0
        after = groups[-1][-1] + 1
        if number == 0 and after < count and random.random() < 0.4:
            loads.append(Load(tile_id, random.randrange(after, count), group[0], group[-1], wraps=True))
        else:
            loads.append(Load(tile_id, random.randint(earliest, group[0]), group[0], group[-1]))
    return loads
