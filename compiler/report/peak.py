"""Why the arena is as large as it is, and what would make it smaller, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from occ.ir import Plan, Program
from occ.passes.liveness import Liveness, liveness
from occ.passes.sizing import explain_peak, smallest_pool
from occ.passes.splitting import origins
from occ.report.spans import ArenaPicture, Occupancy, SpanKind
from occ.units import format_bytes

NAMED = 4
"""Tensors that a sentence names; the rest are counted."""

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
        tuple(_why(plan, picture, occupancy, live, step)),
        tuple(_levers(plan, source, occupancy, live, step)),
    )


def step_label(program: Program, index: int) -> str:
    """`step 12, addmm_3 in encoder.layer.1`."""
    step = program.steps[index]
    return f"step {index}, {step.name}" + (f" in {step.module}" if step.module else "")


def _why(plan: Plan, picture: ArenaPicture, occupancy: Occupancy, live: Liveness, step: int) -> Iterator[str]:
    program = plan.program
    parts = sorted(
        ((occupancy.held[kind][step], noun) for kind, noun in _NOUNS.items()),
        reverse=True,
    )
    parts.append((occupancy.loading[step], "weights on their way, not usable yet"))
    held = ", ".join(f"{format_bytes(nbytes)} of {noun}" for nbytes, noun in parts if nbytes)
    full = sum(total >= FULL * occupancy.total[step] for total in occupancy.total)
    yield (
        f"Most bytes are in use at {step_label(program, step)}: {format_bytes(occupancy.total[step])}, which"
        f" is {held or 'nothing'}."
        + (f" {full} of {picture.steps} steps come within 2 % of it." if full > 1 else "")
    )
    if plan.sizing.loads:
        room = _room(plan)
        filled = "" if room is None else f" The budget leaves the arena {format_bytes(room)}."
        yield (
            "It is full on purpose: spare bytes hold weights that later steps need, so that their loads hide"
            f" behind computing.{filled}"
        )
    floor = smallest_pool(program, live)
    tensors = explain_peak(program, live, floor.step)
    named = ", ".join(f"{tensor.name} ({format_bytes(tensor.nbytes)})" for tensor in tensors[:NAMED])
    rest = f" and {len(tensors) - NAMED} more" if len(tensors) > NAMED else ""
    yield (
        f"What no arena for these steps can go below is {format_bytes(floor.nbytes)}, at"
        f" {step_label(program, floor.step)}: {named}{rest}."
    )
    if idle := _idle(plan, picture, floor.step):
        name, nbytes, first, last = idle
        yield (
            f"Of what is live there, {name} ({format_bytes(nbytes)}) is held without being touched: steps"
            f" {first} to {last - 1} keep it, as a skip connection or a later reader needs it."
        )
    fragmented = plan.placement.height - plan.placement.bound
    if fragmented > 0:
        yield (
            f"Placement adds {format_bytes(fragmented)}"
            f" ({100 * fragmented / max(plan.placement.bound, 1):.2f} %) between the bytes in use"
            " and the end of the arena: gaps that no buffer fits."
        )


_NOUNS = {
    SpanKind.RESIDENT: "resident weights",
    SpanKind.STREAMED: "streamed weights, loaded",
    SpanKind.ACTIVATION: "activations",
    SpanKind.STATE: "state",
    SpanKind.SCRATCH: "scratch",
}


def _levers(plan: Plan, source: Program, occupancy: Occupancy, live: Liveness, step: int) -> Iterator[str]:
    program = plan.program
    floor = smallest_pool(program, live)
    if not plan.sizing.loads and occupancy.held[SpanKind.RESIDENT][step]:
        yield (
            f"A budget: with --budget, weights are loaded while computing goes on, and"
            f" {format_bytes(occupancy.held[SpanKind.RESIDENT][step])} of them need not stay. With these"
            f" steps the arena can shrink towards {format_bytes(floor.nbytes)}."
        )
    elif plan.sizing.loads:
        yield (
            f"A smaller budget: down to about {format_bytes(floor.nbytes)} of arena, loads are issued later"
            " and steps wait for them, but the program stays the same."
        )
    origin = source.steps[origins(source, program.steps, plan.choices)[floor.step]]
    parts = {index: (axis, count) for index, axis, count in plan.choices.splits}
    index = origins(source, program.steps, plan.choices)[floor.step]
    if floor.weights_nbytes * 2 >= floor.nbytes:
        if index in parts:
            axis, count = parts[index]
            now = f"It is cut into {count} parts along {axis}"
        else:
            now = "It is not cut now"
        yield (
            f"Finer parts of {origin.name}: its weights are {format_bytes(floor.weights_nbytes)} of that"
            f" step's need. {now}"
            + ("; a smaller budget cuts it finer." if origin.splits else ", and its kernel offers no cut.")
        )
    else:
        activations = floor.nbytes - floor.weights_nbytes
        yield (
            f"A smaller input: {format_bytes(activations)} of that step's need are activations and scratch,"
            " which shrink with the batch, the sequence or the image, and not with the budget."
        )
    if not plan.placement.optimal and plan.placement.height > plan.placement.bound:
        yield (
            f"A better placement: the bound is {format_bytes(plan.placement.bound)} and this one is not"
            " proven least."
        )


def _room(plan: Plan) -> int | None:
    """Bytes that the budget leaves the arena."""
    budget = plan.budget
    if budget.limit is None:
        return None
    return budget.limit - (budget.total - budget.arena)


def _idle(plan: Plan, picture: ArenaPicture, step: int) -> tuple[str, int, int, int] | None:
    """(name, bytes, first step, step after the last) of the largest activation that is live at `step` and
    that the step does not touch."""
    program = plan.program
    called = program.steps[step]
    touched = {program.buffers[program.values[value].buffer].name for value in called.reads + called.writes}
    idle = [
        (span.nbytes, picture.owners[span.owner].name, span.first, span.last)
        for span in picture.spans
        if span.first <= step < span.last
        and picture.owners[span.owner].kind is SpanKind.ACTIVATION
        and picture.owners[span.owner].name not in touched
    ]
    if not idle:
        return None
    nbytes, name, first, last = max(idle)
    return name, nbytes, first, last
