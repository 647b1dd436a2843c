"""The curve of latency over memory: the same program planned, and where asked run, at many budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import Any

from occ.errors import BudgetError, UsageError
from occ.goals import Planner, within_process
from occ.ir import Plan
from occ.passes.fluid import least_latency_of
from occ.progress import SILENT, Progress
from occ.units import PAGE, format_bytes, format_seconds, parse_bytes, round_up
from occ.verify import verify

POINTS = 12
"""Budgets of a sweep for which none are given."""

LEAST_BEND = 0.02
"""Distance from the chord, in a square of side 1, below which a curve counts as straight."""

LEAST_FALL = 0.01
"""Relative fall of the latency over all budgets below which there is nothing to trade."""

Run = Callable[[Plan, bool], tuple[float, float | None]]
"""Median latency of a plan when it runs and, where that is asked for too, of the model in eager (seconds)."""


@dataclass(frozen=True, slots=True)
class Point:
    """One budget. Bytes and seconds; `budget` is the limit, `used` what the plan takes of it and `process`
    what its whole process does.

    `least_latency` is what no schedule of the plan's steps and tiles beats in the budget. `measured` is the
    median latency of the plan's run, None where it was not run.
    """

    budget: int
    used: int
    process: int
    arena: int
    resident_nbytes: int
    streamed_nbytes: int
    loads: int
    compute: float
    stall: float
    predicted: float
    least_latency: float
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """Points by ascending budget. `smallest` is the smallest budget that works and `unlimited` what the plan
    without a limit takes (bytes); `too_small` are budgets asked for below `smallest`; `knee` is the point
    beyond which memory buys least (see `knee_of`), by its position. `demand` is the model's weights and
    activation peak, `eager` its median latency in eager, None where that was not measured."""

    model: str
    smallest: int
    unlimited: int
    points: tuple[Point, ...]
    too_small: tuple[int, ...]
    knee: int | None
    demand: int
    eager: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON data."""
        return asdict(self)


def sweep(
    planner: Planner,
    budgets: Sequence[int] | None = None,
    run: Run | None = None,
    with_eager: bool = False,
    progress: Progress = SILENT,
) -> Sweep:
    """Plan for each of `budgets` (bytes; by default those of `default_budgets`); with `run` run every plan,
    and `with_eager` the model in eager, beside a plan that streams nothing and so computes as eager does.

    Budgets that are too small are listed, not planned. Raises UsageError where all of them are.
    """
    smallest = planner.smallest.budget.total
    unlimited = planner.plan(None)
    wanted = sorted(set(default_budgets(smallest, unlimited.budget.total) if budgets is None else budgets))
    too_small = tuple(budget for budget in wanted if budget < smallest)
    if len(too_small) == len(wanted):
        raise UsageError(
            f"all budgets are too small for {unlimited.program.name}: the smallest that works is {smallest}"
            f" ({format_bytes(smallest)})"
        )
    points: list[Point] = []
    eager: float | None = None
    with progress.stage("sweeping", len(wanted) - len(too_small), "budgets") as advance:
        for budget in wanted[len(too_small) :]:
            plan = planner.plan(budget)
            verify(plan)
            measured = None
            if run is not None:
                measured, beside = run(plan, with_eager and eager is None and not plan.sizing.loads)
                eager = eager or beside
            points.append(point_of(plan, budget, measured))
            shown = "" if measured is None else f", measured {format_seconds(measured)}"
            predicted = format_seconds(plan.prediction.latency)
            progress(f"{format_bytes(budget)}: predicted latency {predicted}{shown}")
            advance(1)
        if run is not None and with_eager and eager is None:
            _, eager = run(unlimited, True)
    return Sweep(
        model=unlimited.program.name,
        smallest=smallest,
        unlimited=unlimited.budget.total,
        points=tuple(points),
        too_small=too_small,
        knee=knee_of([point.budget for point in points], [point.predicted for point in points]),
        demand=unlimited.program.demand,
        eager=eager,
    )


def default_budgets(smallest: int, unlimited: int, count: int = POINTS) -> tuple[int, ...]:
    """About `count` budgets (bytes) from `smallest` to `unlimited`, evenly apart by their logarithms, whole
    pages above the smallest."""
    most = max(smallest, unlimited)
    ratio = most / smallest
    inner = (
        smallest + round_up(int(smallest * ratio ** (i / (count - 1))) - smallest, PAGE)
        for i in range(count - 1)
    )
    return tuple(sorted({*(budget for budget in inner if budget < most), most}))


def limit_within(nbytes: int, planner: Planner) -> int:
    """The budget, in bytes, that a process budget of `nbytes` leaves; one below the smallest, but at least 1,
    for a process budget that is too small."""
    try:
        limit = within_process(nbytes, planner).budget.limit
    except BudgetError:
        return max(1, nbytes - planner.smallest.budget.process)
    assert limit is not None
    return limit


def parse_budgets(text: str) -> tuple[int, ...]:
    """Read sizes with commas between them, such as `64MB,128MB`. Raises UsageError."""
    return tuple(parse_bytes(size) for size in text.split(","))


def point_of(plan: Plan, budget: int, measured: float | None = None) -> Point:
    """The figures of a plan for `budget` bytes."""
    sizing, prediction = plan.sizing, plan.prediction
    return Point(
        budget=budget,
        used=plan.budget.total,
        process=plan.budget.process_total,
        arena=plan.budget.arena,
        resident_nbytes=sum(sizing.tiles[tile].nbytes for tile in sizing.resident),
        streamed_nbytes=prediction.streamed_nbytes,
        loads=len(sizing.loads),
        compute=prediction.compute,
        stall=prediction.stall,
        predicted=prediction.latency,
        least_latency=least_latency_of(plan),
        measured=measured,
    )


def knee_of(budgets: Sequence[int], latencies: Sequence[float]) -> int | None:
    """The point farthest below the chord from the first to the last, on logarithmic axes scaled to a square
    of side 1 (Satopaa et al., Finding a Kneedle in a Haystack, 2011); the smallest budget of equal ones.

    None where the curve is straight, does not fall, or has no point between its ends.
    """
    if len(budgets) < 3 or latencies[-1] >= latencies[0] * (1.0 - LEAST_FALL):
        return None
    width = log(budgets[-1] / budgets[0])
    fall = log(latencies[0] / latencies[-1])

    def below(budget: int, latency: float) -> float:
        return 1.0 - log(budget / budgets[0]) / width - log(latency / latencies[-1]) / fall

    bends = [below(*point) for point in zip(budgets, latencies, strict=True)]
    knee = max(range(len(bends)), key=lambda i: (bends[i], -i))
    return knee if bends[knee] >= LEAST_BEND else None


def table(swept: Sweep) -> str:
    """What `occ sweep` prints: a line per budget, the knee marked, and what the marks mean."""
    return "\n".join(_lines(swept))


def _lines(swept: Sweep) -> Iterator[str]:
    measured = any(point.measured is not None for point in swept.points)
    names = ["budget", "process", "arena", "resident", "streamed", "predicted", "at least", "stall"]
    names += ["measured"] if measured else []
    yield "".join(f"{name:>10} " for name in names).rstrip()
    for budget in swept.too_small:
        yield f"{format_bytes(budget):>10} too small; the smallest that works is {swept.smallest} bytes"
    for index, point in enumerate(swept.points):
        cells = [
            format_bytes(point.budget),
            format_bytes(point.process),
            format_bytes(point.arena),
            format_bytes(point.resident_nbytes),
            format_bytes(point.streamed_nbytes),
            format_seconds(point.predicted),
            format_seconds(point.least_latency),
            format_seconds(point.stall),
        ]
        if measured:
            cells.append("" if point.measured is None else format_seconds(point.measured))
        marks = [
            *(["smallest"] if point.budget == swept.smallest else []),
            *(["knee"] if index == swept.knee else []),
            *(["all resident"] if not point.loads else []),
        ]
        yield ("".join(f"{cell:>10} " for cell in cells) + f" {', '.join(marks)}").rstrip()
    if swept.eager is not None:
        demand = format_bytes(swept.demand)
        yield f"eager: {format_seconds(swept.eager)}, measured, with {demand} of weights and activations"
    yield "streamed: bytes read in every run; at least: no schedule of these steps and tiles is faster"
    if swept.knee is not None:
        yield "knee: farthest below the line from the first to the last point, on logarithmic axes"
