"""The curve of latency over memory as one HTML page: `occ sweep --html`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from occ.report.pages import page, seconds_text
from occ.report.papers import REPORTED, Reference, Reported
from occ.report.scale import Axis
from occ.sweep import Point, Sweep
from occ.units import format_bytes, format_seconds

WIDTH, HEIGHT = 960.0, 500.0
LEFT, RIGHT, TOP, BOTTOM = 78.0, 24.0, 44.0, 54.0
MARGIN = 1.08
"""Factor of room beyond the first and the last value of an axis."""

SHARES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 1.5)
"""Marks of the axis that has budgets as shares of demand."""

LEAST_GAP = 34.0
"""Between two of them, in units of the picture."""

LABEL_HEIGHT = 13.0
LABEL_WIDTH = 6.4
"""Of a letter, about."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of the picture. `left` and `right` bound the part of the picture that belongs to it; `lines`
    are what it says when it is pointed at, `label` the same as a sentence."""

    x: float
    predicted: float
    measured: float | None
    left: float
    right: float
    knee: bool
    lines: tuple[tuple[str, str], ...]
    label: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What another system reports, where the same saving and slowdown lie in this picture: from `left` to
    `right` at `y`, its name at `label_y`."""

    name: str
    left: float
    right: float
    y: float
    label_y: float
    text: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A reported result in bytes and seconds of this network."""

    reported: Reported
    low: float
    high: float
    seconds: float


def curve_page(swept: Sweep) -> str:
    """The page: the curve with what every point means, eager and what others report beside it, the table.
    Same sweep, same text.

    It is self-contained and asks the network for nothing; it has no script. Points say what they are when
    they are pointed at or reached with the Tab key.
    """
    across, up = axes(swept, (LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP))
    marks = _marks(swept, across, up)
    measured = [mark for mark in marks if mark.measured is not None]
    return page(
        "curve.html",
        ("base.css", "curve.css"),
        swept=swept,
        width=WIDTH,
        height=HEIGHT,
        plot=(LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM),
        budgets=[(across.at(value), format_bytes(round(value))) for value in across.ticks()],
        latencies=[(up.at(value), seconds_text(value)) for value in up.ticks()],
        shares=tuple(_shares(swept, across)),
        marks=marks,
        measured=measured,
        predicted_line=_line((mark.x, mark.predicted) for mark in marks),
        measured_line=_line((mark.x, mark.measured or 0.0) for mark in measured),
        least_line=_line((across.at(p.budget), up.at(p.least_latency)) for p in swept.points),
        smallest=across.at(swept.smallest) if swept.smallest >= across.low else None,
        eager=None if swept.eager is None else (across.at(swept.demand), up.at(swept.eager)),
        eager_text="" if swept.eager is None else seconds_text(swept.eager),
        demand_text=format_bytes(swept.demand),
        elsewhere=_elsewhere(swept, across, up),
        reported=[(each.name, each.venue, each.text) for each in REPORTED],
        columns=[name for name, _ in cells(swept.points[0])],
        rows=[[text for _, text in cells(point)] for point in swept.points],
        claim=claim(swept),
    )


def claim(swept: Sweep) -> str:
    """The curve in a sentence."""
    first, last = swept.points[0], swept.points[-1]
    text = (
        f"{swept.model}: {format_seconds(first.predicted)} in {format_bytes(first.budget)},"
        f" {format_seconds(last.predicted)} in {format_bytes(last.budget)}"
    )
    if swept.knee is not None:
        knee = swept.points[swept.knee]
        text += f"; knee at {format_bytes(knee.budget)} with {format_seconds(knee.predicted)}"
    if swept.eager is not None:
        text += f"; eager takes {format_seconds(swept.eager)} and {format_bytes(swept.demand)}"
    return f"{text}."


def axes(swept: Sweep, across: tuple[float, float], up: tuple[float, float]) -> tuple[Axis, Axis]:
    """Axes of bytes and of seconds, from and to these places of a picture, with room for all it shows."""
    others = placed(swept)
    budgets = [float(point.budget) for point in swept.points]
    budgets += [end for each in others for end in (each.low, each.high)]
    latencies = [
        latency
        for point in swept.points
        for latency in (point.predicted, point.least_latency, point.measured)
        if latency
    ]
    latencies += [each.seconds for each in others]
    if swept.eager:
        budgets.append(float(swept.demand))
        latencies.append(swept.eager)
    latencies = latencies or [1.0]
    return (
        Axis(min(budgets) / MARGIN, max(budgets) * MARGIN, *across),
        Axis(min(latencies) / MARGIN, max(latencies) * MARGIN, *up),
    )


def placed(swept: Sweep) -> tuple[Placed, ...]:
    """The reported results that have a latency and whose reference is known here: memory as a share of this
    network's demand, latency as a multiple of the measured one, or else the predicted one, of the largest
    budget, or of eager's."""
    last = swept.points[-1]
    references = {Reference.RESIDENT: last.measured or last.predicted, Reference.EAGER: swept.eager}
    found = []
    for reported in REPORTED:
        reference = references[reported.reference]
        if reported.latency is not None and reference and swept.demand:
            low, high = (share * swept.demand for share in reported.memory)
            found.append(Placed(reported, low, high, reported.latency * reference))
    return tuple(found)


def cells(point: Point) -> Iterator[tuple[str, str]]:
    """What a point says, by name; empty texts for what is not known."""
    yield "budget", format_bytes(point.budget)
    yield "arena", format_bytes(point.arena)
    yield "resident weights", format_bytes(point.resident_nbytes)
    yield "streamed per run", format_bytes(point.streamed_nbytes)
    yield "predicted latency", seconds_text(point.predicted)
    yield "at least", seconds_text(point.least_latency)
    yield "of which waiting", seconds_text(point.stall)
    yield "measured latency", "" if point.measured is None else seconds_text(point.measured)


def _marks(swept: Sweep, across: Axis, up: Axis) -> list[Mark]:
    places = [across.at(point.budget) for point in swept.points]
    middles = [(before + after) / 2 for before, after in pairwise(places)]
    bounds = [LEFT, *middles, WIDTH - RIGHT]
    return [
        Mark(
            x=places[index],
            predicted=up.at(max(point.predicted, up.low)),
            measured=None if not point.measured else up.at(point.measured),
            left=bounds[index],
            right=bounds[index + 1],
            knee=index == swept.knee,
            lines=tuple(cells(point)),
            label=", ".join(f"{name} {text}" for name, text in cells(point))
            + (", the knee" if index == swept.knee else ""),
        )
        for index, point in enumerate(swept.points)
    ]


def _shares(swept: Sweep, across: Axis) -> Iterator[tuple[float, str]]:
    """Marks of the budgets that are round shares of demand, far enough from each other."""
    before = -LEAST_GAP
    for share in SHARES:
        value = share * swept.demand
        if across.low <= value <= across.high and across.at(value) - before >= LEAST_GAP:
            before = across.at(value)
            yield before, f"{100 * share:g} %"


def _elsewhere(swept: Sweep, across: Axis, up: Axis) -> list[Elsewhere]:
    """Reported results with their names, which step aside where they would lie over each other."""
    found: list[Elsewhere] = []
    taken: list[tuple[float, float, float]] = []
    for each in sorted(placed(swept), key=lambda each: each.low):
        left, right, y = across.at(each.low), across.at(each.high), up.at(each.seconds)
        label = y - 9.0
        end = left + LABEL_WIDTH * len(each.reported.name)
        while any(left < b and a < end and abs(label - at) < LABEL_HEIGHT for a, b, at in taken):
            label -= LABEL_HEIGHT
        taken.append((left, end, label))
        text = f"{each.reported.name} ({each.reported.venue}) reports {each.reported.text}"
        found.append(Elsewhere(each.reported.name, left, right, y, label, text))
    return found


def _line(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
