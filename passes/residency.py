"""Which tiles stay in memory.

Access is cyclic, so a cache that replaces by recency would always hold the wrong tiles; a fixed set is best.
Candidates come from a token bucket along the run: tiles are streamed at the rate at which computing hides
their reading, and what exceeds it is resident. A grid over the bytes given to residents makes the set of
candidates, the simulator picks one, and exchanges of single tiles guided by its stalls improve it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from occ.passes.compiled import Loops, addresses, loops
from occ.passes.prefetch import Mask, Problem, Schedule, Stays, prefetch, stays, time_model
from occ.passes.timing import Floats, Ints, TimeModel

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

RATE_STEP = 1 / 256
"""How exactly rates are found, as a share of the reading; what is left goes to single tiles."""

RATE_LIMIT = 4.0
"""Largest rate, in times the reading."""

NEIGHBOURS = 6
"""Tiles to pin and tiles to give up that one round of exchanges combines."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A residency with its schedule and what the simulator says of it; `model` has run last the run whose
    latency (seconds) this is."""

    schedule: Schedule
    latency: float
    streamed_nbytes: int
    model: TimeModel

    def better_than(self, other: Candidate) -> bool:
        """Whether it has less latency, or the same with fewer bytes to read."""
        margin = SAME * other.latency
        if abs(self.latency - other.latency) > margin:
            return self.latency < other.latency
        return self.streamed_nbytes < other.streamed_nbytes


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to join the uses of tiles, with what the choice of residents needs of it for any pool.

    `classes` sorts tiles by what a byte of them costs, the dearest last; `axes` are positions of every stay
    along the run, from 0 to 1. Of the dearest tiles first, `cheap_nbytes` adds up bytes and `cheap_reads`
    the seconds that reading them takes in a run.
    """

    stays: Stays
    classes: Ints
    axes: tuple[Floats, ...]
    cheap_nbytes: Floats
    cheap_reads: Floats

    def least_reading(self, resident_nbytes: int) -> float:
        """Seconds of reading in a run that no residents of so many bytes go below."""
        saved = float(np.interp(resident_nbytes, self.cheap_nbytes, self.cheap_reads))
        return float(self.cheap_reads[-1]) - saved


def variants(problem: Problem) -> tuple[Variant, ...]:
    """Ways to join the uses of tiles, one where no tile is used twice; they do not depend on the pool."""
    found: dict[bytes, Variant] = {}
    for share in KEEP_SHARES:
        wanted = stays(problem, share * problem.compute)
        if wanted.last.tobytes() not in found:
            found[wanted.last.tobytes()] = _variant(problem, wanted)
    return tuple(found.values())


def _variant(problem: Problem, wanted: Stays) -> Variant:
    nbytes = problem.nbytes
    tile_reads = np.bincount(wanted.tile, minlength=len(nbytes)) * problem.reads
    density = tile_reads / nbytes
    reads = problem.reads[wanted.tile]
    axes = [np.cumsum(reads) / reads.sum()]
    if problem.compute > 0.0:
        axes.insert(0, problem.clock[wanted.first] / problem.compute)
    dearest = np.argsort(-density, kind="stable")
    return Variant(
        stays=wanted,
        classes=np.floor(np.log(density / density.min()) / np.log(CLASS_FACTOR) + 1e-9).astype(np.int64),
        axes=tuple(axes),
        cheap_nbytes=np.concatenate(([0.0], np.cumsum(nbytes[dearest], dtype=np.float64))),
        cheap_reads=np.concatenate(([0.0], np.cumsum(tile_reads[dearest]))),
    )


def choose_residents(problem: Problem, ways: Sequence[Variant]) -> Schedule | None:
    """The best schedule found, or None where the pool cannot hold a step with its tiles; `ways` are the
    problem's variants.

    Deterministic; its time is that of about 40 simulations and those that EVENTS allows.
    """
    best: Candidate | None = None
    chosen: Variant | None = None
    free = problem.pool_nbytes - int(problem.base.max())
    for way in ways:
        seen: set[bytes] = set()
        for window in _windows(problem, free):
            reading = way.least_reading(free - window)
            if best is not None and _least_latency(problem, reading) > best.latency * (1.0 + SAME):
                continue
            for resident in _candidates(problem, way, free - window, window):
                if resident.tobytes() in seen:
                    continue
                seen.add(resident.tobytes())
                found = evaluate(problem, way.stays, resident, best)
                if found is not None and (best is None or found.better_than(best)):
                    best, chosen = found, way
    if best is None or chosen is None:
        return None
    return _exchange(problem, chosen.stays, best).schedule


def evaluate(
    problem: Problem, wanted: Stays, resident: Mask, rival: Candidate | None = None
) -> Candidate | None:
    """Simulate the earliest schedule of a set of residents; None where it does not fit the pool, and where
    reading alone makes it slower than `rival`."""
    schedule = prefetch(problem, wanted, resident)
    if schedule is None:
        return None
    if rival is not None:
        reading = float(problem.reads[schedule.tile].sum())
        if _least_latency(problem, reading, len(schedule.tile)) > rival.latency * (1.0 + SAME):
            return None
    model = time_model(problem, schedule)
    latency = model.settle(RUNS)
    return Candidate(schedule, latency, int(problem.nbytes[schedule.tile].sum()), model)


def _least_latency(problem: Problem, reading: float, loads: int = 0) -> float:
    """Seconds of a run in which `loads` loads, or more, take `reading` seconds, at least: computing beside
    them is slower, and where nothing computes beside them, steps wait."""
    computing = problem.compute + loads * problem.interruption
    return max(reading, computing + reading * (1.0 - 1.0 / problem.slowdown))


def _waits_and_slacks(found: Candidate) -> tuple[Floats, Floats]:
    """For every load, in order of deadlines: how long its first step waits for it, and how long it is there
    before (seconds; infinite for loads that no step waits for)."""
    model, schedule = found.model, found.schedule
    count, ahead = len(schedule.tile), len(model.wrapping)
    starts, awaited = model.starts, model.awaited
    pauses = starts - np.concatenate(([model.now - found.latency], model.stops[:-1]))
    segments = np.flatnonzero(awaited >= 0)
    loads = (awaited[segments] + ahead) % max(count, 1)
    waits, slacks = np.zeros(count), np.full(count, np.inf)
    waits[loads] = pauses[segments]
    # A load that wraps has already been read again in this run, for the next one.
    needed = starts[segments] + np.where(loads < ahead, found.latency, 0.0)
    slacks[loads] = needed - model.ends[awaited[segments]]
    return waits, slacks


def spread(
    problem: Problem, wanted: Stays, axis: Floats, pinned: Mask, eligible: Mask, nbytes: int, depth: float
) -> Mask:
    """Choose among `eligible` tiles residents of at most `nbytes` bytes, evenly along `axis`.

    `axis` gives the position of every stay, from 0 to 1 over the run. Reading seconds are granted along it at
    a constant rate and saved up to `depth` seconds, which is what a window of that size can hide; a tile for
    which not half of its reading has been granted is resident. Of all rates about the least is taken whose
    residents fit, and what then remains goes to the tiles with the least grant. Tiles that are `pinned`
    take no grant; others not eligible are streamed.
    """
    bucket = _Bucket(problem, wanted, axis, pinned, eligible, depth)
    if not len(bucket.tile):
        return pinned.copy()
    size = problem.nbytes[bucket.tile]
    total = float(bucket.reads.sum())
    step = RATE_STEP * total
    # At least what cannot stay has to be granted, or have been saved up.
    low = max(0.0, total - depth - nbytes * float((bucket.reads / size).max(initial=0.0)))
    high = low + step
    chosen = bucket.residents(high)
    while int(size[chosen].sum()) > nbytes and high < RATE_LIMIT * total:
        low, high = high, min(high + 4.0 * (high - low), RATE_LIMIT * total)
        chosen = bucket.residents(high)
    if int(size[chosen].sum()) > nbytes:
        chosen, margin = chosen[:0], np.zeros(len(size))
    else:
        margin = bucket.margin.copy()
        while high - low > step:
            rate = (low + high) / 2.0
            found = bucket.residents(rate)
            if int(size[found].sum()) <= nbytes:
                chosen, high = found, rate
                margin = bucket.margin.copy()
            else:
                low = rate
    mask = pinned.copy()
    mask[bucket.tile[chosen]] = True
    left = nbytes - int(size[chosen].sum())
    open_ = np.flatnonzero(bucket.open & ~mask[bucket.tile])
    sizes = size.tolist()
    for row in open_[np.lexsort((bucket.tile[open_], margin[open_]))].tolist():
        if sizes[row] <= left:
            mask[bucket.tile[row]] = True
            left -= sizes[row]
    return mask


class _Bucket:
    """Reading seconds granted along the stays of tiles that are not pinned; one row for each stay.

    `open` are rows at which it is decided whether a tile is resident: the first of each eligible tile.
    `margin` is what was left there beyond the tile's reading, in the last pass. What has been saved up when
    one pass ends is there when the next one begins, as it is from run to run.
    """

    def __init__(
        self, problem: Problem, wanted: Stays, axis: Floats, pinned: Mask, eligible: Mask, depth: float
    ) -> None:
        rows = np.flatnonzero(~pinned[wanted.tile])
        self.tile = wanted.tile[rows]
        self.reads = problem.reads[self.tile]
        first = np.zeros(len(rows), dtype=np.bool_)
        first[np.unique(self.tile, return_index=True)[1]] = True
        self.open = first & eligible[self.tile]
        self.margin = np.zeros(len(rows))
        places = axis[rows]
        self._gaps = np.diff(places, prepend=places[-1:] - 1.0)
        self._limits = np.where(self.open, 0.5 * self.reads, -np.inf)
        self._again = ~first
        self._depth = max(depth, 2.0 * float(problem.reads[wanted.tile].max()))
        self._saved = 0.0
        self._granted = np.zeros(len(rows))
        self._resident = np.zeros(len(pinned), dtype=np.bool_)
        operands = (self._gaps, self.reads, self._limits, self.tile, self._again, self._resident)
        self._operands, [self._result] = addresses(operands), addresses([self._granted])

    def residents(self, rate: float) -> Ints:
        """The open rows whose tiles are resident where `rate` seconds are granted over a run."""
        compiled = loops()
        granted = self.grant_in_python(rate) if compiled is None else self._grant(compiled, rate)
        self.margin = granted - self.reads
        return np.flatnonzero(granted < self._limits)

    def _grant(self, compiled: Loops, rate: float) -> Floats:
        """What is granted at each row."""
        self._resident[:] = False
        self._saved = compiled.grant(
            len(self.tile), rate, *self._operands, self._depth, self._saved, self._result
        )
        return self._granted

    def grant_in_python(self, rate: float) -> Floats:
        """The same where there is no compiler, as `loops.c` does."""
        depth, credit = self._depth, self._saved
        granted: list[float] = []
        resident: set[int] = set()
        rows = zip(
            (rate * self._gaps).tolist(),
            self.reads.tolist(),
            self._limits.tolist(),
            self.tile.tolist(),
            self._again.tolist(),
            strict=True,
        )
        for grant, read, limit, tile, again in rows:
            credit += grant
            if credit > depth:
                credit = depth
            granted.append(credit)
            # Nothing is taken at further rows of a tile that is resident.
            if again and tile in resident:
                continue
            if credit < limit:
                resident.add(tile)
            else:
                credit -= read
        self._saved = credit
        return np.array(granted)


def _windows(problem: Problem, free: int) -> list[int]:
    """Bytes to leave to streaming of those that the fullest step does not take, ascending."""
    nbytes = problem.nbytes
    typical = float((nbytes * nbytes).sum()) / float(nbytes.sum())
    return sorted({min(free, int(window * typical)) for window in WINDOWS} | {free})


def _candidates(problem: Problem, way: Variant, left: int, window: int) -> Iterator[Mask]:
    """Sets of residents of at most `left` bytes: the dearest tiles, others spread along time or bytes."""
    nbytes, classes = problem.nbytes, way.classes
    pinned = np.zeros(len(nbytes), dtype=np.bool_)
    eligible = pinned
    for level in sorted(set(classes.tolist()), reverse=True):
        eligible = classes == level
        if int(nbytes[eligible].sum()) > left:
            break
        pinned = pinned | eligible
        left -= int(nbytes[eligible].sum())
    depth = float(problem.reads.sum()) * window / float(nbytes.sum())
    for axis in way.axes:
        yield spread(problem, way.stays, axis, pinned, eligible & ~pinned, left, depth)


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
            found = evaluate(problem, wanted, resident, best)
            if found is not None and found.better_than(best):
                best, improved = found, True
                break
    return best


def _neighbours(problem: Problem, wanted: Stays, best: Candidate) -> Iterator[Mask]:
    """Residencies one exchange away, the most promising first: pin tiles that steps wait for longest per
    byte, give up residents where loads are early."""
    schedule, nbytes = best.schedule, problem.nbytes
    load_waits, load_slacks = _waits_and_slacks(best)
    waits = np.bincount(schedule.tile, weights=load_waits, minlength=len(nbytes))
    streamed = np.flatnonzero(~schedule.resident)
    worth = np.lexsort((-problem.reads[streamed] / nbytes[streamed], -waits[streamed] / nbytes[streamed]))
    pins = streamed[worth][:NEIGHBOURS].tolist()

    awaited = np.flatnonzero(np.isfinite(load_slacks))
    slack = np.full(len(nbytes), np.inf)
    if len(awaited):
        following = np.searchsorted(schedule.first[awaited], wanted.first) % len(awaited)
        np.minimum.at(slack, wanted.tile, load_slacks[awaited][following])
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
