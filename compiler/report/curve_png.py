"""The curve of latency over memory as a PNG, drawn with matplotlib: `occ sweep --png`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import occ
from occ.errors import UsageError
from occ.report.curve import axes, placed
from occ.sweep import Sweep
from occ.units import format_bytes, format_seconds


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

    across, up = axes(swept, (0.0, 1.0), (0.0, 1.0))
    figure = Figure(figsize=(9.6, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    plot: Any = figure.add_subplot()
    budgets = [point.budget for point in swept.points]
    least = [point.least_latency for point in swept.points]
    plot.plot(budgets, least, "--", color="#59626d", linewidth=1.2, label="no schedule is faster")
    predicted = [point.predicted for point in swept.points]
    plot.plot(budgets, predicted, "o-", color="#2b6a9e", linewidth=1.8, markersize=5, label="predicted")
    runs = [(point.budget, point.measured) for point in swept.points if point.measured is not None]
    if runs:
        x, y = zip(*runs, strict=True)
        plot.plot(x, y, "D", color="#b35c00", markersize=5, label="measured")
    if swept.eager is not None:
        plot.plot([swept.demand], [swept.eager], "^", color="#7a3e8e", markersize=7, label="eager, measured")
    for index, each in enumerate(placed(swept)):
        label = {"label": "reported by others"} if not index else {}
        plot.plot([each.low, each.high], [each.seconds] * 2, "s-", mfc="none", color="#7b828b", **label)
        plot.annotate(
            each.reported.name,
            (each.low, each.seconds),
            (0, 6),
            textcoords="offset points",
            fontsize=7,
            color="#59626d",
        )
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


def _size(nbytes: float) -> str:
    return format_bytes(round(nbytes))
