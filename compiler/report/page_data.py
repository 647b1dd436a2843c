"""The data of the page that `inspect --html` writes, as compact JSON: columns, not rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from occ.ir import Plan
from occ.passes.tiling import tile_uses
from occ.passes.timing import Timeline
from occ.report.spans import ArenaPicture, SpanKind

NANOSECONDS = 1e9
KINDS = tuple(SpanKind)


class Interner:
    """Texts by number, each once, in order of first use."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def texts(self) -> list[str]:
        return list(self._numbers)


def page_data(plan: Plan, picture: ArenaPicture, timeline: Timeline, peak_step: int) -> dict[str, Any]:
    """What the page draws: sizes in bytes, times in whole nanoseconds, steps as indices.

    `texts` holds every module, kernel and weight name once; other columns refer to it by position. Span
    kinds are positions in `SpanKind`. A load's end may lie after the run's.
    """
    program, sizing = plan.program, plan.sizing
    text = Interner()
    uses = tile_uses(program, sizing.tiles).of_step
    budget = plan.budget
    return {
        "model": program.name,
        "arena": budget.arena,
        "bound": plan.placement.bound,
        "room": None if budget.limit is None else budget.limit - (budget.total - budget.arena),
        "peak": peak_step,
        "latency": _ns(timeline.latency),
        "steps": {
            "name": [step.name for step in program.steps],
            "module": [text(step.module) for step in program.steps],
            "kernel": [text(step.kernel) for step in program.steps],
            "wait": nanoseconds(timeline.waits),
            "work": _lengths(timeline.starts, timeline.ends),
            "weights": [sum(sizing.tiles[tile].nbytes for tile in tiles) for tiles in uses],
            "workspace": [cost.workspace for cost in plan.costs],
        },
        "owners": {
            "name": [owner.name for owner in picture.owners],
            "module": [text(owner.module) for owner in picture.owners],
            "kind": [KINDS.index(owner.kind) for owner in picture.owners],
            "holds": [
                [[text(name), first, last] for name, first, last in owner.holds] for owner in picture.owners
            ],
        },
        "spans": {
            "owner": [span.owner for span in picture.spans],
            "first": [span.first for span in picture.spans],
            "ready": [span.ready for span in picture.spans],
            "last": [span.last for span in picture.spans],
            "offset": [span.offset for span in picture.spans],
            "nbytes": [span.nbytes for span in picture.spans],
        },
        "loads": {
            "owner": list(picture.loads),
            "issue": [load.issue for load in sizing.loads],
            "deadline": [load.deadline for load in sizing.loads],
            "wraps": [int(load.wraps) for load in sizing.loads],
            "begin": nanoseconds(timeline.load_begins),
            "length": _lengths(timeline.load_begins, timeline.load_ends),
        },
        "texts": text.texts,
    }


def _ns(seconds: float) -> int:
    return round(seconds * NANOSECONDS)


def nanoseconds(seconds: Iterable[float]) -> list[int]:
    """Seconds as whole nanoseconds."""
    return [_ns(each) for each in seconds]


def _lengths(begins: Sequence[float], ends: Iterable[float]) -> list[int]:
    return [_ns(end - begin) for begin, end in zip(begins, ends, strict=True)]
