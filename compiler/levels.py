"""How little memory a program can need at once, in a few levels: in another order, then in more bands.

An order costs nothing by itself. A band saves bytes and costs calls, so a budget should have no more of them
than it is worth; and kernels of other sizes have to be measured, so there cannot be a set of bands for every
budget. Levels are a constant ratio apart, down to the least that bands reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from occ.ir import Choices, Program
from occ.passes.ordering import lower_order, runs_of
from occ.shrinking import Shrinking, Shrunk

STEP = 0.93
"""Ratio of neighbouring levels."""

WORTH = 0.95
"""Ratio of bytes to the level before that makes a level worth having."""


@dataclass(frozen=True, slots=True)
class Level:
    """Choices, and the bytes that the fullest step needs with them."""

    nbytes: int
    choices: Choices


class Levels:
    """The levels of one program under `choices` that have neither an order nor bands yet."""

    def __init__(self, source: Program, choices: Choices, beside: Sequence[int]) -> None:
        """`beside` has the bytes that each step of the source needs besides live buffers: the tiles of its
        largest part."""
        self._source, self._choices, self._beside = source, choices, beside
        self._own = Shrinking(source, range(len(source.steps)), beside)
        self._made: dict[int, Level] = {}

    @cached_property
    def _order(self) -> tuple[int, ...]:
        return lower_order(self._source, self._beside)

    @cached_property
    def _runs(self) -> tuple[tuple[int, int], ...]:
        return runs_of(self._order)

    @cached_property
    def _ordered(self) -> Shrinking | None:
        """In the other order, where there is one."""
        return Shrinking(self._source, self._order, self._beside) if self._runs else None

    @cached_property
    def least(self) -> Level:
        """The level whose fullest step needs least."""
        own = self._own.shrunk()
        if self._ordered is not None and (other := self._ordered.shrunk()).nbytes < own.nbytes:
            return self._level(other, self._runs)
        return self._level(own)

    def within(self, nbytes: int) -> Level | None:
        """The first level whose fullest step needs at most `nbytes`; None where none needs so little."""
        whole = self._own.nbytes
        if whole <= nbytes:
            return Level(whole, self._choices)
        if self._ordered is not None and self._ordered.nbytes <= nbytes:
            return Level(self._ordered.nbytes, replace(self._choices, order=self._runs))
        least = self.least.nbytes
        if least > WORTH * whole or least > nbytes:
            return None
        target = whole
        while target > nbytes:
            target = int(target * STEP)
        return self._at(target) if target > least else self.least

    def down(self, ratio: float) -> Iterator[Level]:
        """Levels that each need at most `ratio` of what the one before needs, from the whole program's on."""
        nbytes = self._own.nbytes
        while (level := self.within(int(ratio * nbytes))) is not None and level.nbytes < nbytes:
            nbytes = level.nbytes
            yield level

    def _at(self, target: int) -> Level:
        """A level above the last."""
        if target not in self._made:
            own = self._own.shrunk(target)
            self._made[target] = self._level(own)
            if own.nbytes > target and self._ordered is not None:
                self._made[target] = self._level(self._ordered.shrunk(target), self._runs)
        return self._made[target]

    def _level(self, shrunk: Shrunk, runs: tuple[tuple[int, int], ...] = ()) -> Level:
        return Level(shrunk.nbytes, replace(self._choices, order=runs, bands=shrunk.bands))
