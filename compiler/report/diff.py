"""What differs between two plans, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from occ.ir import Plan, Program
from occ.report.peak import step_label
from occ.report.spans import picture, weight_extents
from occ.units import format_bytes, format_seconds

LISTED = 12
"""Differences of one sort that are named; the rest are counted."""

LEAST_CHANGE = 0.05
"""Percent below which a change is not shown."""


@dataclass(frozen=True, slots=True)
class _Figure:
    """A number that every plan has; None where there is none, such as no budget."""

    name: str
    of: Callable[[Plan], float | None]
    text: Callable[[float], str]


def _size(nbytes: float) -> str:
    return format_bytes(int(nbytes))


def _count(number: float) -> str:
    return str(int(number))


FIGURES = (
    _Figure("budget", lambda plan: plan.budget.limit, _size),
    _Figure("in all", lambda plan: plan.budget.total, _size),
    _Figure("arena", lambda plan: plan.budget.arena, _size),
    _Figure("bound", lambda plan: plan.placement.bound, _size),
    _Figure("outputs", lambda plan: plan.budget.outputs, _size),
    _Figure("loader", lambda plan: plan.budget.loader, _size),
    _Figure("workspace", lambda plan: plan.budget.workspace, _size),
    _Figure(
        "resident", lambda plan: sum(plan.sizing.tiles[tile].nbytes for tile in plan.sizing.resident), _size
    ),
    _Figure("streamed", lambda plan: plan.prediction.streamed_nbytes, _size),
    _Figure("loads", lambda plan: len(plan.sizing.loads), _count),
    _Figure("tiles", lambda plan: len(plan.sizing.tiles), _count),
    _Figure("steps", lambda plan: len(plan.program.steps), _count),
    _Figure("latency", lambda plan: plan.prediction.latency, format_seconds),
    _Figure("compute", lambda plan: plan.prediction.compute, format_seconds),
    _Figure("stall", lambda plan: plan.prediction.stall, format_seconds),
    _Figure("cold start", lambda plan: plan.prediction.cold_start, format_seconds),
)


def diff_text(
    left: Plan,
    right: Plan,
    source: Program | None = None,
    names: tuple[str, str] = ("left", "right"),
) -> str:
    """What `occ inspect --diff` prints: figures side by side, where the peaks are, which operators are cut
    differently, which weights stay in one plan and are streamed in the other.

    `source` is the unsplit program that both plans were made from; with it operators are named, without it
    they are numbered. Plans of two models are compared by their figures and by the names of their weights.
    """
    if left == right:
        return f"{names[0]} and {names[1]} are the same plan of {left.program.name}"
    sections = [
        list(_figures(left, right, names)),
        list(_peaks(left, right, names)),
        *(_section(title, lines) for title, lines in _differences(left, right, source)),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def diff_facts(left: Plan, right: Plan, source: Program | None = None) -> dict[str, Any]:
    """The same as JSON data: `figures` as [left, right] by name, in bytes, seconds and numbers; every other
    difference as a line, by title, none left out."""
    return {
        "same": left == right,
        "figures": {figure.name: [figure.of(left), figure.of(right)] for figure in FIGURES},
        **dict(_differences(left, right, source)),
    }


def _differences(left: Plan, right: Plan, source: Program | None) -> Iterator[tuple[str, list[str]]]:
    yield "operators cut differently", list(_splits(left, right, source))
    yield "tables read by row in one of them", list(_gathers(left, right, source))
    yield "weights kept differently, by bytes that are resident", list(_residency(left, right))
    yield "made for or set differently on the machine", list(_machines(left, right))


def _figures(left: Plan, right: Plan, names: tuple[str, str]) -> Iterator[str]:
    yield f"{'':<12} {names[0][-24:]:>24} {names[1][-24:]:>24}   change"
    if left.program.name != right.program.name:
        yield f"{'model':<12} {left.program.name[-24:]:>24} {right.program.name[-24:]:>24}"
    for figure in FIGURES:
        before, after = figure.of(left), figure.of(right)
        texts = ["none" if number is None else figure.text(number) for number in (before, after)]
        yield f"{figure.name:<12} {texts[0]:>24} {texts[1]:>24}   {_change(before, after)}".rstrip()


def _change(before: float | None, after: float | None) -> str:
    """The change in percent; nothing where there is none worth a digit."""
    if before is None or after is None or before == after:
        return ""
    if not before:
        return "new"
    change = 100 * (after - before) / before
    return "" if abs(change) < LEAST_CHANGE else f"{change:+.1f} %"


def _peaks(left: Plan, right: Plan, names: tuple[str, str]) -> Iterator[str]:
    width = max(len(name) for name in names)
    yield "fullest at"
    for name, plan in zip(names, (left, right), strict=True):
        total = picture(plan).occupancy().total
        if not total:
            yield f"  {name:<{width}}  no step"
            continue
        step = max(range(len(total)), key=total.__getitem__)
        yield f"  {name:<{width}}  {step_label(plan.program, step)}: {format_bytes(total[step])} in use"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return [f"{title} ({len(lines)})", *(f"  {line}" for line in lines[:LISTED]), *more]


def _splits(left: Plan, right: Plan, source: Program | None) -> Iterator[str]:
    cuts = [{step: (axis, parts) for step, axis, parts in plan.choices.splits} for plan in (left, right)]
    for step in sorted(cuts[0].keys() | cuts[1].keys()):
        before, after = (cut.get(step) for cut in cuts)
        if before != after:
            yield f"{_operator(step, source)}: {_cut(before)} -> {_cut(after)}"


def _cut(cut: tuple[str, int] | None) -> str:
    return "whole" if cut is None else f"{cut[1]} parts along {cut[0]}"


def _gathers(left: Plan, right: Plan, source: Program | None) -> Iterator[str]:
    before, after = set(left.choices.gathers), set(right.choices.gathers)
    for step in sorted(before ^ after):
        change = "by row -> whole" if step in before else "whole -> by row"
        yield f"{_operator(step, source)}: {change}"


def _operator(step: int, source: Program | None) -> str:
    return f"operator {step}" if source is None else step_label(source, step).replace("step", "operator", 1)


def _residency(left: Plan, right: Plan) -> Iterator[str]:
    """Weights whose resident bytes differ, the largest difference first."""
    before, after = _resident_nbytes(left), _resident_nbytes(right)
    changed = [name for name in before.keys() | after.keys() if before.get(name, 0) != after.get(name, 0)]
    changed.sort(key=lambda name: (-abs(after.get(name, 0) - before.get(name, 0)), name))
    for name in changed:
        yield f"{name}: {format_bytes(before.get(name, 0))} -> {format_bytes(after.get(name, 0))}"


def _resident_nbytes(plan: Plan) -> dict[str, int]:
    """Bytes of every weight, by name, that are in resident tiles."""
    found: dict[str, int] = {}
    for tile in plan.sizing.resident:
        for weight, (first, end) in weight_extents(plan.program, plan.sizing.tiles[tile]).items():
            name = plan.program.buffers[weight].name
            found[name] = found.get(name, 0) + end - first
    return found


def _machines(left: Plan, right: Plan) -> Iterator[str]:
    for name in ("device", "threads", "spin", "torch", "cpu", "profile_digest"):
        before, after = getattr(left.machine, name), getattr(right.machine, name)
        if before != after:
            yield f"{name.replace('_', ' ')}: {before} -> {after}"
