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

import numpy as np
from numpy.typing import NDArray

from occ.errors import InternalError
from occ.ir import Load, Plan, Prediction, Reader, Sizing, StepCost, Tile
from occ.passes.compiled import addresses, loops

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

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

    def __init__(
        self,
        seconds: Floats,
        submitted: Ints,
        awaited: Ints,
        reads: Floats,
        lags: Floats,
        wrapping: Sequence[int],
        slowdown: float,
        interruption: float,
        response: float,
    ) -> None:
        self.seconds = seconds + interruption * np.diff(submitted, prepend=0)
        self.submitted = submitted
        self.awaited = awaited
        self.reads = reads
        self.lags = lags
        self.wrapping = wrapping
        self.slowdown = slowdown
        self.response = response
        self.starts, self.stops = np.zeros(len(seconds)), np.zeros(len(seconds))
        self.begins, self.ends = np.zeros(len(reads)), np.full(len(reads), -inf)
        self._clock = np.zeros(2)
        """Now, and when the loader will be free."""
        self._before = addresses((self.seconds, submitted, awaited, reads, lags))
        self._after = addresses((self.starts, self.stops, self.begins, self.ends, self._clock))

    @property
    def now(self) -> float:
        return float(self._clock[0])

    def run(self) -> float:
        """Advance by one run and return its latency, in O(segments + loads)."""
        began, compiled = self.now, loops()
        if compiled is None:
            self.run_in_python()
        else:
            compiled.run(len(self.seconds), *self._before, self.slowdown, self.response, *self._after)
        return self.now - began

    def run_in_python(self) -> None:
        """Advance by one run where there is no compiler, as `loops.c` does."""
        now, free = self._clock.tolist()
        slowdown, response = self.slowdown, self.response
        reads, lags = self.reads.tolist(), self.lags.tolist()
        begins, ends = self.begins.tolist(), self.ends.tolist()
        starts, stops = [], []
        k = 0
        for work, stop, waited in zip(
            self.seconds.tolist(), self.submitted.tolist(), self.awaited.tolist(), strict=True
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
            starts.append(now)
            # What has been submitted is read without a pause, so a read is in flight during [now, free).
            busy = free - now
            if busy <= 0.0:
                now += work
            elif work * slowdown <= busy:
                now += work * slowdown
            else:
                now += work + busy * (1.0 - 1.0 / slowdown)
            stops.append(now)
        self.starts[:], self.stops[:] = starts, stops
        self.begins[:], self.ends[:] = begins, ends
        self._clock[:] = now, free

    def settle(self, max_runs: int = MAX_RUNS) -> float:
        """Run until two runs in a row are equal, `max_runs` at most, and return the latency of the last.

        Where reading takes longer than computing, the first run begins with the loader behind instead of
        ahead: a lead would be used up over many runs, and none of them would be the steady state.
        """
        if self.reads.sum() >= self.seconds.sum():
            for k in self.wrapping:
                self._clock[1] += self.reads[k]
                self.ends[k] = self._clock[1]
        latency, behind = self.run(), self._behind
        for _ in range(max_runs - 1):
            last, lag = latency, behind
            latency, behind = self.run(), self._behind
            if abs(latency - last) + abs(behind - lag) <= SAME * latency:
                break
        return latency

    @property
    def _behind(self) -> float:
        """Seconds by which the loader is behind."""
        now, free = self._clock.tolist()
        return max(0.0, free - now)


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
        starts=tuple((model.starts - began).tolist()),
        ends=tuple((model.stops - began).tolist()),
        load_begins=tuple((model.begins - began).tolist()),
        load_ends=tuple((model.ends - began).tolist()),
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
        np.array(durations, dtype=np.float64),
        np.array(submitted, dtype=np.int64),
        np.array(awaited, dtype=np.int64),
        np.array([reader.seconds(tiles[load.tile].nbytes) for load in loads], dtype=np.float64),
        np.array([reader.lag_seconds(tiles[load.tile].nbytes) for load in loads], dtype=np.float64),
        [k for k, load in enumerate(loads) if load.wraps],
        reader.slowdown,
        reader.interruption,
        reader.response,
    )
