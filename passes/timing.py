"""The time model: one FIFO of reads beside one compute queue.

    load_end[j] = max(load_end[j-1], end of the step before its issue step) + overhead + nbytes[j] / bandwidth
    start[i]    = max(end[i-1], arrival of every tile step i waits for);  end[i] = start[i] + duration[i]
    arrival[j]  = load_end[j] + what the reader's requests may be late by, or its response where nothing was
                  submitted after j

A load's issue step is after the last reader of the bytes it overwrites, so waiting for the step before it is
enough. Requests are late because those behind them share the bandwidth. The last one has all of it, but
whoever waits for it has to be woken. A step before which loads are submitted takes `interruption` longer for
each. While a read is in flight, computing is `slowdown` times slower. Runs follow each other at once: what a
run's tail loads for the next run's head goes on while the next run begins.

All times are seconds, all sizes bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from occ.errors import InternalError
from occ.ir import Load, Plan, Prediction, Reader, Sizing, StepCost, Tile

MAX_RUNS = 6
PREDICTED_RUNS = 32
SAME = 1e-9
"""Relative difference below which two runs of the simulation count as equal."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One run, in seconds from its beginning.

    `load_begins` and `load_ends` have one entry per load, in order of submission. Those of a load that wraps
    tell of the one submitted in this run, for the next; its end may lie after the run's.
    """

    latency: float
    starts: tuple[float, ...]
    ends: tuple[float, ...]
    load_begins: tuple[float, ...]
    load_ends: tuple[float, ...]

    @property
    def waits(self) -> tuple[float, ...]:
        """Seconds that each step waits for a load."""
        if not self.starts:
            return ()
        before = (0.0, *self.ends[:-1])
        return tuple(start - end for start, end in zip(self.starts, before, strict=True))

    @property
    def stall(self) -> float:
        """Seconds of the run in which a step waits for a load."""
        return sum(self.waits)


class TimeModel:
    """The model's state between runs, and the times of the last run on a clock that goes on across runs.

    Steps are given as segments, between which nothing is submitted or waited for: `seconds[s]` of computing,
    before which the loads up to `submitted[s]` (exclusive, in order of submission) have been submitted, each
    an `interruption`, and load `awaited[s]` (-1: none) must have arrived. Load k takes `reads[k]` seconds and
    arrives `lags[k]` seconds after that, or `response` where no later one is under way; those in `wrapping`
    serve the next run. In the beginning they are there and the loader is idle.
    """

    __slots__ = (
        "awaited",
        "begins",
        "ends",
        "free",
        "lags",
        "now",
        "reads",
        "response",
        "seconds",
        "slowdown",
        "starts",
        "stops",
        "submitted",
        "wrapping",
    )

    def __init__(
        self,
        seconds: Sequence[float],
        submitted: Sequence[int],
        awaited: Sequence[int],
        reads: Sequence[float],
        lags: Sequence[float],
        wrapping: Sequence[int],
        slowdown: float,
        interruption: float,
        response: float,
    ) -> None:
        self.seconds = [
            work + interruption * (stop - start)
            for work, start, stop in zip(seconds, (0, *submitted), submitted, strict=False)
        ]
        self.submitted = submitted
        self.awaited = awaited
        self.reads = reads
        self.wrapping = wrapping
        self.slowdown = slowdown
        self.lags = lags
        self.response = response
        self.now = 0.0
        self.free = 0.0
        self.starts = [0.0] * len(seconds)
        self.stops = [0.0] * len(seconds)
        self.begins = [0.0] * len(reads)
        self.ends = [-inf] * len(reads)

    def run(self) -> float:
        """Advance by one run and return its latency, in O(segments + loads)."""
        now, free, slowdown = self.now, self.free, self.slowdown
        reads, lags, begins, ends = self.reads, self.lags, self.begins, self.ends
        response = self.response
        starts, stops = self.starts, self.stops
        began, k = now, 0
        for s, (work, stop, waited) in enumerate(
            zip(self.seconds, self.submitted, self.awaited, strict=True)
        ):
            while k < stop:
                if free < now:
                    free = now
                begins[k] = free
                free += reads[k]
                ends[k] = free
                k += 1
            if waited >= 0:
                arrival = ends[waited]
                arrival += lags[waited] if free > arrival else response
                if arrival > now:
                    now = arrival
            starts[s] = now
            # What has been submitted is read without a pause, so a read is in flight during [now, free).
            busy = free - now
            if busy <= 0.0:
                now += work
            elif work * slowdown <= busy:
                now += work * slowdown
            else:
                now += work + busy * (1.0 - 1.0 / slowdown)
            stops[s] = now
        self.now, self.free = now, free
        return now - began

    def settle(self, max_runs: int = MAX_RUNS) -> float:
        """Run until two runs in a row are equal, `max_runs` at most, and return the latency of the last.

        Where reading takes longer than computing, the first run begins with the loader behind instead of
        ahead: a lead would be used up over many runs, and none of them would be the steady state.
        """
        if sum(self.reads) >= sum(self.seconds):
            for k in self.wrapping:
                self.free += self.reads[k]
                self.ends[k] = self.free
        latency, behind = self.run(), max(0.0, self.free - self.now)
        for _ in range(max_runs - 1):
            last, lag = latency, behind
            latency, behind = self.run(), max(0.0, self.free - self.now)
            if abs(latency - last) + abs(behind - lag) <= SAME * latency:
                break
        return latency


def simulate(
    durations: Sequence[float],
    tiles: Sequence[Tile],
    loads: Sequence[Load],
    reader: Reader,
    max_runs: int = MAX_RUNS,
) -> Timeline:
    """Times of one run in the steady state: `durations` has the seconds of every step, `loads` are in order
    of submission within a run.

    Runs are simulated until one equals the one before, `max_runs` at most. Raises InternalError where the
    loads are not in order of submission or one's steps are out of order.
    """
    model = _model(durations, tiles, loads, reader)
    model.settle(max_runs)
    began = model.now
    latency = model.run()
    return Timeline(
        latency=latency,
        starts=tuple(time - began for time in model.starts),
        ends=tuple(time - began for time in model.stops),
        load_begins=tuple(time - began for time in model.begins),
        load_ends=tuple(time - began for time in model.ends),
    )


def predicted_timeline(plan: Plan) -> Timeline:
    """The run in the steady state that the plan's prediction sums up."""
    durations = [cost.seconds for cost in plan.costs]
    return simulate(durations, plan.sizing.tiles, plan.sizing.loads, plan.reader, PREDICTED_RUNS)


def predict(
    sizing: Sizing, costs: Sequence[StepCost], reader: Reader, max_runs: int = PREDICTED_RUNS
) -> Prediction:
    """What the time model says of a plan; `costs` has one entry per step.

    `latency` is that of a run in the steady state, `cold_start` that of the first one: resident tiles and
    those that the head of a run finds loaded are read first, then the run begins.
    """
    durations = [cost.seconds for cost in costs]
    timeline = simulate(durations, sizing.tiles, sizing.loads, reader, max_runs)
    ahead = [*sizing.resident, *(load.tile for load in sizing.loads if load.wraps)]
    first_run = _model(durations, sizing.tiles, sizing.loads, reader).run()
    return Prediction(
        latency=timeline.latency,
        compute=sum(durations),
        stall=timeline.stall,
        streamed_nbytes=sum(sizing.tiles[load.tile].nbytes for load in sizing.loads),
        cold_start=sum(reader.seconds(sizing.tiles[tile].nbytes) for tile in ahead) + first_run,
    )


def _model(
    durations: Sequence[float], tiles: Sequence[Tile], loads: Sequence[Load], reader: Reader
) -> TimeModel:
    submitted = [0] * len(durations)
    awaited = [-1] * len(durations)
    last = 0
    for load in loads:
        ordered = load.issue > load.last_use if load.wraps else load.issue <= load.deadline
        if not (last <= load.issue < len(durations) and ordered and 0 <= load.deadline <= load.last_use):
            raise InternalError(
                f"the load of tile {load.tile} has its issue step {load.issue}, deadline {load.deadline} and "
                f"last use {load.last_use} out of order, or is submitted after a later one (at {last})"
            )
        last = load.issue
        submitted[load.issue] += 1
    for i in range(1, len(durations)):
        submitted[i] += submitted[i - 1]
    # Of the loads a step waits for, the one submitted last ends last: those of this run after those that
    # the run before submitted.
    for k in sorted(range(len(loads)), key=lambda k: (not loads[k].wraps, k)):
        awaited[loads[k].deadline] = k
    return TimeModel(
        durations,
        submitted,
        awaited,
        [reader.seconds(tiles[load.tile].nbytes) for load in loads],
        [reader.lag_seconds(tiles[load.tile].nbytes) for load in loads],
        [k for k, load in enumerate(loads) if load.wraps],
        reader.slowdown,
        reader.interruption,
        reader.response,
    )
