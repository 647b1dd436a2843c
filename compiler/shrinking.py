"""Which bands lower the memory that a program needs at once.

The search walks downhill: the step that needs most is covered with a band, until none lowers it any more or a
target is met. Bands are local: one changes only what its own steps need. So each is tried by itself, by
writing its steps and adding up what is live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from occ.bands import band_steps
from occ.ir import ARENA_KINDS, BufferKind, Program, Step
from occ.parts import Memory
from occ.passes.banding import Uses, band_of
from occ.passes.rows import Access, accesses
from occ.units import ALIGNMENT, round_up

REACH = 48
"""Steps on either side of the one that needs most that a band may take in."""

TRIED = 16
"""Spans of steps that are tried for one step that needs most."""

PARTS = (2, 4, 8, 16, 32)

ENOUGH = 0.97
"""Ratio of bytes beyond which twice the parts are not worth it."""

CALL_SECONDS = 1e-5
READ_BANDWIDTH = 2e9
"""Nominal costs of one more call, and of bytes of weights that every part reads: they only rank bands."""

BandChoice = tuple[int, int, str, int]
"""First and last step, axis of the last, parts; as in Choices."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """Bands, ordered by first step, and the bytes that the program needs with them at its fullest step."""

    bands: tuple[BandChoice, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Tried:
    choice: BandChoice
    nbytes: int
    seconds: float


class Shrinking:
    """Bands of one program in one order."""

    def __init__(self, program: Program, order: Sequence[int], beside: Sequence[int]) -> None:
        """`beside` has, for each step of the program, bytes that it needs besides live buffers: its tiles.
        A band's steps need them too."""
        self._program = program
        self._order = tuple(order)
        self._beside = tuple(beside)
        self._uses = Uses.of(program)
        self._memory = Memory(list(program.buffers), list(program.values))
        places = {step: place for place, step in enumerate(self._order)}
        count = len(program.buffers)
        self._size = np.zeros(count, dtype=np.int64)
        self._first = np.full(count, len(self._order), dtype=np.int64)
        self._last = np.full(count, -1, dtype=np.int64)
        for buffer in program.buffers:
            touched = [places[step] for step in self._uses.of_buffer.get(buffer.id, ())]
            if buffer.kind is BufferKind.STATE:
                touched = [-1, len(self._order)]
            if buffer.kind in ARENA_KINDS and touched:
                self._size[buffer.id] = round_up(buffer.nbytes, ALIGNMENT)
                self._first[buffer.id], self._last[buffer.id] = min(touched), max(touched)
        self._needs = self._own_needs()
        self._known: dict[BandChoice, _Tried | None] = {}
        self._patterns: dict[int, tuple[int, int, _Tried]] = {}
        """By a peak: places before and after it that were banded, and what that gave."""
        self._flows = []
        self._first_whole = np.full(count, len(self._order), dtype=np.int64)
        self._last_whole = np.full(count, -1, dtype=np.int64)
        for place, step in enumerate(self._order):
            along = self._along(program.steps[step])
            self._flows.append(self._streams(along))
            whole = _whole(along)
            self._first_whole[whole] = np.minimum(self._first_whole[whole], place)
            self._last_whole[whole] = place

    @property
    def nbytes(self) -> int:
        """What the fullest step needs without bands."""
        return int(self._needs.max()) if len(self._needs) else 0

    def shrunk(self, target: int = 0) -> Shrunk:
        """Bands with which no step needs more than `target` bytes, or as near to it as bands come; no dearer
        ones than that takes."""
        lowest = self._descend(target, cheap=target > 0)
        if lowest.nbytes <= target or not lowest.bands:
            return lowest
        again = self._descend(lowest.nbytes, cheap=True)
        return again if again.nbytes <= lowest.nbytes else lowest

    # Walking downhill

    def _descend(self, target: int, cheap: bool) -> Shrunk:
        bands: dict[tuple[int, int], _Tried] = {}
        needs = self._needs.copy()
        self._patterns = {}
        while len(needs) and (peak := int(needs.max())) > target:
            found = self._cover(int(needs.argmax()), peak, target if cheap else 0, bands)
            if found is None:
                break
            first, last, tried = found
            for span in [span for span in bands if span[0] <= last and first <= span[1]]:
                del bands[span]
                needs[span[0] : span[1] + 1] = self._needs[span[0] : span[1] + 1]
            bands[first, last] = tried
            needs[first : last + 1] = tried.nbytes
        peak = int(needs.max()) if len(needs) else 0
        return Shrunk(tuple(bands[span].choice for span in sorted(bands)), peak)

    def _cover(
        self, place: int, peak: int, target: int, bands: dict[tuple[int, int], _Tried]
    ) -> tuple[int, int, _Tried] | None:
        """The best band that takes in a place and leaves no step there needing `peak` bytes: the cheapest one
        that meets the target, else the one that needs least."""
        repeated = self._repeated(place, peak, bands)
        if repeated is not None:
            return repeated
        best: tuple[tuple[int, float], tuple[int, int, _Tried]] | None = None
        for first, last in self._spans(place, peak):
            around = [span for span in bands if span[0] <= last and first <= span[1]]
            uncovered = [p for a, b in around for p in range(a, b + 1) if not first <= p <= last]
            if any(self._needs[p] >= peak for p in uncovered):
                continue
            for tried in self._tries(first, last):
                if tried.nbytes >= peak:
                    continue
                key = (max(tried.nbytes, target), tried.seconds)
                if best is None or key < best[0]:
                    best = (key, (first, last, tried))
        if best is None:
            return None
        first, last, tried = best[1]
        self._patterns[peak] = (place - first, last - place, tried)
        return best[1]

    def _repeated(
        self, place: int, peak: int, bands: Mapping[tuple[int, int], _Tried]
    ) -> tuple[int, int, _Tried] | None:
        """What was found for the same peak elsewhere, where it does the same here: networks repeat layers."""
        if peak not in self._patterns:
            return None
        before, after, known = self._patterns[peak]
        first, last = place - before, place + after
        if first < 0 or last >= len(self._order) or any(a <= last and first <= b for a, b in bands):
            return None
        _, _, axis, parts = known.choice
        if axis not in {name for name, most in self._axes(last) if most >= parts}:
            return None
        tried = self._tried(first, last, axis, parts)
        return (first, last, tried) if tried is not None and tried.nbytes <= known.nbytes else None

    def _spans(self, place: int, peak: int) -> list[tuple[int, int]]:
        """First and last places of bands that could lower a peak, the shortest first: a longer one is worth
        trying where less is held at its ends or whole within it."""
        low = high = place
        while low > max(0, place - REACH) and self._flows[low]:
            low -= 1
        while high < min(len(self._order) - 1, place + REACH) and self._flows[high + 1]:
            high += 1
        near = np.flatnonzero((self._first <= high) & (self._last >= low))
        size, first, last = self._size[near], self._first[near], self._last[near]
        first_whole, last_whole = self._first_whole[near], self._last_whole[near]
        found = []
        for begin in range(low, place + 1):
            entering = (first < begin) & (last >= begin)
            for end in range(max(place, begin + 1), high + 1):
                if not self._axes(end):
                    continue
                whole = (first_whole <= end) & (last_whole >= begin)
                held = int(size[entering | whole | ((first <= end) & (last > end))].sum())
                if held < peak:
                    found.append((end - begin, held, begin, end))
        least, spans = peak, []
        for _, held, begin, end in sorted(found):
            if held < least:
                least = held
                spans.append((begin, end))
        return spans[-TRIED:]

    def _along(self, step: Step) -> list[tuple[Access, ...]]:
        """What a step touches, along each axis that a band can follow; where there is none, as it is."""
        axes = [axis for axis in step.splits if not axis.staged]
        return [accesses(self._program, step, axis) for axis in axes or (None,)]

    def _streams(self, along: Sequence[Sequence[Access]]) -> bool:
        """Whether a step passes on rows of activations as they come."""
        every = (access for touched in along for access in touched)
        return any(a.view is not None and self._size[a.buffer] for a in every if not a.writes)

    def _axes(self, place: int) -> list[tuple[str, int]]:
        """Axes along which a band could end at a place, with the most parts of each."""
        splits = self._program.steps[self._order[place]].splits
        found = [(axis.name, -(-axis.extent // axis.granule)) for axis in splits if not axis.staged]
        return [(name, most) for name, most in found if most > 1]

    def _tries(self, first: int, last: int) -> list[_Tried]:
        found = []
        for name, most in self._axes(last):
            for parts in sorted({min(parts, most) for parts in PARTS}):
                tried = self._tried(first, last, name, parts)
                if tried is None:
                    continue
                found.append(tried)
                if len(found) > 1 and found[-1].nbytes > ENOUGH * found[-2].nbytes:
                    break
        return found

    def _tried(self, first: int, last: int, axis: str, parts: int) -> _Tried | None:
        """What a band needs; None where its parts do not suit its steps."""
        choice = (self._order[first], self._order[last], axis, parts)
        if choice not in self._known:
            self._known[choice] = self._try(first, last, choice)
        return self._known[choice]

    # What a band needs

    def _try(self, first: int, last: int, choice: BandChoice) -> _Tried | None:
        memory, steps = self._memory, self._order[first : last + 1]
        buffers, values = len(memory.buffers), len(memory.values)
        band = band_of(self._program, self._uses, steps, choice[2], choice[3])
        if not all(cut.suits for cut in band.cuts):
            return None
        made = band_steps(memory, self._program, band, lambda index, step: [step])
        nbytes = self._peak(made, first, last)
        del memory.buffers[buffers:], memory.values[values:]
        beside = sum(self._beside[step] for step in steps)
        seconds = len(made) * CALL_SECONDS + (choice[3] - 1) * beside / READ_BANDWIDTH
        return _Tried(choice, nbytes, seconds)

    def _peak(self, made: Sequence[tuple[int, Step]], first: int, last: int) -> int:
        """The most that any step of a band needs."""
        memory, count = self._memory, len(made)
        begins: dict[int, int] = {}
        ends: dict[int, int] = {}
        for place, (_, step) in enumerate(made):
            for value in step.reads + step.writes:
                buffer = memory.values[value].buffer
                begins.setdefault(buffer, place)
                ends[buffer] = place
        change = [0] * (count + 1)
        across = (self._first < first) & (self._last > last)
        base = int(self._size[across].sum())
        for buffer, begin in begins.items():
            end = ends[buffer]
            if buffer < len(self._size):
                if across[buffer] or not self._size[buffer]:
                    continue
                size = int(self._size[buffer])
                begin = 0 if self._first[buffer] < first else begin
                end = count - 1 if self._last[buffer] > last else end
            else:
                size = round_up(memory.buffers[buffer].nbytes, ALIGNMENT)
            change[begin] += size
            change[end + 1] -= size
        most, live = 0, base
        for (index, _), delta in zip(made, change, strict=False):
            live += delta
            most = max(most, live + self._beside[index])
        return most

    def _own_needs(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """What each step needs, by place, without bands."""
        count = len(self._order)
        change = np.zeros(count + 1, dtype=np.int64)
        used = self._size > 0
        np.add.at(change, np.maximum(self._first[used], 0), self._size[used])
        np.add.at(change, np.minimum(self._last[used] + 1, count), -self._size[used])
        beside = np.array([self._beside[step] for step in self._order], dtype=np.int64)
        needs: np.ndarray[tuple[int], np.dtype[np.int64]] = np.cumsum(change)[:-1] + beside
        return needs


def _whole(along: Sequence[Sequence[Access]]) -> list[int]:
    """Buffers of which a step needs all bytes at once, along whatever axis it is cut."""
    found = [{access.buffer for access in touched if access.view is None} for touched in along]
    return sorted(set.intersection(*found))
