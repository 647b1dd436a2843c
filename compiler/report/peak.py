"""Why the arena is as large as it is, and what would make it smaller, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from occ.ir import Plan, Program
from occ.passes.liveness import Liveness, liveness
from occ.passes.sizing import SmallestPool, explain_peak, smallest_pool
from occ.passes.splitting import weight_axes
from occ.report.spans import ArenaPicture, Occupancy, Span, SpanKind
from occ.rewrite import origins
from occ.units import format_bytes

NAMED = 4
"""Tensors that a sentence names; the rest are counted."""

OUTSIDE_SHARE = 10
"""What lies outside the arena is worth a word where it is one part in so many of the whole."""

FULL = 0.98
"""Share of the fullest step from which another counts as as full."""


@dataclass(frozen=True, slots=True)
class PeakStory:
    """`step` is the first at which most bytes are in use, `floor_step` the one whose own needs are largest;
    `why` and `levers` are sentences, in order of weight."""

    step: int
    floor_step: int
    why: tuple[str, ...]
    levers: tuple[str, ...]


def peak_story(plan: Plan, source: Program, picture: ArenaPicture) -> PeakStory | None:
    """What fills the arena at its fullest step; None for a program without steps.

    `source` is the unsplit program that the plan was made from.
    """
    if not plan.program.steps:
        return None
    occupancy = picture.occupancy()
    step = max(range(picture.steps), key=occupancy.total.__getitem__)
    live = liveness(plan.program)
    floor = smallest_pool(plan.program, live)
    return PeakStory(
        step,
        floor.step,
        tuple(_why(plan, picture, occupancy, live, floor, step)),
        tuple(_levers(plan, source, occupancy, floor, step)),
    )


def step_label(program: Program, index: int) -> str:
    """`step 12, addmm_3 in encoder.layer.1`."""
    step = program.steps[index]
    return f"step {index}, {step.name}" + (f" in {step.module}" if step.module else "")


def _why(
    plan: Plan, picture: ArenaPicture, occupancy: Occupancy, live: Liveness, floor: SmallestPool, step: int
) -> Iterator[str]:
    program, placement = plan.program, plan.placement
    parts = sorted(((occupancy.held[kind][step], noun) for kind, noun in _NOUNS.items()), reverse=True)
    parts.append((occupancy.loading[step], "weights on their way"))
    held = ", ".join(f"{format_bytes(nbytes)} of {noun}" for nbytes, noun in parts if nbytes)
    full = sum(total >= FULL * occupancy.total[step] for total in occupancy.total)
    yield (
        f"Most bytes are in use at {step_label(program, step)}: {format_bytes(occupancy.total[step])}"
        f" = {held or 'nothing'}."
        + (f" {full} of {picture.steps} steps come within 2 % of it." if full > 1 else "")
    )
    if plan.sizing.loads:
        yield (
            "It is full on purpose: bytes to spare hold weights that later steps need, so that their loads"
            " hide behind computing."
        )
    tensors = explain_peak(program, live, floor.step)
    named = ", ".join(f"{tensor.name} ({format_bytes(tensor.nbytes)})" for tensor in tensors[:NAMED])
    rest = f" and {len(tensors) - NAMED} more" if len(tensors) > NAMED else ""
    yield (
        f"The step that needs most by itself is {step_label(program, floor.step)}:"
        f" {format_bytes(floor.nbytes)}, which is {named}{rest}. No arena for these"
        " steps can be smaller than that."
    )
    idle = _idle(program, picture, floor.step)
    if idle is not None:
        owner = picture.owners[idle.owner]
        yield (
            f"Of that, {owner.name} ({format_bytes(idle.nbytes)}) is not touched by the step: it is kept from"
            f" step {idle.first} to {idle.last - 1} for a later reader, such as a skip connection."
        )
    if placement.height > placement.bound:
        gap = placement.height - placement.bound
        yield (
            f"Fragmentation adds {format_bytes(gap)} ({100 * gap / max(placement.bound, 1):.2f} %): gaps"
            " that no buffer fits."
        )


_NOUNS = {
    SpanKind.RESIDENT: "resident weights",
    SpanKind.STREAMED: "streamed weights",
    SpanKind.ACTIVATION: "activations",
    SpanKind.STATE: "state",
    SpanKind.SCRATCH: "scratch",
}


def _levers(
    plan: Plan, source: Program, occupancy: Occupancy, floor: SmallestPool, step: int
) -> Iterator[str]:
    resident = occupancy.held[SpanKind.RESIDENT][step]
    if plan.sizing.loads:
        yield (
            f"A smaller budget: these steps fit an arena of about {format_bytes(floor.nbytes)}, with fewer"
            " residents, loads that are issued later, and steps that wait for them."
        )
    elif resident:
        yield (
            f"A budget: with --budget, weights are loaded while computing goes on, so that not all"
            f" {format_bytes(resident)} of them stay. These steps fit an arena of about"
            f" {format_bytes(floor.nbytes)}."
        )
    index = origins(source, plan.choices)[floor.step]
    origin = source.steps[index]
    if 2 * floor.weights_nbytes >= floor.nbytes:
        cuts = {split: (axis, parts) for split, axis, parts in plan.choices.splits}
        now = "It is whole now"
        if index in cuts:
            now = f"It is cut into {cuts[index][1]} parts along {cuts[index][0]}"
        yield (
            f"Finer parts of {origin.name}: its weights are {format_bytes(floor.weights_nbytes)} of the"
            f" {format_bytes(floor.nbytes)} that step {floor.step} needs. {now}"
            + (
                "; a smaller budget cuts it finer."
                if weight_axes(source, origin)
                else ", and its kernel offers no cut."
            )
        )
    else:
        yield (
            f"A smaller input: {format_bytes(floor.nbytes - floor.weights_nbytes)} of the"
            f" {format_bytes(floor.nbytes)} that step {floor.step} needs are activations, state and scratch,"
            " which shrink with the batch, the sequence or the image."
        )
    outside = plan.budget.total - plan.budget.arena
    if OUTSIDE_SHARE * outside >= plan.budget.total:
        yield (
            f"Beside the arena, {format_bytes(outside)} of the {format_bytes(plan.budget.total)} in all are"
            f" outputs ({format_bytes(plan.budget.outputs)}), workspace and what the loader holds; smaller"
            " outputs take less."
        )
    if not plan.placement.optimal and plan.placement.height > plan.placement.bound:
        yield (
            f"A better placement: the bound is {format_bytes(plan.placement.bound)}, and nothing proves that"
            " these live ranges need more."
        )


def _idle(program: Program, picture: ArenaPicture, step: int) -> Span | None:
    """The largest activation that is live at `step` and that the step does not touch."""
    called = program.steps[step]
    touched = {program.buffers[program.values[value].buffer].name for value in called.reads + called.writes}
    idle = (
        span
        for span in picture.spans
        if span.first <= step < span.last
        and picture.owners[span.owner].kind is SpanKind.ACTIVATION
        and picture.owners[span.owner].name not in touched
    )
    return max(idle, key=lambda span: (span.nbytes, -span.first), default=None)
