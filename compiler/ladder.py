"""More memory never makes a plan slower: plans of many budgets, the fastest first, most of them never made.

Sizing is a heuristic: planned by itself, a budget is now and then slower than a smaller one. So a budget gets
the best of what the rungs of a fixed ladder of budgets up to it give. A larger budget has all rungs of a
smaller one, which is all there is to it: its best cannot be slower, by more than SAME.

A ladder has about a hundred rungs, and few of them are sized. What a rung can hold bounds its latency from
below, so rungs wait in a queue by that bound, and are sized when nothing known is faster: best-first branch
and bound (Lawler and Wood, Operations Research 14, 1966).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import accumulate
from math import inf
from typing import Generic, Protocol, TypeVar

from occ.ir import Prediction, Program, Reader, Sizing, StepCost
from occ.passes.liveness import Liveness
from occ.passes.sizing import Refinement, Sizer
from occ.passes.tiling import tiling
from occ.passes.timing import predict
from occ.units import PAGE, round_down, round_up

STEP = 1.03
"""Ratio of neighbouring rungs. What a budget has above its rung, 1.5 % of it on average, is room for the
fragmentation of the placement."""

SAME = 1e-6
"""Relative difference below which two latencies count as equal."""


class Draft(Protocol):
    """A rewritten program with what sizing takes; `outside_nbytes` are those the arena cannot have."""

    @property
    def program(self) -> Program: ...
    @property
    def liveness(self) -> Liveness: ...
    @property
    def costs(self) -> tuple[StepCost, ...]: ...
    @property
    def reader(self) -> Reader: ...
    @property
    def outside_nbytes(self) -> int: ...


AnyDraft = TypeVar("AnyDraft", bound=Draft)


@dataclass(frozen=True, slots=True)
class Sized(Generic[AnyDraft]):
    """A draft sized for the budget `rung` (bytes), and what the time model says of it."""

    rung: int
    draft: AnyDraft
    sizing: Sizing
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Demand:
    """What every schedule of a draft has to move and to compute: bytes of its tiles, the largest first, added
    up; of the fullest step without tiles; for each step bytes of tiles that no step before uses, and seconds
    of computing."""

    tiles_nbytes: tuple[int, ...]
    base_nbytes: int
    first_used_nbytes: tuple[int, ...]
    seconds: tuple[float, ...]

    @staticmethod
    def of(draft: Draft) -> Demand:
        cut = tiling(draft.program)
        first_used = [0] * len(draft.program.steps)
        for each, steps in zip(cut.tiles, cut.uses.of_tile, strict=True):
            first_used[steps[0]] += each.nbytes
        nbytes = sorted((each.nbytes for each in cut.tiles), reverse=True)
        return Demand(
            tiles_nbytes=tuple(accumulate(nbytes, initial=0)),
            base_nbytes=draft.liveness.peak_nbytes,
            first_used_nbytes=tuple(first_used),
            seconds=tuple(cost.seconds for cost in draft.costs),
        )

    def least_latency(self, pool_nbytes: int, reader: Reader) -> float:
        """A latency that no schedule in a pool of so many bytes beats, in the steady state.

        Residents share the pool with the fullest step; as many bytes as the rest are read in every run, as
        the largest tiles and a fraction of one at best, and each interrupts computing, which beside a read is
        slower by the reader's factor. Of what a run of steps needs, at most the pool is there when it begins;
        the rest is read while these steps compute, and while they wait.
        """
        read = self.tiles_nbytes
        streamed = max(0, read[-1] - max(0, pool_nbytes - self.base_nbytes))
        whole = bisect_right(read, streamed) - 1
        requests = float(whole)
        if streamed > read[whole]:
            requests += (streamed - read[whole]) / (read[whole + 1] - read[whole])
        reading = streamed / reader.bandwidth + reader.overhead * requests
        compute = sum(self.seconds) + reader.interruption * requests
        ahead = accumulate(
            (
                nbytes / reader.bandwidth - seconds
                for nbytes, seconds in zip(self.first_used_nbytes, self.seconds, strict=True)
            ),
            lambda best, gain: max(best, 0.0) + gain,
        )
        burst = max(ahead, default=0.0) - pool_nbytes / reader.bandwidth
        return max(reading, compute + reading * (1.0 - 1.0 / reader.slowdown), compute + burst)


def rungs_between(smallest: int, largest: int) -> tuple[int, ...]:
    """Budgets in bytes, ascending, whole pages apart: from `smallest` by STEP to `largest`, both included."""
    found = [smallest]
    while (following := smallest + round_up(int(found[-1] * STEP) - smallest, PAGE)) < largest:
        found.append(max(following, found[-1] + PAGE))
    return (*found, largest) if largest > smallest else (smallest,)


class _Sizings(Generic[AnyDraft]):
    """The sizings of one draft, each made once, and what bounds the latency of those not made yet."""

    def __init__(self, draft: AnyDraft) -> None:
        self.draft = draft
        self._demand = Demand.of(draft)
        self._sizer = Sizer(draft.program, draft.liveness, draft.costs, draft.reader)
        self._made: dict[int, Sized[AnyDraft] | None] = {}

    def least_latency(self, rung: int) -> float:
        """Seconds that no sizing for a rung beats, from what the draft moves and computes."""
        return self._demand.least_latency(self._pool(rung), self.draft.reader)

    @property
    def count(self) -> int:
        """Sizings made."""
        return len(self._made)

    def at(self, rung: int) -> Sized[AnyDraft] | None:
        """The sizing for a rung; None where the draft does not fit it."""
        if rung not in self._made:
            sizing = self._sizer.size(self._pool(rung))
            self._made[rung] = (
                None
                if isinstance(sizing, Refinement)
                else Sized(rung, self.draft, sizing, predict(sizing, self.draft.costs, self.draft.reader))
            )
        return self._made[rung]

    def _pool(self, rung: int) -> int:
        return round_down(rung - self.draft.outside_nbytes, PAGE)


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    """A rung of the ladder (a negative budget, so that larger ones come first) with a latency that nothing
    there beats. `number` is that of a draft there, -1 for all of them."""

    least: float
    rung: int
    number: int


class Ladder(Generic[AnyDraft]):
    """The rungs of one program on one target, and what has been sized of them so far."""

    def __init__(
        self,
        rungs: Sequence[int],
        drafts_at: Callable[[int], Iterable[AnyDraft]],
        least_at: Callable[[int], float] = lambda rung: 0.0,
    ) -> None:
        """`rungs` are budgets in bytes; `drafts_at` gives the drafts worth trying at one, equal ones as the
        same object, and `least_at` seconds that none of them beats: drafts that need not be tried are not
        asked for."""
        self.rungs = tuple(sorted(rungs, reverse=True))
        self._drafts_at = drafts_at
        self._least_at = least_at
        self._sizings: dict[int, _Sizings[AnyDraft]] = {}
        # An object's id is a key only while the object lives.
        self._at_rung: dict[int, tuple[_Sizings[AnyDraft], ...]] = {}

    @property
    def sized(self) -> int:
        """How many sizings have been made."""
        return sum(sizings.count for sizings in self._sizings.values())

    def fastest_first(self, limit: int, rival: float = inf) -> Iterator[Sized[AnyDraft]]:
        """Every draft at every rung up to `limit` bytes where it fits and is faster than `rival` seconds, by
        ascending predicted latency (up to SAME); of equal ones the largest rung first. Sizes only what the
        next result needs."""
        waiting = [_Waiting(self._least_at(rung), -rung, -1) for rung in self.rungs if rung <= limit]
        heapify(waiting)
        made: list[tuple[float, int, int, Sized[AnyDraft]]] = []
        while waiting or made:
            if made and (not waiting or made[0][0] <= waiting[0].least * (1.0 + SAME)):
                yield heappop(made)[3]
                continue
            first = heappop(waiting)
            if first.least * (1.0 + SAME) >= rival:
                waiting.clear()
                continue
            rung, found = -first.rung, self._sizings_at(-first.rung)
            if first.number < 0:
                for number, sizings in enumerate(found):
                    least = max(first.least, sizings.least_latency(rung))
                    heappush(waiting, _Waiting(least, first.rung, number))
                continue
            sized = found[first.number].at(rung)
            if sized is not None and sized.prediction.latency * (1.0 + SAME) < rival:
                heappush(made, (sized.prediction.latency, first.rung, first.number, sized))

    def _sizings_at(self, rung: int) -> tuple[_Sizings[AnyDraft], ...]:
        if rung not in self._at_rung:
            drafts = tuple(self._drafts_at(rung))
            for draft in drafts:
                if id(draft) not in self._sizings:
                    self._sizings[id(draft)] = _Sizings(draft)
            self._at_rung[rung] = tuple(self._sizings[id(draft)] for draft in drafts)
        return self._at_rung[rung]
