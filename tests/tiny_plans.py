"""Plans small enough to be written by hand: streamed and wrapped tiles, a gather, a state, aliases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

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
    Plan,
    Prediction,
    Program,
    Reader,
    Ref,
    Sizing,
    State,
    Step,
    StepCost,
    Tile,
    Value,
    tile_nbytes,
)
from occ.units import PAGE, round_up

MACHINE = Machine("cpu", 1, "passive", torch.__version__, "any", "0" * 64)
READER = Reader(bandwidth=2e9)


@dataclass(frozen=True)
class Example:
    """A plan with what it takes to make and to run it. `weights` are by buffer id."""

    plan: Plan
    weights: Mapping[int, Tensor]
    inputs: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]

    def weight_bytes(self, buffer: int) -> memoryview:
        return memoryview(self.weights[buffer].contiguous().reshape(-1).view(torch.uint8).numpy())


class Draft:
    """Buffers and values under construction; a value spans its buffer unless it is a view."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.values: list[Value] = []

    def value(self, name: str, kind: BufferKind, dtype: str, *shape: int) -> int:
        nbytes = torch.empty(shape, dtype=getattr(torch, dtype)).nbytes
        self.buffers.append(Buffer(len(self.buffers), name, kind, nbytes))
        return self.view(name, len(self.buffers) - 1, dtype, shape, torch.empty(shape).stride())

    def view(
        self,
        name: str,
        buffer: int,
        dtype: str,
        shape: Sequence[int],
        strides: Sequence[int],
        offset: int = 0,
    ) -> int:
        self.values.append(Value(len(self.values), name, buffer, offset, dtype, tuple(shape), tuple(strides)))
        return len(self.values) - 1


def step(kernel: str, out: int, scratch: tuple[int, ...] = (), **args: Arg) -> Step:
    return Step(f"{kernel}_{out}", f"net.{kernel}", kernel, tuple(args.items()), (out,), scratch)


def flat_tree(count: int) -> dict[str, object]:
    return {"tuple": [{"tensor": index} for index in range(count)]}


def program_of(
    draft: Draft,
    steps: Sequence[Step],
    inputs: Sequence[int],
    outputs: Sequence[int],
    grains: Sequence[Grain] = (),
    states: Sequence[State] = (),
    file_nbytes: int = 0,
    name: str = "tiny",
) -> Program:
    values = draft.values
    weights = sum(buffer.nbytes for buffer in draft.buffers if buffer.kind is BufferKind.WEIGHT)
    return Program(
        name=name,
        buffers=tuple(draft.buffers),
        values=tuple(values),
        steps=tuple(steps),
        inputs=tuple(Input(values[id].name, id) for id in inputs),
        outputs=tuple(Output(values[id].name, id) for id in outputs),
        states=tuple(states),
        grains=tuple(grains),
        input_tree={"tuple": [flat_tree(len(inputs)), {"dict": []}]},
        output_tree=flat_tree(len(outputs)) if len(outputs) > 1 else {"tensor": 0},
        weights_nbytes=weights,
        file_nbytes=file_nbytes,
        activation_peak=0,
    )


def plan_of(
    program: Program,
    buffer_offsets: Mapping[int, int],
    arena: int,
    cuts: Sequence[tuple[int, int]] = (),
    tile_offsets: Sequence[int] = (),
    resident: Sequence[int] = (),
    loads: Sequence[Load] = (),
) -> Plan:
    tiles = tuple(
        Tile(index, first, last, program.grains[first].file_offset, tile_nbytes(program, first, last))
        for index, (first, last) in enumerate(cuts)
    )
    streamed = sum(tiles[load.tile].nbytes for load in loads)
    arena = round_up(arena, PAGE)
    return Plan(
        program=program,
        choices=Choices(),
        sizing=Sizing(tiles, tuple(resident), tuple(loads), arena),
        buffer_offsets=tuple(sorted(buffer_offsets.items())),
        tile_offsets=tuple(tile_offsets),
        placement=Placement((), arena, arena, True, "by hand"),
        costs=tuple(StepCost(1e-5, 0) for _ in program.steps),
        budget=Budget(None, arena, program.outputs_nbytes, 0, 0),
        prediction=Prediction(1e-4, 1e-4, 0.0, streamed, 1e-3),
        machine=MACHINE,
        reader=READER,
    )


def mlp() -> Example:
    """Two layers whose weights share bytes of the arena: the first's load wraps into the run before."""
    generator = torch.Generator().manual_seed(1)
    w1 = torch.randn(512, 256, generator=generator) / 16
    w2 = torch.randn(64, 512, generator=generator) / 16
    b1, b2 = torch.randn(512, generator=generator), torch.randn(64, generator=generator)
    x = torch.randn(4, 256, generator=generator)

    draft = Draft()
    x_ = draft.value("x", BufferKind.INPUT, "float32", 4, 256)
    draft.value("fc1.weight", BufferKind.WEIGHT, "float32", 512, 256)
    b1_ = draft.value("fc1.bias", BufferKind.WEIGHT, "float32", 512)
    draft.value("fc2.weight", BufferKind.WEIGHT, "float32", 64, 512)
    b2_ = draft.value("fc2.bias", BufferKind.WEIGHT, "float32", 64)
    h = draft.value("h", BufferKind.ACTIVATION, "float32", 4, 512)
    z = draft.value("z", BufferKind.ACTIVATION, "float32", 4, 64)
    y = draft.value("y", BufferKind.OUTPUT, "float32", 4, 64)
    w1_t = draft.view("fc1.weight.t", 1, "float32", (256, 512), (1, 256))
    w2_t = draft.view("fc2.weight.t", 3, "float32", (512, 64), (1, 512))
    steps = [
        step("linear", h, bias=Ref(b1_), input=Ref(x_), weight=Ref(w1_t)),
        step("relu", h, self=Ref(h)),
        step("linear", z, bias=Ref(b2_), input=Ref(h), weight=Ref(w2_t)),
        step("tanh", y, self=Ref(z)),
    ]
    grains = [
        Grain(1, 0, 262144, 0),
        Grain(1, 262144, 262144, 262144),
        Grain(3, 0, 131072, 524288),
        Grain(2, 0, 2048, 655360),
        Grain(4, 0, 256, 657408),
    ]
    program = program_of(draft, steps, [x_], [y], grains, file_nbytes=659456, name="mlp")
    plan = plan_of(
        program,
        {5: 528384, 6: 528384 + 8192},
        arena=528384 + 8192 + 1024,
        cuts=[(0, 2), (2, 3), (3, 5)],
        tile_offsets=[0, 0, 524288],
        resident=[2],
        loads=[Load(1, 1, 2, 2), Load(0, 3, 0, 0, wraps=True)],
    )
    expected = torch.addmm(b2, torch.clamp_min(torch.addmm(b1, x, w1.t()), 0), w2.t())
    return Example(plan, {1: w1, 2: b1, 3: w2, 4: b2}, (x,), (torch.tanh(expected),))


TABLE_ROWS = 1000


def embedding(count: int = 40) -> Example:
    """Rows of 384 bytes, some across a page border, of a table that stays in the file; 4 pages of scratch."""
    table = torch.randn(TABLE_ROWS, 96, generator=torch.Generator().manual_seed(2))
    ids = torch.randint(0, TABLE_ROWS, (count,), generator=torch.Generator().manual_seed(3))
    draft = Draft()
    ids_ = draft.value("ids", BufferKind.INPUT, "int64", count)
    table_ = draft.value("wte.weight", BufferKind.WEIGHT, "float32", TABLE_ROWS, 96)
    rows = draft.value("rows", BufferKind.ACTIVATION, "float32", count, 96)
    scratch = draft.value("pages", BufferKind.SCRATCH, "uint8", 4 * PAGE)
    y = draft.value("y", BufferKind.OUTPUT, "float32", count, 96)
    gather = Step(
        "wte",
        "net.wte",
        "gather",
        (("weight", Ref(table_)), ("indices", Ref(ids_))),
        (rows,),
        (scratch,),
        stored=(table_,),
    )
    nbytes = table.nbytes
    program = program_of(
        draft,
        [gather, step("copy", y, source=Ref(rows))],
        [ids_],
        [y],
        [Grain(1, 0, nbytes, 0)],
        file_nbytes=round_up(nbytes, PAGE),
        name="embedding",
    )
    plan = plan_of(program, {2: 4 * PAGE, 3: 0}, arena=4 * PAGE + count * 384)
    return Example(plan, {1: table}, (ids,), (table[ids],))


def counter() -> Example:
    """total += x, kept from run to run and begun from the file; a second state begins as zeros."""
    total = torch.tensor([1.0, 2.0, 3.0, 4.0])
    x = torch.tensor([1.0, 1.0, 1.0, 1.0])
    draft = Draft()
    x_ = draft.value("x", BufferKind.INPUT, "float32", 4)
    total_ = draft.value("total", BufferKind.STATE, "float32", 4)
    zeros = draft.value("zeros", BufferKind.STATE, "float32", 4)
    y = draft.value("y", BufferKind.OUTPUT, "float32", 4)
    steps = [
        step("add", total_, self=Ref(total_), other=Ref(x_)),
        step("sub", zeros, self=Ref(zeros), other=Ref(x_)),
        step("add", y, self=Ref(total_), other=Ref(zeros)),
    ]
    states = [State("total", 1, 0), State("zeros", 2, None)]
    program = program_of(draft, steps, [x_], [y], states=states, file_nbytes=PAGE, name="counter")
    plan = plan_of(program, {1: 0, 2: 64}, arena=128)
    return Example(plan, {1: total}, (x,), (total,))


def aliases() -> Example:
    """Outputs that are an input, a view of one, and two views of the same bytes."""
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    draft = Draft()
    x_ = draft.value("x", BufferKind.INPUT, "float32", 2, 3)
    y = draft.value("y", BufferKind.OUTPUT, "float32", 2, 3)
    row = draft.view("row", 0, "float32", (3,), (1,), offset=12)
    y_t = draft.view("y_t", 1, "float32", (3, 2), (1, 3))
    program = program_of(draft, [step("neg", y, self=Ref(x_))], [x_], [x_, row, y, y_t], name="aliases")
    return Example(plan_of(program, {}, arena=0), {}, (x,), (x, x[1], -x, -x.t()))


EXAMPLES = {"mlp": mlp, "embedding": embedding, "counter": counter, "aliases": aliases}


def bare_environment() -> dict[str, str]:
    """Environment of a Python that finds torch and numpy, and nothing of occ (`-S` reads no .pth file)."""
    site = str(Path(torch.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": site}


def run_program(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python path arguments` in a process that cannot import occ."""
    return subprocess.run(
        [sys.executable, "-S", str(path), *arguments],
        env=bare_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def save_inputs(example: Example, folder: Path) -> list[str]:
    """Write the example's inputs; the arguments that name them."""
    arguments = []
    for entry, tensor in zip(example.plan.program.inputs, example.inputs, strict=True):
        numpy.save(folder / f"{entry.name}.npy", tensor.numpy())
        arguments += ["--input", f"{entry.name}={folder / entry.name}.npy"]
    return arguments
