"""When to load what is streamed: as early as memory allows, in one closed form over the cyclic schedule.

Loads are submitted in order of their deadlines. Let C[j] be the bytes of the loads up to j, and D(i) those
of the loads whose last use is before step i. If the first q(i) loads have been submitted before step i runs,
base(i) + resident + C[q(i)] - D(i) bytes are taken during it, so C[q(i)] is at most

    room(i) = pool - resident - base(i) + D(i)

and, since q never falls, at most the smallest room from step i on. That suffix minimum is all there is to
it: load j's issue step is the first whose suffix minimum is C[j] or more, and no schedule with the same order
submits any load earlier. Runs follow each other, so room(i + n) = room(i) + the bytes of one run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ.ir import Load, Reader, Tile
from occ.passes.tiling import TileUses
from occ.passes.timing import Floats, Ints, Timeline, TimeModel

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stays:
    """The intervals of steps for which tiles have to be in memory if they are not resident, in order of
    submission (deadline, then tile): `tile` from step `first` until after step `last`.

    `after` is the step before which the tile's bytes are still in memory from its stay before; it is in the
    run before, and negative, for the first stay of a tile.
    """

    tile: Ints
    first: Ints
    last: Ints
    after: Ints


@dataclass(frozen=True, slots=True)
class Problem:
    """One program to be sized: bytes of every step without tiles; bytes of every tile, seconds that reading
    it takes and by which it may be late; `clock[i]` the seconds of computing before step i (one more entry
    than steps); and the pool."""

    tiles: tuple[Tile, ...]
    uses: TileUses
    base: Ints
    nbytes: Ints
    reads: Floats
    lags: Floats
    clock: Floats
    slowdown: float
    interruption: float
    response: float
    pool_nbytes: int

    @property
    def steps(self) -> int:
        return len(self.base)

    @property
    def compute(self) -> float:
        return float(self.clock[-1])


@dataclass(frozen=True, slots=True)
class Schedule:
    """Loads in order of their deadlines: `issue` is negative where it lies in the run before."""

    resident: Mask
    tile: Ints
    first: Ints
    last: Ints
    issue: Ints


def make_problem(
    tiles: tuple[Tile, ...],
    uses: TileUses,
    base: tuple[int, ...],
    durations: list[float],
    reader: Reader,
    pool_nbytes: int,
) -> Problem:
    """Collect what sizing computes with; `base` and `durations` have one entry per step."""
    nbytes = np.array([t.nbytes for t in tiles], dtype=np.int64)
    return Problem(
        tiles=tiles,
        uses=uses,
        base=np.array(base, dtype=np.int64),
        nbytes=nbytes,
        reads=reader.overhead + nbytes / reader.bandwidth,
        lags=np.array([reader.lag_seconds(t.nbytes) for t in tiles], dtype=np.float64),
        clock=np.concatenate(([0.0], np.cumsum(durations, dtype=np.float64))),
        slowdown=reader.slowdown,
        interruption=reader.interruption,
        response=reader.response,
        pool_nbytes=pool_nbytes,
    )


def stays(problem: Problem, keep_seconds: float) -> Stays:
    """Join the uses of a tile into stays: over consecutive steps, and where computing between two uses takes
    less than `keep_seconds`."""
    steps = problem.steps
    rows: list[tuple[int, int, int, int]] = []
    clock = problem.clock.tolist()
    for tile, uses in enumerate(problem.uses.of_tile):
        found: list[list[int]] = []
        for step in uses:
            if found and (step == found[-1][1] + 1 or clock[step] - clock[found[-1][1] + 1] < keep_seconds):
                found[-1][1] = step
            else:
                found.append([step, step])
        after = found[-1][1] - steps
        for first, last in found:
            rows.append((first, tile, last, after))
            after = last
    table = np.array(sorted(rows), dtype=np.int64).reshape(-1, 4)
    return Stays(tile=table[:, 1], first=table[:, 0], last=table[:, 2], after=table[:, 3])


def prefetch(problem: Problem, wanted: Stays, resident: Mask) -> Schedule | None:
    """The earliest schedule for a set of residents (a mask over tiles); None where the pool is too small.

    A load that could be submitted while its tile is still in memory is none: the tile is kept, or becomes
    resident where that holds for its only load.
    """
    resident = resident.copy()
    left = _select(wanted, ~resident[wanted.tile])
    while True:
        issue = _earliest(problem, left, int(problem.nbytes[resident].sum()))
        if issue is None:
            return None
        alone = np.bincount(left.tile, minlength=len(problem.tiles))[left.tile] == 1
        kept = (issue <= left.after + 1) & (alone | (left.after >= 0))
        if not kept.any():
            issue = _in_order(issue, left.after, problem.steps)
            return Schedule(resident, left.tile, left.first, left.last, issue)
        resident[left.tile[kept & alone]] = True
        left = _join(left, kept & ~alone)
        left = _select(left, ~resident[left.tile])


def _earliest(problem: Problem, left: Stays, resident_nbytes: int) -> Ints | None:
    """The issue step of every load by memory alone; None where one would come after its deadline."""
    nbytes = problem.nbytes[left.tile]
    ended = np.bincount(left.last + 1, weights=nbytes, minlength=problem.steps + 1).astype(np.int64)
    room = problem.pool_nbytes - resident_nbytes - problem.base + np.cumsum(ended)[: problem.steps]
    lowest, streamed_nbytes = int(room.min()), int(nbytes.sum())
    if lowest < 0:
        return None
    suffix = np.minimum(np.minimum.accumulate(room[::-1])[::-1], lowest + streamed_nbytes)
    both_runs = np.concatenate((suffix - streamed_nbytes, suffix))
    issue = np.searchsorted(both_runs, np.cumsum(nbytes), side="left") - problem.steps
    return issue if bool((issue <= left.first).all()) else None


def _in_order(issue: Ints, after: Ints, steps: int) -> Ints:
    """Hold loads back until their bytes' last reader, and whatever is submitted after them, too."""
    issue = np.maximum.accumulate(np.maximum(issue, after + 1))
    if len(issue):
        # The next run's first load comes after this run's last one.
        issue = np.maximum(issue, issue[-1] - steps)
    return issue


def _select(chosen: Stays, mask: Mask) -> Stays:
    return Stays(chosen.tile[mask], chosen.first[mask], chosen.last[mask], chosen.after[mask])


def _join(left: Stays, kept: Mask) -> Stays:
    """Join every stay in `kept` to the one of its tile before it."""
    last = left.last.copy()
    rows = np.flatnonzero(np.isin(left.tile, left.tile[kept]))
    row_of = dict(
        zip(zip(left.tile[rows].tolist(), left.last[rows].tolist(), strict=True), rows, strict=True)
    )
    for row in np.flatnonzero(kept)[::-1]:
        last[row_of[int(left.tile[row]), int(left.after[row])]] = last[row]
    return _select(Stays(left.tile, left.first, last, left.after), ~kept)


def time_model(problem: Problem, schedule: Schedule) -> TimeModel:
    """The time model of a schedule, over the segments between issue steps and deadlines."""
    ahead = int(np.searchsorted(schedule.issue, 0))
    issue = np.concatenate((schedule.issue[ahead:], schedule.issue[:ahead] + problem.steps))
    begins = np.zeros(problem.steps, dtype=np.bool_)
    begins[0] = begins[issue] = begins[schedule.first] = True
    bounds, segment = np.flatnonzero(begins), np.cumsum(begins) - 1
    count = len(issue)
    awaited = np.full(len(bounds), -1, dtype=np.int64)
    # Loads end in order, so a step waits for the last of those it needs.
    awaited[segment[schedule.first]] = (np.arange(count) - ahead) % max(count, 1)
    submitted = np.concatenate((schedule.tile[ahead:], schedule.tile[:ahead]))
    return TimeModel(
        seconds=np.diff(np.append(problem.clock[bounds], problem.compute)),
        submitted=np.cumsum(np.bincount(segment[issue], minlength=len(bounds))),
        awaited=awaited,
        reads=problem.reads[submitted],
        lags=problem.lags[submitted],
        wrapping=range(count - ahead, count),
        slowdown=problem.slowdown,
        interruption=problem.interruption,
        response=problem.response,
    )


def delay(problem: Problem, schedule: Schedule, timeline: Timeline, spare: float) -> Schedule:
    """The same schedule with loads submitted as late as they can be, at least `spare` seconds before the
    loader has to begin them; it takes less memory and is never submitted earlier.

    `timeline` is that of the schedule, loads in its order of submission.
    """
    if not len(schedule.tile):
        return schedule
    reads = problem.reads[schedule.tile]
    begin_by = np.empty(len(reads))
    needed = np.array(timeline.starts)[schedule.first] - problem.lags[schedule.tile]
    for run in (timeline.latency, 0.0):
        following = np.inf if run else begin_by[0]
        for k in range(len(reads) - 1, -1, -1):
            following = min(needed[k] + run, following) - reads[k]
            begin_by[k] = following
    submits = np.concatenate(([0.0], timeline.ends[:-1]))
    submits = np.concatenate((submits - timeline.latency, submits))
    latest = np.searchsorted(submits, begin_by - spare, side="right") - 1 - problem.steps
    issue = np.minimum(np.maximum(schedule.issue, latest), schedule.first)
    issue = np.maximum.accumulate(issue)
    return Schedule(schedule.resident, schedule.tile, schedule.first, schedule.last, issue)


def loads_of(schedule: Schedule, steps: int) -> tuple[Load, ...]:
    """The schedule's loads in order of submission within a run."""
    found = [
        Load(tile=tile, issue=issue % steps, deadline=first, last_use=last, wraps=issue < 0)
        for tile, first, last, issue in zip(
            schedule.tile.tolist(),
            schedule.first.tolist(),
            schedule.last.tolist(),
            schedule.issue.tolist(),
            strict=True,
        )
    ]
    return tuple(sorted(found, key=lambda load: load.wraps))
