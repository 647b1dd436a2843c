"""A whole program as the measuring process runs it: every step in its place, between its neighbours.

A kernel by itself finds its operands in the caches; in a program it finds what the steps before it left
there. So steps are timed in a run of the program: weights come from memory that no cache holds, as streamed
ones do, unless they are resident: then they stay where they are, and a small network finds them in the caches
in every run. Everything else lies in one arena whose bytes are used again as soon as they are free.

A network repeats its layers, and drafts of it differ in a few kinds of steps. So not the whole program is
run: some steps of each case that is asked for, spread over the program, each behind those that come before.
Only with resident weights all are run: what the caches hold of those depends on how many there are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from occ.codegen.steps import step_text
from occ.ir import BufferKind, Program, Value
from occ.units import ALIGNMENT, round_up

SAMPLES = 5
"""Steps of each case that are run."""

LEAD = 2
"""Steps that are run before each of them, so that the caches hold what they do in a whole run."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where buffers lie during the run: `offsets` (bytes, by buffer) in memory of `nbytes` bytes."""

    offsets: Mapping[int, int]
    nbytes: int


def sequence_request(
    program: Program, cases: Sequence[int | None], wanted: Collection[int], resident: bool = False
) -> dict[str, Any]:
    """What `occ.sequence_child` takes as JSON to time steps of the `wanted` cases where they stand in
    `program`, with weights that are `resident` or not; `cases` has the number of every step's case, None for
    a step that is not run (a gather)."""
    layout = reused_layout(program)
    every = (index for index, case in enumerate(cases) if case is not None)
    chosen = [(cases[i], program.steps[i]) for i in (every if resident else sampled(cases, wanted))]
    used = sorted({id for _, step in chosen for id in (*step.reads, *step.writes)})
    return {
        "resident": resident,
        "nbytes": layout.nbytes,
        "offsets": [[buffer, offset] for buffer, offset in layout.offsets.items()],
        "weights": [
            [buffer.id, buffer.nbytes] for buffer in program.buffers if buffer.kind is BufferKind.WEIGHT
        ],
        "values": [[id, *_facts(program.values[id])] for id in used],
        "steps": [
            [case, step_text(program.values, step, _name), [*step.reads, *step.writes]]
            for case, step in chosen
        ],
    }


def sampled(cases: Sequence[int | None], wanted: Collection[int]) -> list[int]:
    """Which steps are run, in order: SAMPLES of each wanted case, the first and the last among them, and LEAD
    before each."""
    runnable = [(index, case) for index, case in enumerate(cases) if case is not None]
    places: dict[int, list[int]] = {}
    for place, (_, case) in enumerate(runnable):
        if case in wanted:
            places.setdefault(case, []).append(place)
    chosen: set[int] = set()
    for found in places.values():
        count = min(SAMPLES, len(found))
        for number in range(count):
            place = found[number * (len(found) - 1) // max(count - 1, 1)]
            chosen.update(range(max(0, place - LEAD), place + 1))
    return [runnable[place][0] for place in sorted(chosen)]


def reused_layout(program: Program) -> Layout:
    """Offsets of all buffers but weights that steps touch.

    An activation takes the bytes that one of its size left last, as from a caching allocator; what is there
    before a run or after it has bytes of its own.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        for value in (*step.reads, *step.writes):
            buffer = program.values[value].buffer
            first.setdefault(buffer, index)
            last[buffer] = index
    offsets: dict[int, int] = {}
    free: dict[int, list[int]] = {}
    leaving: dict[int, list[int]] = {}
    end, now = 0, 0
    for id, begin in first.items():
        kind = program.buffers[id].kind
        if kind is BufferKind.WEIGHT:
            continue
        for index in range(now, begin):
            for left in leaving.get(index, ()):
                free.setdefault(_taken(program, left), []).append(offsets[left])
        now = begin
        nbytes = _taken(program, id)
        passing = kind in (BufferKind.ACTIVATION, BufferKind.SCRATCH)
        if passing and free.get(nbytes):
            offsets[id] = free[nbytes].pop()
        else:
            offsets[id] = end
            end += nbytes
        if passing:
            leaving.setdefault(last[id], []).append(id)
    return Layout(offsets, end)


def _taken(program: Program, buffer: int) -> int:
    return round_up(program.buffers[buffer].nbytes, ALIGNMENT)


def _facts(value: Value) -> list[object]:
    packing = value.packing and [value.packing.dtype, value.packing.shape, value.packing.layout]
    return [value.buffer, value.offset, value.dtype, value.shape, value.strides, packing]


def _name(value: int) -> str:
    return f"v{value}"
