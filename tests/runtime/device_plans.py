"""Hand-made plans for a device with streams: those of tests.tiny_plans, and chains of layers of any size."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from occ.codegen.bundle import write_artifact
from occ.ir import BufferKind, Grain, Load, Machine, Ref
from occ.units import PAGE, round_up
from tests.tiny_plans import Draft, Example, plan_of, program_of, step

RING = 256 << 10


def on_cuda(
    example: Example, stream_from: str = "ssd", ring_nbytes: int = RING, graphs: bool = False
) -> Example:
    """The same plan for a CUDA device."""
    machine = Machine(
        "cuda",
        1,
        "default",
        torch.__version__,
        "any",
        "0" * 64,
        capability="9.0",
        stream_from=stream_from,
        ring_nbytes=ring_nbytes,
        graphs=graphs,
    )
    return replace(example, plan=replace(example.plan, machine=machine))


def write(example: Example, folder: Path) -> str:
    path = folder / "model.occ"
    write_artifact(path, example.plan, example.plan.program, example.weight_bytes)
    return str(path)


def chain(seed: int, layers: int = 6, slots: int = 2) -> Example:
    """y = tanh(x @ w0 @ w1 ...): every weight a tile, some of them resident, the others read at every run
    into `slots` places of the arena by turns, at any step from where the place is free to where the weight is
    used; some wrap into the run before."""
    random = Random(seed)
    generator = torch.Generator().manual_seed(seed)
    widths = [random.randrange(1, 9) * 16 for _ in range(layers + 1)]
    weights = [torch.randn(a, b, generator=generator) / a**0.5 for a, b in pairwise(widths)]
    x = torch.randn(3, widths[0], generator=generator)
    draft = Draft()
    x_ = draft.value("x", BufferKind.INPUT, "float32", 3, widths[0])
    ids = [
        draft.value(f"w{index}", BufferKind.WEIGHT, "float32", *weight.shape)
        for index, weight in enumerate(weights)
    ]
    hidden = [
        draft.value(f"h{index}", BufferKind.ACTIVATION, "float32", 3, w) for index, w in enumerate(widths[1:])
    ]
    y = draft.value("y", BufferKind.OUTPUT, "float32", 3, widths[-1])
    steps = []
    last = x_
    for weight, out in zip(ids, hidden, strict=True):
        steps.append(step("mm", out, self=Ref(last), mat2=Ref(weight)))
        last = out
    steps.append(step("tanh", y, self=Ref(last)))

    grains, file_nbytes = [], 0
    for index, weight in zip(ids, weights, strict=True):
        grains.append(Grain(index, 0, weight.nbytes, file_nbytes))
        file_nbytes += round_up(weight.nbytes, PAGE)
    program = program_of(draft, steps, [x_], [y], grains, file_nbytes=file_nbytes, name="chain")

    resident = [index for index in range(layers) if random.random() < 0.3]
    streamed = [index for index in range(layers) if index not in resident]
    offsets = [0] * layers
    end = 0
    place_nbytes = max(round_up(weights[index].nbytes, PAGE) for index in range(layers))
    last_user: dict[int, int] = {}
    users: dict[int, list[int]] = {}
    for turn, index in enumerate(streamed):
        offsets[index] = turn % slots * place_nbytes
        users.setdefault(turn % slots, []).append(index)
    end = slots * place_nbytes
    loads = []
    for mine in users.values():
        for index in mine:
            before = last_user.get(offsets[index])
            last_user[offsets[index]] = index
            if before is not None:
                loads.append(Load(index, random.randint(before + 1, index), index, index))
            elif random.random() < 0.7 and mine[-1] < layers:
                issue = random.randint(mine[-1] + 1, layers)
                loads.append(Load(index, issue, index, index, wraps=True))
            else:
                loads.append(Load(index, random.randint(0, index), index, index))
    loads.sort(key=lambda load: (load.issue, load.wraps, load.deadline))
    for index in resident:
        offsets[index] = end
        end += round_up(weights[index].nbytes, PAGE)
    buffers: dict[int, int] = {}
    for value in hidden:
        buffers[draft.values[value].buffer] = end
        end += round_up(draft.buffers[draft.values[value].buffer].nbytes, 64)
    plan = plan_of(
        program,
        buffers,
        arena=end,
        cuts=[(index, index + 1) for index in range(layers)],
        tile_offsets=offsets,
        resident=resident,
        loads=loads,
    )
    return Example(plan, dict(zip(ids, weights, strict=True)), (x,), (_chained(x, weights),))


def _chained(x: Tensor, weights: list[Tensor]) -> Tensor:
    for weight in weights:
        x = x @ weight
    return torch.tanh(x)
