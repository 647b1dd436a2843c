"""Programs of which only steps, weights and live bytes matter, for tests of tiling and sizing."""

from __future__ import annotations

from collections.abc import Sequence

from occ.ir import (
    Buffer,
    BufferKind,
    Grain,
    Load,
    Program,
    Ref,
    SplitAxis,
    Step,
    StepCost,
    Tile,
    Value,
)
from occ.passes.liveness import Liveness, liveness
from occ.units import PAGE, round_up


def weight_program(
    weights: Sequence[int],
    steps: Sequence[Sequence[int | tuple[int, int, int]]],
    scratch: Sequence[int] = (),
    grain_nbytes: int = PAGE,
    packs: Sequence[Sequence[int]] = (),
    splits: dict[int, SplitAxis] | None = None,
) -> Program:
    """A program whose step i reads `steps[i]`: whole weights by index, or (weight, first byte, last byte);
    it also takes `scratch[i]` bytes.

    Weight w has `weights[w]` bytes, in grains of `grain_nbytes`, and begins at a page of the file, except
    that those of one entry of `packs` follow each other at multiples of 64.
    """
    buffers = [Buffer(w, f"w{w}", BufferKind.WEIGHT, nbytes) for w, nbytes in enumerate(weights)]
    grains: list[Grain] = []
    pack_of = {w: number for number, pack in enumerate(packs) for w in pack}
    position, pack = 0, -1
    for w, nbytes in enumerate(weights):
        joined = pack_of.get(w, -2) == pack
        position = round_up(position, 64 if joined else PAGE)
        pack = pack_of.get(w, -1)
        size = nbytes if w in pack_of else grain_nbytes
        for first in range(0, nbytes, size):
            grains.append(Grain(w, first, min(size, nbytes - first), position + first))
        position += nbytes
    values: list[Value] = []

    def value(buffer: int, first: int, last: int) -> int:
        name = f"{buffers[buffer].name}[{first}:{last}]"
        values.append(Value(len(values), name, buffer, first, "uint8", (last - first,), (1,)))
        return len(values) - 1

    nodes = []
    for i, reads in enumerate(steps):
        operands = []
        for number, read in enumerate(reads):
            w, first, last = read if isinstance(read, tuple) else (read, 0, weights[read])
            operands.append((f"w{number}", Ref(value(w, first, last))))
        written: tuple[int, ...] = ()
        if i < len(scratch) and scratch[i]:
            buffers.append(Buffer(len(buffers), f"s{i}", BufferKind.SCRATCH, scratch[i]))
            written = (value(len(buffers) - 1, 0, scratch[i]),)
        axes = (splits[i],) if splits and i in splits else ()
        nodes.append(Step(f"step{i}", "", "k", tuple(operands), (), scratch=written, splits=axes))
    return Program(
        name="weights",
        buffers=tuple(buffers),
        values=tuple(values),
        steps=tuple(nodes),
        inputs=(),
        outputs=(),
        states=(),
        grains=tuple(grains),
        input_tree={"tuple": []},
        output_tree={"tuple": []},
        weights_nbytes=sum(weights),
        file_nbytes=round_up(position, PAGE),
        activation_peak=0,
    )


def seconds(durations: Sequence[float]) -> tuple[StepCost, ...]:
    return tuple(StepCost(duration, 0) for duration in durations)


def taken(live: Liveness, tiles: Sequence[Tile], resident: Sequence[int], loads: Sequence[Load]) -> list[int]:
    """Bytes taken at every step of the steady state, counted naively."""
    steps = len(live.live_nbytes)
    found = [nbytes + sum(tiles[t].nbytes for t in resident) for nbytes in live.live_nbytes]
    for load in loads:
        first = load.issue - steps if load.wraps else load.issue
        for step in range(first, load.last_use + 1):
            found[step % steps] += tiles[load.tile].nbytes
    return found


__all__ = ["liveness", "seconds", "taken", "weight_program"]
