"""Plans of stacks of layers, made by the passes, of any size: residual blocks with streamed weights."""

from __future__ import annotations

from occ.ir import (
    Arg,
    Budget,
    Buffer,
    BufferKind,
    Choices,
    Grain,
    Input,
    Machine,
    Output,
    Plan,
    Program,
    Reader,
    Ref,
    Sizing,
    State,
    Step,
    StepCost,
    Value,
)
from occ.passes.items import items_of, placed_buffers
from occ.passes.liveness import liveness
from occ.passes.placement.portfolio import place
from occ.passes.sizing import size
from occ.passes.timing import predict
from occ.units import PAGE, round_up

READER = Reader(bandwidth=2e9, overhead=0.0, slowdown=1.05)
MACHINE = Machine("cpu", 2, "passive", "2.13.0", "any", "0" * 64)


class Stack:
    """A program under construction; every value spans its buffer."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.values: list[Value] = []
        self.steps: list[Step] = []
        self.grains: list[Grain] = []
        self.file_nbytes = 0

    def value(self, name: str, kind: BufferKind, nbytes: int) -> int:
        number = len(self.buffers)
        self.buffers.append(Buffer(number, name, kind, nbytes))
        self.values.append(Value(number, name, number, 0, "uint8", (nbytes,), (1,)))
        return number

    def weight(self, name: str, nbytes: int) -> int:
        number = self.value(name, BufferKind.WEIGHT, nbytes)
        self.grains.append(Grain(number, 0, nbytes, self.file_nbytes))
        self.file_nbytes += round_up(nbytes, PAGE)
        return number

    def step(
        self, name: str, module: str, kernel: str, reads: list[int], out: int, scratch: int = -1
    ) -> None:
        args: tuple[tuple[str, Arg], ...] = tuple((f"x{i}", Ref(value)) for i, value in enumerate(reads))
        self.steps.append(Step(name, module, kernel, args, (out,), (scratch,) if scratch >= 0 else ()))

    def program(self, name: str, x: int, y: int, states: tuple[State, ...] = ()) -> Program:
        weights = sum(buffer.nbytes for buffer in self.buffers if buffer.kind is BufferKind.WEIGHT)
        return Program(
            name=name,
            buffers=tuple(self.buffers),
            values=tuple(self.values),
            steps=tuple(self.steps),
            inputs=(Input("x", x),),
            outputs=(Output("y", y),),
            states=states,
            grains=tuple(self.grains),
            input_tree={"tuple": [{"tuple": [{"tensor": 0}]}, {"dict": []}]},
            output_tree={"tensor": 0},
            weights_nbytes=weights,
            file_nbytes=self.file_nbytes,
            activation_peak=16 * PAGE,
        )


def stack(layers: int, steps_a_layer: int = 5, name: str = "stack") -> Program:
    """Residual blocks: a linear step with 64 pages of weights and scratch, then steps on its result, the last
    of which adds the block's input. A state is touched by the first step."""
    made = Stack()
    x = made.value("x", BufferKind.INPUT, PAGE)
    cache = made.value("cache", BufferKind.STATE, 2 * PAGE)
    before = x
    for layer in range(layers):
        module = f"blocks.{layer}"
        weight = made.weight(f"{module}.proj.weight", (64 + 16 * (layer % 3)) * PAGE)
        hidden = made.value(f"proj_{layer}", BufferKind.ACTIVATION, 8 * PAGE)
        scratch = made.value(f"proj_{layer}.scratch", BufferKind.SCRATCH, PAGE)
        reads = [before, weight, *([cache] if layer == 0 else [])]
        made.step(f"proj_{layer}", f"{module}.proj", "linear", reads, hidden, scratch)
        for number in range(steps_a_layer - 2):
            after = made.value(f"act_{layer}_{number}", BufferKind.ACTIVATION, (4 + number % 3) * PAGE)
            made.step(f"act_{layer}_{number}", f"{module}.act", "gelu", [hidden], after)
            hidden = after
        total = made.value(f"add_{layer}", BufferKind.ACTIVATION, 4 * PAGE)
        made.step(f"add_{layer}", module, "add", [before, hidden], total)
        before = total
    y = made.value("y", BufferKind.OUTPUT, PAGE)
    made.step("y", "", "copy", [before], y)
    return made.program(name, x, y, (State("cache", cache, None),))


def planned(program: Program, share: float | None = None, seconds: float = 4e-5) -> Plan:
    """The program's plan with `share` of its demand as its pool, or with everything resident; every linear
    step takes `seconds`, every other a tenth of that."""
    live = liveness(program)
    costs = tuple(StepCost(seconds / (1 if s.kernel == "linear" else 10), PAGE) for s in program.steps)
    pool = 2 * (program.weights_nbytes + live.peak_nbytes) if share is None else int(share * program.demand)
    sizing = size(program, live, costs, READER, pool)
    assert isinstance(sizing, Sizing)
    placement = place(items_of(program, live, sizing), effort=0)
    buffers = placed_buffers(program, live)
    arena = round_up(placement.height, PAGE)
    outputs = program.outputs_nbytes
    limit = None if share is None else round_up(max(pool, arena), PAGE) + outputs + PAGE
    return Plan(
        program=program,
        choices=Choices(),
        sizing=sizing,
        buffer_offsets=tuple(zip(buffers, placement.offsets[: len(buffers)], strict=True)),
        tile_offsets=placement.offsets[len(buffers) :],
        placement=placement,
        costs=costs,
        budget=Budget(limit, arena, outputs, 0, PAGE),
        prediction=predict(sizing, costs, READER),
        machine=MACHINE,
        reader=READER,
    )
