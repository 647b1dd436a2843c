"""A plan explained in sentences: what the peak is, what bounds the latency, what more memory would give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from occ.goals import Planner
from occ.ir import BufferKind, Plan, Program
from occ.passes.liveness import liveness
from occ.passes.sizing import explain_peak, smallest_pool
from occ.passes.splitting import finer, weight_axes
from occ.passes.timing import predicted_timeline
from occ.report.peak import peak_story, step_label
from occ.report.spans import picture, weight_extents
from occ.report.text import proof
from occ.rewrite import origins
from occ.units import PAGE, format_bytes, format_seconds, round_up

MORE_SHARE = 0.10
MORE_NBYTES = 50_000_000
"""What is tried as more memory: a share of the budget, and so many bytes."""

NAMED = 3
"""Tensors, modules or steps that a sentence names; the rest are counted."""

LITTLE = 0.01
"""Share of the latency below which waiting is not worth a word."""

NOTICED = 0.001
"""Share of the latency from which a single wait counts."""

NEARLY = 0.95
"""Share of the latency from which reading alone explains it."""


class Bound(str, Enum):
    """What keeps a plan from being faster."""

    COMPUTING = "computing"
    READING = "reading"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds that a step waits for its weights, in every run."""

    step: int
    name: str
    module: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Group:
    """Weights of modules whose names differ only in numbers (`*`): bytes of them, and those streamed."""

    modules: str
    nbytes: int
    streamed_nbytes: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Another budget in bytes and its predicted latency in seconds."""

    budget: int
    latency: float


@dataclass(frozen=True, slots=True)
class Advice:
    """Everything that the sentences say, as numbers, and the sentences under their titles.

    Bytes and seconds. `limit` is the budget that is explained, None without one. Where it is not `feasible`,
    the numbers are those of the plan at the smallest budget.
    """

    model: str
    limit: int | None
    smallest: int
    feasible: bool
    latency: float
    compute: float
    reading: float
    bound: Bound
    waits: tuple[Wait, ...]
    groups: tuple[Group, ...]
    offers: tuple[Offer, ...]
    proven: bool
    sections: tuple[tuple[str, tuple[str, ...]], ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON data; `sections` by title."""
        return {**asdict(self), "bound": self.bound.value, "sections": dict(self.sections)}

    def text(self) -> str:
        """What `occ explain` prints."""
        return "\n\n".join(
            "\n".join([title.upper(), *(f"  {sentence}" for sentence in sentences)])
            for title, sentences in self.sections
        )


def advise(plan: Plan, source: Program, planner: Planner) -> Advice:
    """Explain a plan. `source` is the unsplit program it was made from; `planner` plans the same program for
    other budgets."""
    waits, groups = _waits(plan), _groups(plan)
    offers = _offers(plan, planner)
    reading = _reading(plan)
    bound = _bound(plan, reading)
    story = peak_story(plan, source, picture(plan))
    sections = [
        ("memory", (_claim(plan), *(story.why if story else ()))),
        ("latency", tuple(_latency_sentences(plan, waits, reading, bound))),
        ("weights", tuple(_weight_sentences(plan, waits, groups))),
        ("more or less memory", tuple(_offer_sentences(plan, planner, offers))),
        ("placement", (_placement_sentence(plan),)),
    ]
    return Advice(
        model=source.name,
        limit=plan.budget.limit,
        smallest=planner.smallest.budget.total,
        feasible=True,
        latency=plan.prediction.latency,
        compute=plan.prediction.compute,
        reading=reading,
        bound=bound,
        waits=waits,
        groups=groups,
        offers=offers,
        proven=plan.placement.optimal,
        sections=tuple((title, sentences) for title, sentences in sections if sentences),
    )


def advise_below(limit: int, source: Program, planner: Planner) -> Advice:
    """Explain why a budget of `limit` bytes is too small, by the plan at the smallest that works."""
    smallest = planner.smallest
    reading = _reading(smallest)
    sections = (
        ("too small", tuple(_missing(smallest, limit))),
        ("what would help", tuple(_remedies(smallest, source))),
    )
    return Advice(
        model=source.name,
        limit=limit,
        smallest=smallest.budget.total,
        feasible=False,
        latency=smallest.prediction.latency,
        compute=smallest.prediction.compute,
        reading=reading,
        bound=_bound(smallest, reading),
        waits=(),
        groups=_groups(smallest),
        offers=(Offer(smallest.budget.total, smallest.prediction.latency),),
        proven=smallest.placement.optimal,
        sections=sections,
    )


def _claim(plan: Plan) -> str:
    budget = plan.budget
    given = "There is no limit" if budget.limit is None else f"The budget is {format_bytes(budget.limit)}"
    return (
        f"{given}; {plan.program.name} takes {format_bytes(budget.total)}: an arena of"
        f" {format_bytes(budget.arena)}, outputs {format_bytes(budget.outputs)}, loader"
        f" {format_bytes(budget.loader)}, workspace {format_bytes(budget.workspace)}."
    )


def _latency_sentences(plan: Plan, waits: tuple[Wait, ...], reading: float, bound: Bound) -> Iterator[str]:
    prediction = plan.prediction
    latency, compute = format_seconds(prediction.latency), format_seconds(prediction.compute)
    if not plan.sizing.loads:
        yield f"A run is predicted to take {latency}, all of it computing: nothing is read."
        return
    streamed = f"{format_bytes(prediction.streamed_nbytes)} in {len(plan.sizing.loads)} loads"
    yield (
        f"A run is predicted to take {latency}: computing takes {compute}, reading {streamed} takes"
        f" {format_seconds(reading)} beside it, and steps wait {format_seconds(prediction.stall)}."
    )
    if bound is Bound.COMPUTING:
        slower = prediction.latency - prediction.compute - prediction.stall
        beside = f"; what they slow it by is {format_seconds(slower)}" if slower > NOTICED * reading else ""
        yield f"Computing bounds it: the loads hide behind it{beside}."
    elif bound is Bound.READING:
        yield "Reading bounds it: no schedule that streams as many bytes is faster. More memory streams less."
    else:
        yield (
            "Waiting bounds it: neither computing nor reading alone takes as long, but with so little memory"
            " loads cannot begin early enough to hide."
        )
    if waits:
        named = ", ".join(
            f"{format_seconds(wait.seconds)} at {step_label(plan.program, wait.step)}"
            for wait in waits[:NAMED]
        )
        rest = f", and {len(waits) - NAMED} more steps" if len(waits) > NAMED else ""
        yield f"The longest waits: {named}{rest}."


def _weight_sentences(plan: Plan, waits: tuple[Wait, ...], groups: tuple[Group, ...]) -> Iterator[str]:
    streamed = [group for group in groups if group.streamed_nbytes]
    tiles, sizing = plan.sizing.tiles, plan.sizing
    total = sum(tile.nbytes for tile in tiles)
    if streamed:
        resident = sum(tiles[tile].nbytes for tile in sizing.resident)
        yield (
            f"{format_bytes(resident)} of {format_bytes(total)} of tiles stay in memory. Streamed are mostly"
            f" {_listed_groups(streamed)}."
        )
        yield (
            "Those stay that steps would wait for longest per byte; the others have computing in front of"
            f" them: {len(waits)} of {len(plan.program.steps)} steps wait, for {len(sizing.loads)} loads."
        )
    elif total:
        yield f"All {format_bytes(total)} of tiles stay in memory."
    gathered = [plan.program.steps[index].name for index in _gathered(plan)]
    if gathered:
        rest = f" and {len(gathered) - NAMED} more" if len(gathered) > NAMED else ""
        yield f"Read by row, straight from the file: the tables of {', '.join(gathered[:NAMED])}{rest}."


def _offer_sentences(plan: Plan, planner: Planner, offers: tuple[Offer, ...]) -> Iterator[str]:
    smallest = planner.smallest
    if plan.budget.limit is None:
        yield "More memory gives nothing: all weights are in memory."
        yield (
            f"The smallest budget that works is {smallest.budget.total} bytes"
            f" ({format_bytes(smallest.budget.total)}), with a predicted latency of"
            f" {format_seconds(smallest.prediction.latency)}; --budget auto finds the smallest that is nearly"
            " as fast as this."
        )
        return
    least = smallest.budget.total
    if plan.budget.limit < least:
        yield (
            f"For the target at hand the smallest budget that works is {least} bytes ({format_bytes(least)});"
            " the plan was made for another target."
        )
        return
    base = planner.plan(plan.budget.limit).prediction.latency
    if abs(base - plan.prediction.latency) > LITTLE * base:
        yield (
            f"For the target at hand, {format_bytes(plan.budget.limit)} would give {format_seconds(base)};"
            " the plan was made for another target."
        )
    for offer in offers:
        more = offer.budget - plan.budget.limit
        share = 100 * more / plan.budget.limit
        change = 100 * (offer.latency - base) / base
        effect = "no change" if abs(change) < 0.1 else f"{change:+.1f} %"
        yield (
            f"With {format_bytes(more)} more ({share:.0f} %), {format_bytes(offer.budget)}: predicted latency"
            f" {format_seconds(offer.latency)} ({effect})."
        )
    yield f"The smallest budget that works is {least} bytes ({format_bytes(least)})."


def _placement_sentence(plan: Plan) -> str:
    placement = plan.placement
    if placement.optimal:
        return "The placement is proven: no smaller arena holds these live ranges."
    return (
        f"The placement is not proven: {format_bytes(placement.height)} against a bound of"
        f" {format_bytes(placement.bound)} ({proof(plan)}), found by {placement.method}."
    )


def _missing(smallest: Plan, limit: int) -> Iterator[str]:
    program, budget = smallest.program, smallest.budget
    live = liveness(program)
    floor = smallest_pool(program, live)
    yield (
        f"{limit} bytes ({format_bytes(limit)}) are {budget.total - limit} too few for {program.name}: the"
        f" smallest budget that works is {budget.total} ({format_bytes(budget.total)}), predicted to run in"
        f" {format_seconds(smallest.prediction.latency)}."
    )
    yield (
        f"That is an arena of {format_bytes(budget.arena)}, outputs {format_bytes(budget.outputs)}, loader"
        f" {format_bytes(budget.loader)} and workspace {format_bytes(budget.workspace)}."
    )
    tensors = explain_peak(program, live, floor.step)
    named = ", ".join(f"{tensor.name} ({format_bytes(tensor.nbytes)})" for tensor in tensors[: NAMED + 1])
    rest = f" and {len(tensors) - NAMED - 1} more" if len(tensors) > NAMED + 1 else ""
    yield (
        f"{step_label(program, floor.step).capitalize()} needs {format_bytes(floor.nbytes)} of the arena at"
        f" once: {named}{rest}."
    )
    if budget.arena > round_up(floor.nbytes, PAGE):
        yield (
            f"The other {format_bytes(budget.arena - floor.nbytes)} of the arena are gaps of the placement"
            f" ({proof(smallest)})."
        )


def _remedies(smallest: Plan, source: Program) -> Iterator[str]:
    program, budget, choices = smallest.program, smallest.budget, smallest.choices
    floor = smallest_pool(program, liveness(program))
    index = origins(source, choices)[floor.step]
    operator = source.steps[index]
    cuts = {step: (axis, parts) for step, axis, parts in choices.splits}
    now = f"is cut into {cuts[index][1]} parts along {cuts[index][0]}" if index in cuts else "is whole"
    name = f"{operator.name} ({operator.kernel})"
    if not operator.splits:
        yield f"Finer splits are no help: {name} {now} and offers no cut."
    elif not weight_axes(source, operator):
        yield f"Finer splits are little help: {name} {now}, and its cuts leave its weights whole."
    elif finer(source, choices, index) is None:
        yield f"Finer splits are exhausted: {name} {now}, the finest that it offers."
    else:
        yield f"Finer splits are little help: {name} {now}, and what else it holds stays as large."
    held = floor.nbytes - floor.weights_nbytes
    if held >= floor.weights_nbytes:
        yield (
            f"A smaller input: {format_bytes(held)} of the {format_bytes(floor.nbytes)} are activations,"
            " state and scratch, which shrink with the batch, the sequence or the image."
        )
    else:
        yield (
            f"A smaller type for the weights: they are {format_bytes(floor.weights_nbytes)} of the"
            f" {format_bytes(floor.nbytes)} of that step."
        )
    if 10 * budget.outputs >= budget.total:
        yield (
            f"Smaller outputs: they are {format_bytes(budget.outputs)}, which the caller gets and the budget"
            " counts."
        )
    if 10 * budget.workspace >= budget.total:
        costs = smallest.costs
        step = max(range(len(costs)), key=lambda index: costs[index].workspace)
        yield (
            f"Less workspace: {step_label(program, step)} takes {format_bytes(budget.workspace)} outside the"
            f" arena, inside its kernel ({program.steps[step].kernel})."
        )


def _reading(plan: Plan) -> float:
    """Seconds that the loads of a run keep the storage busy."""
    return sum(plan.reader.seconds(plan.sizing.tiles[load.tile].nbytes) for load in plan.sizing.loads)


def _bound(plan: Plan, reading: float) -> Bound:
    prediction = plan.prediction
    if prediction.stall <= LITTLE * prediction.latency:
        return Bound.COMPUTING
    return Bound.READING if reading >= NEARLY * prediction.latency else Bound.WAITING


def _waits(plan: Plan) -> tuple[Wait, ...]:
    """Steps that wait noticeably, the longest first."""
    steps = plan.program.steps
    found = [
        Wait(index, steps[index].name, steps[index].module, seconds)
        for index, seconds in enumerate(predicted_timeline(plan).waits)
        if seconds > NOTICED * plan.prediction.latency
    ]
    return tuple(sorted(found, key=lambda wait: (-wait.seconds, wait.step)))


def _groups(plan: Plan) -> tuple[Group, ...]:
    """Weights by the names of their modules with numbers left out, most streamed bytes first."""
    program, sizing = plan.program, plan.sizing
    streamed_tiles = {load.tile for load in sizing.loads}
    total: dict[str, int] = {}
    streamed: dict[str, int] = {}
    for tile in sizing.tiles:
        for weight, (first, end) in weight_extents(program, tile).items():
            module = program.buffers[weight].name.rpartition(".")[0] or program.buffers[weight].name
            name = re.sub(r"\b\d+\b", "*", module)
            total[name] = total.get(name, 0) + end - first
            if tile.id in streamed_tiles:
                streamed[name] = streamed.get(name, 0) + end - first
    groups = (Group(name, nbytes, streamed.get(name, 0)) for name, nbytes in total.items())
    return tuple(sorted(groups, key=lambda group: (-group.streamed_nbytes, -group.nbytes, group.modules)))


def _listed_groups(groups: list[Group]) -> str:
    named = ", ".join(
        f"{group.modules} ({format_bytes(group.streamed_nbytes)} of {format_bytes(group.nbytes)})"
        for group in groups[:NAMED]
    )
    return named + (f" and {len(groups) - NAMED} more" if len(groups) > NAMED else "")


def _offers(plan: Plan, planner: Planner) -> tuple[Offer, ...]:
    limit = plan.budget.limit
    if limit is None or not plan.sizing.loads or limit < planner.smallest.budget.total:
        return ()
    most = planner.plan(None).budget.total
    wanted = {round_up(int(limit * (1.0 + MORE_SHARE)), PAGE), limit + MORE_NBYTES, most}
    budgets = sorted(budget for budget in wanted if limit < budget <= most)
    return tuple(Offer(budget, planner.plan(budget).prediction.latency) for budget in budgets)


def _gathered(plan: Plan) -> Iterator[int]:
    """Steps that read rows of a table in the file."""
    program = plan.program
    for index, step in enumerate(program.steps):
        if any(program.buffers[program.values[v].buffer].kind is BufferKind.WEIGHT for v in step.stored):
            yield index
