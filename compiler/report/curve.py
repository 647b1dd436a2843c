"""The curve of latency over memory as a picture: one HTML page, or a PNG."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from math import ceil, floor, log, log10
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import occ
from occ.errors import UsageError
from occ.sweep import Point, Sweep
from occ.units import format_bytes, format_seconds

WIDTH, HEIGHT = 960.0, 460.0
LEFT, RIGHT, TOP, BOTTOM = 78.0, 24.0, 18.0, 54.0
MARGIN = 1.08
"""Factor of room beyond the first and the last value of an axis."""

MOST_TICKS = 8
_DECADE = (1.0, 2.0, 5.0)
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis: values `low` to `high` (above zero) lie at `begin` to `end` of the picture."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies, in units of the picture."""
        share = log(value / self.low) / log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> tuple[float, ...]:
        """Two to MOST_TICKS round values: 1, 2 and 5 of every decade, or even steps where those are few."""
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        found = [digit * 10.0**decade for decade in decades for digit in _DECADE]
        found = [value for value in found if self.low <= value <= self.high]
        if len(found) < 4:
            return self._even_ticks()
        while len(found) > MOST_TICKS:
            found = found[::2] if len(found) % 3 else found[::3]
        return tuple(found)

    def _even_ticks(self) -> tuple[float, ...]:
        rough = (self.high - self.low) / 5
        magnitude = 10.0 ** floor(log10(rough))
        step = next(digit * magnitude for digit in _STEPS if digit * magnitude >= rough)
        first = ceil(self.low / step)
        return tuple(n * step for n in range(first, floor(self.high / step) + 1))


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


def curve_page(swept: Sweep) -> str:
    """The page: the curve with what every point means, and the table. Same sweep, same text.

    It is self-contained and asks the network for nothing; it has no script. Points say what they are when
    they are pointed at or reached with the Tab key.
    """
    across, up = _axes(swept)
    loader = PackageLoader("occ.report", "page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    marks = _marks(swept, across, up)
    measured = [mark for mark in marks if mark.measured is not None]
    return environment.get_template("curve.html").render(
        version=occ.__version__,
        swept=swept,
        width=WIDTH,
        height=HEIGHT,
        plot=(LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM),
        budgets=[(across.at(value), format_bytes(round(value))) for value in across.ticks()],
        latencies=[(up.at(value), format_seconds(value)) for value in up.ticks()],
        marks=marks,
        measured=measured,
        predicted_line=_line((mark.x, mark.predicted) for mark in marks),
        measured_line=_line((mark.x, mark.measured or 0.0) for mark in measured),
        least_line=_line((across.at(p.budget), up.at(p.least_latency)) for p in swept.points),
        smallest=across.at(swept.smallest) if swept.smallest >= across.low else None,
        columns=[name for name, _ in _cells(swept.points[0])],
        rows=[[text for _, text in _cells(point)] for point in swept.points],
        claim=claim(swept),
        style=Markup(loader.get_source(environment, "curve.css")[0]),
    )


def require_matplotlib() -> None:
    """Raise UsageError where matplotlib, which is optional, is not installed."""
    if find_spec("matplotlib") is None:
        raise UsageError(
            "a PNG needs matplotlib, which is not installed; pip install 'occ-compiler[plot]', or use --html"
        )


def write_png(swept: Sweep, path: str | Path) -> None:
    """Draw the curve with matplotlib. Raises UsageError where that is not installed, and where the file
    cannot be written."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # type: ignore[import-not-found]
    from matplotlib.figure import Figure  # type: ignore[import-not-found]
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # type: ignore[import-not-found]

    across, up = _axes(swept)
    figure = Figure(figsize=(9.6, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    plot: Any = figure.add_subplot()
    budgets = [point.budget for point in swept.points]
    least = [point.least_latency for point in swept.points]
    plot.plot(budgets, least, "--", color="#59626d", linewidth=1.2, label="max(computing, reading)")
    predicted = [point.predicted for point in swept.points]
    plot.plot(budgets, predicted, "o-", color="#2b6a9e", linewidth=1.8, markersize=5, label="predicted")
    runs = [(point.budget, point.measured) for point in swept.points if point.measured is not None]
    if runs:
        x, y = zip(*runs, strict=True)
        plot.plot(x, y, "D", color="#b35c00", markersize=5, label="measured")
    if swept.knee is not None:
        knee = swept.points[swept.knee]
        plot.plot([knee.budget], [knee.predicted], "o", mfc="none", mec="#16191d", markersize=13)
        plot.annotate("knee", (knee.budget, knee.predicted), (12, 10), textcoords="offset points")
    plot.set(xscale="log", yscale="log", xlim=(across.low, across.high), ylim=(up.low, up.high))
    for axis, scale, text in ((plot.xaxis, across, _size), (plot.yaxis, up, format_seconds)):
        axis.set_major_locator(FixedLocator(scale.ticks()))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _, text=text: text(value)))
    plot.set(xlabel="budget", ylabel="latency", title=swept.model)
    plot.grid(color="#d8dce1", linewidth=0.6)
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(frameon=False)
    try:
        figure.savefig(path, format="png", metadata={"Software": f"occ {occ.__version__}"})
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def claim(swept: Sweep) -> str:
    """The curve in a sentence."""
    first, last = swept.points[0], swept.points[-1]
    text = (
        f"{swept.model}: {format_seconds(first.predicted)} in {format_bytes(first.budget)},"
        f" {format_seconds(last.predicted)} in {format_bytes(last.budget)}"
    )
    if swept.knee is None:
        return f"{text}."
    knee = swept.points[swept.knee]
    return f"{text}; knee at {format_bytes(knee.budget)} with {format_seconds(knee.predicted)}."


def _axes(swept: Sweep) -> tuple[Axis, Axis]:
    budgets = [point.budget for point in swept.points]
    latencies = [
        latency
        for point in swept.points
        for latency in (point.predicted, point.least_latency, point.measured)
        if latency
    ] or [1.0]
    return (
        Axis(min(budgets) / MARGIN, max(budgets) * MARGIN, LEFT, WIDTH - RIGHT),
        Axis(min(latencies) / MARGIN, max(latencies) * MARGIN, HEIGHT - BOTTOM, TOP),
    )


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
            lines=tuple(_cells(point)),
            label=", ".join(f"{name} {text}" for name, text in _cells(point))
            + (", the knee" if index == swept.knee else ""),
        )
        for index, point in enumerate(swept.points)
    ]


def _cells(point: Point) -> Iterator[tuple[str, str]]:
    yield "budget", format_bytes(point.budget)
    yield "arena", format_bytes(point.arena)
    yield "resident weights", format_bytes(point.resident_nbytes)
    yield "streamed per run", format_bytes(point.streamed_nbytes)
    yield "predicted latency", format_seconds(point.predicted)
    yield "at least", format_seconds(point.least_latency)
    yield "of which waiting", format_seconds(point.stall)
    yield "measured latency", "" if point.measured is None else format_seconds(point.measured)


def _line(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _size(nbytes: float) -> str:
    return format_bytes(round(nbytes))
