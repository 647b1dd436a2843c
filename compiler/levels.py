"""How little memory a program can need at once, in a few levels: in another order, then in more bands.

An order costs nothing by itself. A band saves bytes and costs calls, so a budget should have no more of them
than it is worth; and kernels of other sizes have to be measured, so there cannot be a set of bands for every
budget. Levels are a constant ratio apart, down to the least that bands reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from occ.ir import Choices, Program
from occ.passes.ordering import lower_order, runs_of
from occ.shrinking import Shrinking, Shrunk

STEP = 0.93
"""Ratio of neighbouring levels."""

WORTH = 0.95
"""Ratio of bytes to the level before that makes a level worth having."""


class Levels:
    """The levels of one program under `choices` that have neither an order nor bands yet."""

    def __init__(self, source: Program, choices: Choices, beside: Sequence[int]) -> None:
        """`beside` has the bytes that each step of the source needs besides live buffers: the tiles of its
        largest part."""
        self._choices = choices
        self._own = Shrinking(source, range(len(source.steps)), beside)
        order = lower_order(source, beside)
        self._ordered = Shrinking(source, order, beside) if runs_of(order) else None
        self._runs = runs_of(order)
        self._made: dict[int, Choices] = {}

    @cached_property
    def _least(self) -> tuple[int, Choices]:
        """What the fullest step needs at least, and with which choices."""
        own = self._own.shrunk()
        if self._ordered is not None and (other := self._ordered.shrunk()).nbytes < own.nbytes:
            return other.nbytes, self._with(other, self._runs)
        return own.nbytes, self._with(own)

    @property
    def least(self) -> Choices:
        """The choices with which the fullest step needs least."""
        return self._least[1]

    def within(self, nbytes: int) -> Choices | None:
        """The choices of the first level whose fullest step needs at most `nbytes`; None where none needs so
        little."""
        whole = self._own.nbytes
        if whole <= nbytes:
            return self._choices
        if self._ordered is not None and self._ordered.nbytes <= nbytes:
            return replace(self._choices, order=self._runs)
        least, choices = self._least
        if least > WORTH * whole or least > nbytes:
            return None
        target = whole
        while target > nbytes:
            target = int(target * STEP)
        return self._at(target) if target > least else choices

    def _at(self, target: int) -> Choices:
        """The choices of a level above the last."""
        if target not in self._made:
            own = self._own.shrunk(target)
            self._made[target] = self._with(own)
            if own.nbytes > target and self._ordered is not None:
                self._made[target] = self._with(self._ordered.shrunk(target), self._runs)
        return self._made[target]

    def _with(self, shrunk: Shrunk, runs: tuple[tuple[int, int], ...] = ()) -> Choices:
        return replace(self._choices, order=runs, bands=shrunk.bands)
