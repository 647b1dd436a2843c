"""Which tiles stay in memory.

Access is cyclic, so a cache that replaces by recency would always hold the wrong tiles; a fixed set is best.
Candidates come from a token bucket along the run: tiles are streamed at the rate at which computing hides
their reading, and what exceeds it is resident. A grid over the bytes given to residents makes the set of
candidates, the simulator picks one, and exchanges of single tiles guided by its stalls improve it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from occ.passes.prefetch import Floats, Mask, Problem, Schedule, Stays, prefetch, stays, time_model

WINDOWS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0)
"""Sizes of the streaming window that are tried, in tiles; what is left of the pool is for residents."""

KEEP_SHARES = (0.0, 1 / 64, 1 / 16, 1 / 4)
"""Gaps between two uses of a tile over which it may be kept, as shares of the run's computing."""

CLASS_FACTOR = 1.5
"""Tiles whose reading costs more seconds a byte by this factor become resident first: small ones, for the
request's overhead, and those that would be read several times a run."""

EVENTS = 1_000_000
"""Steps and loads that the exchanges may simulate, so that their time does not grow with the program."""

SAME = 1e-6
"""Relative difference of latencies below which the schedule that streams less is better."""

RUNS = 4
"""Runs after which a candidate's latency is taken as that of its steady state."""

BISECTIONS = 10
"""Halvings of the interval of rates; the bytes they leave are given out tile by tile."""

NEIGHBOURS = 6
"""Tiles to pin and tiles to give up that one round of exchanges combines."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A residency with its schedule. `waits` and `slacks` have one entry per load, in order of deadlines:
    how long its first step waits for it, and how long it is there before (seconds)."""

    schedule: Schedule
    latency: float
    streamed_nbytes: int
    waits: Floats
    slacks: Floats

    def better_than(self, other: Candidate) -> bool:
        """Whether it has less latency, or the same with fewer bytes to read."""
        margin = SAME * other.latency
        if abs(self.latency - other.latency) > margin:
            return self.latency < other.latency
        return self.streamed_nbytes < other.streamed_nbytes


def choose_residents(problem: Problem) -> Schedule | None:
    """The best schedule found, or None where the pool cannot hold a step with its tiles.

    Deterministic; its time is that of about 40 simulations and those that EVENTS allows.
    """
    best: Candidate | None = None
    chosen: Stays | None = None
    for wanted in _variants(problem):
        for resident in _candidates(problem, wanted):
            found = evaluate(problem, wanted, resident)
            if found is not None and (best is None or found.better_than(best)):
                best, chosen = found, wanted
    if best is None or chosen is None:
        return None
    return _exchange(problem, chosen, best).schedule


def evaluate(problem: Problem, wanted: Stays, resident: Mask) -> Candidate | None:
    """Simulate the earliest schedule of a set of residents; None where it does not fit the pool."""
    schedule = prefetch(problem, wanted, resident)
    if schedule is None:
        return None
    model = time_model(problem, schedule)
    latency = model.settle(RUNS)
    count, ahead = len(schedule.tile), len(model.wrapping)
    starts, awaited = np.array(model.starts), np.array(model.awaited)
    pauses = starts - np.concatenate(([model.now - latency], model.stops[:-1]))
    segments = np.flatnonzero(awaited >= 0)
    loads = (awaited[segments] + ahead) % max(count, 1)
    waits, slacks = np.zeros(count), np.full(count, np.inf)
    waits[loads] = pauses[segments]
    # A load that wraps has already been read again in this run, for the next one.
    needed = starts[segments] + np.where(loads < ahead, latency, 0.0)
    slacks[loads] = needed - np.array(model.ends)[awaited[segments]]
    return Candidate(
        schedule=schedule,
        latency=latency,
        streamed_nbytes=int(problem.nbytes[schedule.tile].sum()),
        waits=waits,
        slacks=slacks,
    )


def spread(
    problem: Problem, wanted: Stays, axis: Floats, pinned: Mask, eligible: Mask, nbytes: int, depth: float
) -> Mask:
    """Choose among `eligible` tiles residents of at most `nbytes` bytes, evenly along `axis`.

    `axis` gives the position of every stay, from 0 to 1 over the run. Reading seconds are granted along it at
    a constant rate and saved up to `depth` seconds, which is what a window of that size can hide; a tile for
    which not half of its reading has been granted is resident. Of all rates the least is taken whose
    residents fit, and what then remains goes to the tiles with the least grant. Tiles that are `pinned`
    take no grant; others not eligible are streamed.
    """
    tiles, reads = wanted.tile.tolist(), problem.reads[wanted.tile].tolist()
    free, open_, size = pinned.tolist(), eligible.tolist(), problem.nbytes.tolist()
    places = axis.tolist()
    depth = max(depth, 2.0 * max(reads))
    low, high = 0.0, 4.0 * sum(reads)
    chosen: set[int] = set()
    margins: dict[int, float] = {}
    credit = 0.0
    for attempt in range(BISECTIONS):
        rate = high if attempt == 0 else (low + high) / 2.0
        resident: set[int] = set()
        margin: dict[int, float] = {}
        place = places[-1] - 1.0
        for tile, read, here in zip(tiles, reads, places, strict=True):
            credit = min(depth, credit + rate * (here - place))
            place = here
            if free[tile] or tile in resident:
                continue
            if open_[tile]:
                if tile not in margin and credit < 0.5 * read:
                    resident.add(tile)
                    continue
                margin.setdefault(tile, credit - read)
            credit -= read
        if sum(size[tile] for tile in resident) <= nbytes:
            chosen, margins, high = resident, margin, rate
        elif attempt == 0:
            margins = dict.fromkeys((tile for tile in tiles if open_[tile]), 0.0)
            break
        else:
            low = rate
    mask = pinned.copy()
    mask[list(chosen)] = True
    left = nbytes - sum(size[tile] for tile in chosen)
    for tile in sorted(margins, key=lambda tile: (margins[tile], tile)):
        if size[tile] <= left:
            mask[tile] = True
            left -= size[tile]
    return mask


def _variants(problem: Problem) -> Iterator[Stays]:
    """Ways to join the uses of tiles; one where no tile is used twice."""
    seen: set[bytes] = set()
    for share in KEEP_SHARES:
        wanted = stays(problem, share * problem.compute)
        key = wanted.last.tobytes()
        if key not in seen:
            seen.add(key)
            yield wanted


def _candidates(problem: Problem, wanted: Stays) -> Iterator[Mask]:
    """Sets of residents over a grid of the bytes they may take, spread along time and along bytes."""
    nbytes = problem.nbytes
    loads = np.bincount(wanted.tile, minlength=len(nbytes))
    density = loads * problem.reads / nbytes
    classes = np.floor(np.log(density / density.min()) / np.log(CLASS_FACTOR) + 1e-9).astype(np.int64)
    reads = problem.reads[wanted.tile]
    axes = [np.cumsum(reads) / reads.sum()]
    if problem.compute > 0.0:
        axes.insert(0, problem.clock[wanted.first] / problem.compute)
    typical = float((nbytes * nbytes).sum()) / float(nbytes.sum())
    free = problem.pool_nbytes - int(problem.base.max())
    windows = {min(free, int(window * typical)) for window in WINDOWS} | {free}
    seen: set[bytes] = set()
    for window in sorted(windows):
        left = free - window
        pinned = np.zeros(len(nbytes), dtype=np.bool_)
        eligible = pinned
        for level in sorted(set(classes.tolist()), reverse=True):
            eligible = classes == level
            if int(nbytes[eligible].sum()) > left:
                break
            pinned = pinned | eligible
            left -= int(nbytes[eligible].sum())
        for axis in axes:
            depth = float(problem.reads.sum()) * window / float(nbytes.sum())
            found = spread(problem, wanted, axis, pinned, eligible & ~pinned, left, depth)
            if found.tobytes() not in seen:
                seen.add(found.tobytes())
                yield found


def _exchange(problem: Problem, wanted: Stays, best: Candidate) -> Candidate:
    """Improve by single exchanges, the first that helps each time, until none does."""
    trials = max(24, EVENTS // (problem.steps + len(problem.nbytes)))
    trials = min(trials, 400)
    seen: set[bytes] = set()
    improved = True
    while improved:
        improved = False
        for resident in _neighbours(problem, wanted, best):
            if resident.tobytes() in seen:
                continue
            seen.add(resident.tobytes())
            if len(seen) > trials:
                return best
            found = evaluate(problem, wanted, resident)
            if found is not None and found.better_than(best):
                best, improved = found, True
                break
    return best


def _neighbours(problem: Problem, wanted: Stays, best: Candidate) -> Iterator[Mask]:
    """Residencies one exchange away, the most promising first: pin tiles that steps wait for longest per
    byte, give up residents where loads are early."""
    schedule, nbytes = best.schedule, problem.nbytes
    waits = np.bincount(schedule.tile, weights=best.waits, minlength=len(nbytes))
    streamed = np.flatnonzero(~schedule.resident)
    worth = np.lexsort((-problem.reads[streamed] / nbytes[streamed], -waits[streamed] / nbytes[streamed]))
    pins = streamed[worth][:NEIGHBOURS].tolist()

    awaited = np.flatnonzero(np.isfinite(best.slacks))
    slack = np.full(len(nbytes), np.inf)
    if len(awaited):
        following = np.searchsorted(schedule.first[awaited], wanted.first) % len(awaited)
        np.minimum.at(slack, wanted.tile, best.slacks[awaited][following])
    resident = np.flatnonzero(schedule.resident)
    drops = resident[np.argsort(-slack[resident], kind="stable")][: 4 * NEIGHBOURS].tolist()

    for pin in pins:
        mask = schedule.resident.copy()
        mask[pin] = True
        yield mask.copy()
        for i in range(min(NEIGHBOURS, len(drops))):
            given, freed = mask.copy(), 0
            for drop in drops[i:]:
                if freed >= nbytes[pin]:
                    break
                given[drop] = False
                freed += int(nbytes[drop])
            yield given
    for drop in drops[:NEIGHBOURS]:
        mask = schedule.resident.copy()
        mask[drop] = False
        yield mask
