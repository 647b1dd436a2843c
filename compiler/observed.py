"""A run as it was measured, step by step and read by read, beside what the time model says of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from occ.errors import InternalError
from occ.runtime_stub.jobs import Job, TileJob
from occ.runtime_stub.trace import Statement, StepTrace


@dataclass(frozen=True, slots=True)
class ObservedRead:
    """`nbytes` of tile `tile` (None: rows of a table) that thread `thread` of the loader read."""

    tile: int | None
    thread: int
    began: float
    ended: float
    nbytes: int


@dataclass(frozen=True, slots=True)
class Observed:
    """One run, in seconds from its beginning.

    Step i computed during [starts[i], ends[i]) and waited `waits[i]` for loads just before. `reads` are those
    that were under way during the run, also for the runs before and after it.
    """

    latency: float
    starts: tuple[float, ...]
    ends: tuple[float, ...]
    waits: tuple[float, ...]
    reads: tuple[ObservedRead, ...]

    @property
    def seconds(self) -> tuple[float, ...]:
        """What each step took to compute."""
        return tuple(end - start for start, end in zip(self.starts, self.ends, strict=True))


def observed_runs(trace: StepTrace, steps: int) -> tuple[Observed, ...]:
    """Every run that `trace` recorded, of a program of `steps` steps. Raises InternalError where the trace
    lacks a step."""
    events = trace.events()
    runs = []
    for began, ended in trace.runs:
        mine = [each for each in events if began <= each.began < ended]
        runs.append(_observed(mine, trace.jobs, began, ended, steps))
    return tuple(runs)


def typical(runs: Sequence[Observed]) -> Observed:
    """The run with the median latency, the lower one of two."""
    return sorted(runs, key=lambda run: run.latency)[(len(runs) - 1) // 2]


def median_seconds(runs: Sequence[Observed]) -> tuple[float, ...]:
    """What each step took to compute, the median of the runs."""
    return tuple(statistics.median(times) for times in zip(*(run.seconds for run in runs), strict=True))


def _observed(
    events: Sequence[Statement], jobs: Sequence[Job], began: float, ended: float, steps: int
) -> Observed:
    starts: list[float | None] = [None] * steps
    ends = [0.0] * steps
    waits = [0.0] * steps
    waited = 0.0
    for each in events:
        if each.kind == "wait":
            waited += each.ended - each.began
        elif each.kind == "step":
            if starts[each.number] is None:
                starts[each.number] = each.began - began
                waits[each.number], waited = waited, 0.0
            ends[each.number] = each.ended - began
    missing = [index for index, start in enumerate(starts) if start is None]
    if missing:
        raise InternalError(f"a trace of {steps} steps lacks step {missing[0]}")
    return Observed(
        latency=ended - began,
        starts=tuple(start for start in starts if start is not None),
        ends=tuple(ends),
        waits=tuple(waits),
        reads=tuple(
            ObservedRead(
                job.tile.id if isinstance(job, TileJob) else None,
                read.thread,
                read.began - began,
                read.checked - began,
                read.nbytes,
            )
            for job in jobs
            for read in job.reads
            if read.began < ended and read.checked > began
        ),
    )
