"""Predicted and measured side by side, as one HTML page: `occ bench --html`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from occ.ir import Plan
from occ.observed import Observed, median_seconds, typical
from occ.passes.timing import Timeline, predicted_timeline
from occ.report.page_data import Interner, nanoseconds
from occ.report.pages import page, seconds_text
from occ.report.spans import picture
from occ.units import format_bytes

if TYPE_CHECKING:
    from occ.bench import Bench

STYLES = ("base.css", "stage.css", "bench.css")
SCRIPTS = ("format.js", "dom.js", "axis.js", "palette.js", "lanes.js", "table.js", "bench.js")

ROWS = 25
"""Rows of the tables that the page has without its script."""

NOTICED = 2e-6
"""Seconds from which a wait is one; asking whether a load is there takes one or so."""

LEGEND = (
    ("compute", "computing"),
    ("stall", "waiting for a load"),
    ("streamed", "reading"),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the memory figure: parts of (kind, name, bytes), one after the other."""

    name: str
    nbytes: int
    parts: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class KernelRow:
    """All steps of a kernel: how many, and seconds of a run."""

    kernel: str
    steps: int
    predicted: float
    measured: float


def bench_page(plan: Plan, bench: Bench, runs: Sequence[Observed]) -> str:
    """The page: timelines on one scale, the steps that differ most, memory. `runs` are traced ones, at least
    one: the timeline is the one with the median latency, what a step took is the median of all.

    Same arguments, same text.
    """
    timeline, seconds = predicted_timeline(plan), median_seconds(runs)
    shown = typical(runs)
    return page(
        "bench.html",
        STYLES,
        SCRIPTS,
        _data(plan, timeline, shown, seconds),
        model=plan.program.name,
        claim=claim(bench),
        figures=tuple(_figures(plan, bench)),
        legend=LEGEND,
        traced=len(runs),
        shown=seconds_text(shown.latency),
        rows=_rows(plan, timeline, shown, seconds),
        steps=len(plan.program.steps),
        kernels=[
            (row.kernel, str(row.steps), *_compared(row.predicted, row.measured))
            for row in _kernels(plan, timeline, seconds)
        ],
        bars=_bars(bench),
        process=_process(bench),
        bytes=format_bytes,
        reading=tuple(_reading(plan, runs)),
    )


def claim(bench: Bench) -> str:
    """How far the prediction is off, in a sentence."""
    off = bench.latency / bench.predicted_latency - 1.0
    side = "as predicted" if abs(off) < 0.005 else f"{100 * abs(off):.0f} % {'more' if off > 0 else 'less'}"
    told = "" if side == "as predicted" else f" than the predicted {seconds_text(bench.predicted_latency)}"
    within = "within" if bench.measured_nbytes <= bench.planned_nbytes else "above"
    return (
        f"A run takes {seconds_text(bench.latency)}, {side}{told}; the process grew by"
        f" {format_bytes(bench.measured_nbytes)}, {within} the planned {format_bytes(bench.planned_nbytes)}."
    )


def _figures(plan: Plan, bench: Bench) -> Iterator[tuple[str, str, str]]:
    """(label, figure, what it is compared with)."""
    prediction = plan.prediction
    yield (
        "run",
        seconds_text(bench.latency),
        f"predicted {seconds_text(prediction.latency)}, median of {bench.runs}",
    )
    yield "waiting", seconds_text(bench.stall), f"predicted {seconds_text(prediction.stall)}"
    yield (
        "read per run",
        format_bytes(bench.streamed_nbytes),
        f"planned {format_bytes(prediction.streamed_nbytes)}",
    )
    yield (
        "memory",
        format_bytes(bench.measured_nbytes),
        f"planned {format_bytes(bench.planned_nbytes)}",
    )
    yield (
        "process",
        format_bytes(bench.process_nbytes),
        f"planned {format_bytes(bench.planned_process_nbytes)}, with the interpreter and torch",
    )
    yield "cold start", seconds_text(bench.cold_start), "from the load to the first outputs"
    if bench.eager_latency is not None:
        ratio = bench.latency / bench.eager_latency
        yield "eager", seconds_text(bench.eager_latency), f"this run takes {ratio:.2f} of it"


def _rows(
    plan: Plan, timeline: Timeline, shown: Observed, seconds: Sequence[float]
) -> list[tuple[int, tuple[str, ...]]]:
    """Cells of the steps whose computing is farthest from the prediction."""
    expected = _seconds(timeline)
    order = sorted(range(len(seconds)), key=lambda i: (-abs(seconds[i] - expected[i]), i))[:ROWS]
    waits = timeline.waits
    return [
        (
            index,
            (
                str(index),
                plan.program.steps[index].name,
                plan.program.steps[index].module,
                plan.program.steps[index].kernel,
                *_compared(expected[index], seconds[index]),
                _wait(waits[index]),
                _wait(shown.waits[index]),
            ),
        )
        for index in order
    ]


def _kernels(plan: Plan, timeline: Timeline, seconds: Sequence[float]) -> list[KernelRow]:
    """Sums by kernel, the largest difference first."""
    sums: dict[str, list[float]] = {}
    for step, predicted, measured in zip(plan.program.steps, _seconds(timeline), seconds, strict=True):
        entry = sums.setdefault(step.kernel, [0, 0.0, 0.0])
        entry[0] += 1
        entry[1] += predicted
        entry[2] += measured
    rows = [KernelRow(kernel, int(count), p, m) for kernel, (count, p, m) in sums.items()]
    return sorted(rows, key=lambda row: (-abs(row.measured - row.predicted), row.kernel))


def _compared(predicted: float, measured: float) -> tuple[str, str, str, str]:
    difference = measured - predicted
    sign = "+" if difference >= 0 else "\N{MINUS SIGN}"
    ratio = f"{measured / predicted:.2f}" if predicted > 0 else ""
    return (
        seconds_text(predicted),
        seconds_text(measured),
        f"{sign}{seconds_text(abs(difference))}",
        ratio,
    )


def _wait(seconds: float) -> str:
    return seconds_text(seconds) if seconds >= NOTICED else ""


def _bars(bench: Bench) -> tuple[Bar, ...]:
    parts = (
        ("arena", "arena", bench.arena_nbytes),
        ("outputs", "outputs", bench.outputs_nbytes),
        ("workspace", "workspace", bench.workspace_nbytes),
        ("loader", "loader", bench.loader_nbytes),
    )
    planned = Bar("planned", bench.planned_nbytes, tuple(part for part in parts if part[2]))
    grown = max(0, bench.measured_nbytes)
    return planned, Bar("measured", grown, (("grown", "growth of the process", grown),))


def _process(bench: Bench) -> str:
    before = bench.planned_process_nbytes - bench.planned_nbytes
    return (
        f"The whole process took {format_bytes(bench.process_nbytes)} at its peak; planned"
        f" {format_bytes(bench.planned_process_nbytes)}, of which the interpreter and torch are"
        f" {format_bytes(before)}."
    )


def _reading(plan: Plan, runs: Sequence[Observed]) -> Iterator[tuple[str, str]]:
    """What the storage did, beside what the plan counts on."""
    if not plan.sizing.loads:
        yield "reading", "nothing is read in a run"
        return
    reader = plan.reader
    yield (
        "planned with",
        f"{format_bytes(round(reader.bandwidth))} a second, {seconds_text(reader.overhead)} a request;"
        f" computing takes {reader.slowdown:.2f} times as long beside it and loses"
        f" {seconds_text(reader.interruption)} to each load",
    )
    nbytes = sum(_nbytes(run) for run in runs)
    busy = sum(_busy(run) for run in runs)
    if busy > 0:
        share = busy / sum(run.latency for run in runs)
        yield (
            "measured",
            f"{format_bytes(round(nbytes / busy))} a second while reading, which is {100 * share:.0f} % of"
            " the run, checksums and pauses of the threads included",
        )


def _nbytes(run: Observed) -> float:
    """Bytes read during a run; a read that goes on beyond an end of it counts with its share."""
    total = 0.0
    for read in run.reads:
        inside = min(read.ended, run.latency) - max(read.began, 0.0)
        total += read.nbytes * inside / max(read.ended - read.began, 1e-9)
    return total


def _busy(run: Observed) -> float:
    """Seconds of a run in which at least one thread reads."""
    total, end = 0.0, 0.0
    for read in sorted(run.reads, key=lambda read: read.began):
        begin = max(read.began, end, 0.0)
        end = max(end, min(read.ended, run.latency))
        total += max(0.0, end - begin)
    return total


def _seconds(timeline: Timeline) -> tuple[float, ...]:
    return tuple(end - start for start, end in zip(timeline.starts, timeline.ends, strict=True))


def _data(plan: Plan, timeline: Timeline, shown: Observed, seconds: Sequence[float]) -> dict[str, Any]:
    """What the page draws, in whole nanoseconds from the beginning of the run."""
    program = plan.program
    text = Interner()
    drawn = picture(plan)
    names = [drawn.owners[owner].name for owner in drawn.loads]
    of_tile: dict[int | None, str] = {
        load.tile: name for load, name in zip(plan.sizing.loads, names, strict=True)
    }
    return {
        "steps": {
            "name": [step.name for step in program.steps],
            "module": [text(step.module) for step in program.steps],
            "kernel": [text(step.kernel) for step in program.steps],
            "typical": nanoseconds(seconds),
        },
        "predicted": {
            "latency": nanoseconds([timeline.latency])[0],
            "wait": nanoseconds(timeline.waits),
            "start": nanoseconds(timeline.starts),
            "end": nanoseconds(timeline.ends),
            "reads": {
                "name": [text(name) for name in names],
                "nbytes": [plan.sizing.tiles[load.tile].nbytes for load in plan.sizing.loads],
                "thread": [0] * len(names),
                "begin": nanoseconds(timeline.load_begins),
                "end": nanoseconds(timeline.load_ends),
            },
        },
        "measured": {
            "latency": nanoseconds([shown.latency])[0],
            "wait": nanoseconds(shown.waits),
            "start": nanoseconds(shown.starts),
            "end": nanoseconds(shown.ends),
            "reads": {
                "name": [text(of_tile.get(read.tile, "rows of a table")) for read in shown.reads],
                "nbytes": [read.nbytes for read in shown.reads],
                "thread": [read.thread for read in shown.reads],
                "begin": nanoseconds([read.began for read in shown.reads]),
                "end": nanoseconds([read.ended for read in shown.reads]),
            },
        },
        "texts": text.texts,
    }
