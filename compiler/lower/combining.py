"""One loop of two: what a fused step is, wherever it stands (`fusion` says where it may)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from occ.codegen.loops.bound import BoundLoop, bind
from occ.codegen.loops.ir import Loop, parse
from occ.codegen.loops.merge import merged
from occ.codegen.loops.space import full_shape
from occ.errors import InternalError
from occ.lower.draft import StepDraft, Traced, same_layout
from occ.lower.frames import Frame, Region, common_frame, part_frame, simplest

MOST_TENSORS = 12
"""Operands and results of one loop: more pointers than registers make it slower, not faster."""


@dataclass(frozen=True, slots=True)
class LoopStep:
    """A step that is a loop, with what it is made of; all its tensors have the same rank."""

    step: StepDraft
    loop: Loop
    operands: tuple[Traced, ...]

    @property
    def outs(self) -> Sequence[Traced]:
        return self.step.outs

    @property
    def region(self) -> Region:
        return Region(full_shape([t.spec for t in (*self.operands, *self.outs)]), self.loop.row)

    @property
    def bound(self) -> BoundLoop:
        return bind(self.loop, [t.spec for t in self.operands], [t.spec for t in self.outs])

    def reading(self, buffer: int) -> list[int]:
        """The numbers of the operands that show a buffer."""
        return [number for number, operand in enumerate(self.operands) if operand.buffer == buffer]


def loop_step(step: StepDraft | None) -> LoopStep | None:
    """A step as a loop, None for another kind of step."""
    if step is None or step.kernel != "loop":
        return None
    operands = tuple(arg for arg in step.args.values() if isinstance(arg, Traced))
    ranks = {tensor.meta.dim() for tensor in (*operands, *step.outs)}
    return LoopStep(step, parse(step.args["body"], step.args["row"]), operands) if len(ranks) == 1 else None


def loop_draft(like: StepDraft, loop: Loop, operands: Sequence[Traced], outs: Sequence[Traced]) -> StepDraft:
    """The step that runs a loop, named after another."""
    args: dict[str, Any] = {f"x{number}": operand for number, operand in enumerate(operands)}
    return StepDraft(like.name, like.module, "loop", {**args, "body": loop.text, "row": loop.row}, list(outs))


def together(one: LoopStep, other: LoopStep, kept: frozenset[int]) -> StepDraft | None:
    """One step that does what two do, the second of which reads results of the first; those in `kept` stay
    results. None where there is none, or it would do more work than the two."""
    links = {
        number: result
        for number, operand in enumerate(other.operands)
        for result, out in enumerate(one.outs)
        if operand.buffer == out.buffer
    }
    # A result of whole rows tells more than a number for each row does.
    [(operand, result), *_] = sorted(links.items(), key=lambda link: -one.outs[link[1]].meta.numel())
    written, read = one.outs[result].meta, other.operands[operand].meta
    frame = common_frame(written, one.region, read, other.region)
    if frame is None or not all(
        _same_view(frame.of_first(one.outs[result].meta), frame.of_second(other.operands[operand].meta))
        for operand, result in links.items()
    ):
        return None
    made = _combined(one, other, frame, links, kept)
    if made is None or made.bound.work > one.bound.work + other.bound.work:
        return None
    return made.step


def computing_itself(one: LoopStep, other: LoopStep) -> LoopStep | None:
    """The second step without the operands that show the first's only result: it computes what it needs of
    it. The first has no rows. None where views do not allow that."""
    [out] = one.outs
    current = other
    while numbers := current.reading(out.buffer):
        frame = part_frame(out.meta, current.operands[numbers[0]].meta, current.region)
        if frame is None:
            return None
        made = _combined(one, current, frame, {numbers[0]: 0}, frozenset())
        if made is None:
            return None
        current = made
    return current


def _combined(
    one: LoopStep, other: LoopStep, frame: Frame, links: dict[int, int], kept: frozenset[int]
) -> LoopStep | None:
    tensors = DistinctTensors()
    numbers = [tensors.number(operand, frame.of_first(operand.meta)) for operand in one.operands]
    others = [
        None if number in links else tensors.number(operand, frame.of_second(operand.meta))
        for number, operand in enumerate(other.operands)
    ]
    outs = [(one.outs[result], frame.of_first(one.outs[result].meta)) for result in sorted(kept)]
    outs += [(out, frame.of_second(out.meta)) for out in other.outs]
    if len(tensors.found) + len(outs) > MOST_TENSORS:
        return None
    metas, row = simplest([*tensors.metas, *(meta for _, meta in outs)], len(frame.row))
    if (row == 0) != (one.loop.row == other.loop.row == 0):
        return None
    count = len(tensors.found)
    operands = [seen_as(t, meta) for t, meta in zip(tensors.found, metas[:count], strict=True)]
    results = [seen_as(t, meta) for (t, _), meta in zip(outs, metas[count:], strict=True)]
    loop = merged(one.loop, other.loop, operands=(numbers, others), links=links, kept=kept, row=row)
    made = LoopStep(loop_draft(other.step, loop, operands, results), loop, tuple(operands))
    try:
        _ = made.bound
    except InternalError:
        return None
    return made


@dataclass
class DistinctTensors:
    """The distinct operands of a fused loop, as views with its dimensions."""

    found: list[Traced] = field(default_factory=list)
    metas: list[torch.Tensor] = field(default_factory=list)

    def number(self, tensor: Traced, meta: torch.Tensor) -> int:
        """The operand's number; an equal one has it already."""
        for index, (known, view) in enumerate(zip(self.found, self.metas, strict=True)):
            if known.buffer == tensor.buffer and view.dtype == meta.dtype and _same_view(view, meta):
                return index
        self.found.append(tensor)
        self.metas.append(meta)
        return len(self.found) - 1

    @property
    def seen(self) -> list[Traced]:
        """The operands in order."""
        return [seen_as(tensor, meta) for tensor, meta in zip(self.found, self.metas, strict=True)]


def _same_view(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(
        one.shape == other.shape
        and same_layout(one, other.stride())
        and one.storage_offset() == other.storage_offset()
    )


def seen_as(tensor: Traced, meta: torch.Tensor) -> Traced:
    """Another view of a tensor's buffer."""
    return Traced(tensor.name, tensor.buffer, meta)
