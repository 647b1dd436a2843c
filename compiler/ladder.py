"""More memory never makes a plan slower: plans of many budgets, the fastest first, most of them never made.

Sizing is a heuristic: planned by itself, a budget is now and then slower than a smaller one. So a budget gets
the best of what the rungs of a fixed ladder of budgets up to it give. A larger budget has all rungs of a
smaller one, which is all there is to it: its best cannot be slower, by more than SAME.

A ladder has about a hundred rungs, and few of them are sized. What a rung can hold bounds its latency from
below, so rungs wait in a queue by that bound, and are sized when nothing known is faster: best-first branch
and bound (Lawler and Wood, Operations Research 14, 1966). Just below a budget that is about ten rungs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

from occ.ir import Prediction, Program, Reader, Sizing, StepCost
from occ.passes.liveness import Liveness
from occ.passes.sizing import Refinement, size
from occ.passes.tiling import tile, tile_uses
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
        tiles = tile(draft.program)
        first_used = [0] * len(draft.program.steps)
        for each, steps in zip(tiles, tile_uses(draft.program, tiles).of_tile, strict=True):
            first_used[steps[0]] += each.nbytes
        nbytes = sorted((each.nbytes for each in tiles), reverse=True)
        return Demand(
            tiles_nbytes=tuple(accumulate(nbytes, initial=0)),
            base_nbytes=draft.liveness.peak_nbytes,
            first_used_nbytes=tuple(first_used),
            seconds=tuple(cost.seconds for cost in draft.costs),
        )

    def least_latency(self, pool_nbytes: int, reader: Reader) -> float:
        """A latency that no schedule in a pool of so many bytes beats, in the steady state.

        Residents share the pool with the fullest step; as many bytes as the rest are read in every run, as
        the largest tiles and a fraction of one at best. Computing beside a read is slower by the reader's
        factor. Of what a run of steps needs, at most the pool is there when it begins; the rest is read while
        these steps compute, and while they wait.
        """
        read = self.tiles_nbytes
        streamed = max(0, read[-1] - max(0, pool_nbytes - self.base_nbytes))
        whole = bisect_right(read, streamed) - 1
        requests = float(whole)
        if streamed > read[whole]:
            requests += (streamed - read[whole]) / (read[whole + 1] - read[whole])
        reading = streamed / reader.bandwidth + reader.overhead * requests
        compute = sum(self.seconds)
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


class Ladder(Generic[AnyDraft]):
    """The rungs of one program on one target, and what has been sized of them so far."""

    def __init__(
        self,
        rungs: Sequence[int],
        drafts_at: Callable[[int], Iterable[AnyDraft]],
        reader: Reader,
        least_at: Callable[[int], float] = lambda rung: 0.0,
    ) -> None:
        """`rungs` are budgets in bytes; `drafts_at` gives the drafts worth trying at one, equal ones as the
        same object, and `least_at` seconds that none of them beats: drafts that need not be tried are not
        asked for."""
        self.rungs = tuple(sorted(rungs, reverse=True))
        self._drafts_at = drafts_at
        self._least_at = least_at
        self._reader = reader
        self._demands: dict[int, Demand] = {}
        self._sized: dict[tuple[int, int], Sized[AnyDraft] | None] = {}
        # An object's id is a key only while the object lives.
        self._drafts: dict[int, tuple[AnyDraft, ...]] = {}

    def fastest_first(self, limit: int) -> Iterator[Sized[AnyDraft]]:
        """Every draft at every rung up to `limit` bytes where it fits, by ascending predicted latency (up to
        SAME); of equal ones the largest rung first. Sizes only what the next result needs."""
        # Bounds with the rung and the number of a draft there, -1 for all drafts of a rung.
        waiting = [(self._least_at(rung), -rung, -1) for rung in self.rungs if rung <= limit]
        heapify(waiting)
        made: list[tuple[float, int, int, Sized[AnyDraft]]] = []
        while waiting or made:
            if made and (not waiting or made[0][0] <= waiting[0][0] * (1.0 + SAME)):
                yield heappop(made)[3]
                continue
            least, rung, number = heappop(waiting)
            drafts = self._drafts_of(-rung)
            if number < 0:
                for number, draft in enumerate(drafts):
                    pool = round_down(-rung - draft.outside_nbytes, PAGE)
                    bound = self._demands[id(draft)].least_latency(pool, self._reader)
                    heappush(waiting, (max(least, bound), rung, number))
                continue
            sized = self._size(drafts[number], -rung)
            if sized is not None:
                heappush(made, (sized.prediction.latency, rung, number, sized))

    def _drafts_of(self, rung: int) -> tuple[AnyDraft, ...]:
        if rung not in self._drafts:
            self._drafts[rung] = tuple(self._drafts_at(rung))
            for draft in self._drafts[rung]:
                if id(draft) not in self._demands:
                    self._demands[id(draft)] = Demand.of(draft)
        return self._drafts[rung]

    def _size(self, draft: AnyDraft, rung: int) -> Sized[AnyDraft] | None:
        key = (id(draft), rung)
        if key not in self._sized:
            pool = round_down(rung - draft.outside_nbytes, PAGE)
            sizing = size(draft.program, draft.liveness, draft.costs, self._reader, pool)
            self._sized[key] = (
                None
                if isinstance(sizing, Refinement)
                else Sized(rung, draft, sizing, predict(sizing, draft.costs, self._reader))
            )
        return self._sized[key]
