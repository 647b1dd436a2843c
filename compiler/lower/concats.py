"""Concatenations that loops read: each loop is cut where the parts meet and reads the parts themselves.

    cat((-x[..., n:], x[..., :n]), -1) * s + x * c

of a rotary embedding becomes one loop over half of the last dimension, with two results, and the
concatenation is never in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from occ.codegen.loops.merge import side_by_side
from occ.errors import InternalError
from occ.ir import BufferKind
from occ.lower.combining import MOST_TENSORS, DistinctTensors, LoopStep, loop_draft, loop_step, seen_as
from occ.lower.draft import Draft, StepDraft, Traced
from occ.lower.frames import part_frame


def read_parts(draft: Draft) -> None:
    """Let loops read the parts of concatenations, where all that read one are loops that can."""
    readers: dict[int, dict[int, None]] = {}
    for position, step in enumerate(draft.steps):
        for operand in step.operands():
            readers.setdefault(operand.buffer, {})[position] = None
    steps: list[StepDraft | None] = list(draft.steps)
    for position, step in enumerate(draft.steps):
        if step.kernel not in ("cat", "concatenate"):
            continue
        joined = _joined(draft, step)
        if joined is None:
            continue
        cuts = {
            reader: _cut(joined, loop_step(steps[reader])) for reader in readers.get(joined.out.buffer, ())
        }
        if cuts and None not in cuts.values():
            steps[position] = None
            for reader, cut in cuts.items():
                steps[reader] = cut
    draft.steps[:] = [step for step in steps if step is not None]


@dataclass(frozen=True, slots=True)
class _Joined:
    """A concatenation of parts of one size along `dim`."""

    out: Traced
    parts: tuple[Traced, ...]
    dim: int


def _joined(draft: Draft, step: StepDraft) -> _Joined | None:
    out, parts = step.outs[0], tuple(step.args["tensors"])
    buffer = draft.buffers[out.buffer]
    whole = buffer.kind is BufferKind.ACTIVATION and out.is_whole(buffer)
    alike = len({part.meta.shape for part in parts}) == 1 and {p.meta.dtype for p in parts} == {
        out.meta.dtype
    }
    return _Joined(out, parts, step.args["dim"]) if whole and alike and len(parts) > 1 else None


def _cut(joined: _Joined, reader: LoopStep | None) -> StepDraft | None:
    """The loop as one that computes all parts at once, with the results of each; None where it cannot."""
    if reader is None:
        return None
    numbers = reader.reading(joined.out.buffer)
    frames = {part_frame(joined.out.meta, reader.operands[number].meta, reader.region) for number in numbers}
    [frame, *others] = frames
    if frame is None or others or frame.starts:
        return None
    along = [digit for digit in frame.digits if digit.first is not None and digit.first[0] == joined.dim]
    if len(along) != 1 or along[0] in frame.row or along[0].size != joined.out.meta.shape[joined.dim]:
        return None
    extent = joined.parts[0].meta.shape[joined.dim]
    place = frame.outer.index(along[0])
    tensors = DistinctTensors()
    outs: list[Traced] = []
    lists: list[list[int]] = []
    for number, part in enumerate(joined.parts):
        first, extent = number * part.meta.shape[joined.dim], part.meta.shape[joined.dim]
        narrow = replace(
            frame, outer=tuple(replace(d, size=extent) if d == along[0] else d for d in frame.outer)
        )
        lists.append(
            [
                tensors.number(part, narrow.of_first(part.meta))
                if index in numbers
                else tensors.number(operand, _slice(frame.of_second(operand.meta), place, first, extent))
                for index, operand in enumerate(reader.operands)
            ]
        )
        outs += [seen_as(out, _slice(frame.of_second(out.meta), place, first, extent)) for out in reader.outs]
    if len(tensors.found) + len(outs) > MOST_TENSORS:
        return None
    loop = side_by_side(reader.loop, lists, len(frame.row))
    made = loop_draft(reader.step, loop, tensors.seen, outs)
    try:
        return made if LoopStep(made, loop, tuple(tensors.seen)).bound else None
    except InternalError:
        return None


def _slice(meta: torch.Tensor, dim: int, first: int, extent: int) -> torch.Tensor:
    """Indices [first, first + extent) along a dimension; all of it where the tensor repeats there."""
    return meta if meta.shape[dim] == 1 else meta.narrow(dim, first, extent)
