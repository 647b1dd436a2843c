"""A logarithmic axis: where values lie, and which of them are marked."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log, log10

MOST_TICKS = 8
_DECADE = (1.0, 2.0, 5.0)
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis: values `low` to `high` (above zero) lie at `begin` to `end` of the picture."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies, in units of the picture."""
        share = log(value / self.low) / log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> tuple[float, ...]:
        """Two to MOST_TICKS round values: 1, 2 and 5 of every decade, or even steps where those are few."""
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        found = [digit * 10.0**decade for decade in decades for digit in _DECADE]
        found = [value for value in found if self.low <= value <= self.high]
        if len(found) < 4:
            return self._even_ticks()
        while len(found) > MOST_TICKS:
            found = found[::2] if len(found) % 3 else found[::3]
        return tuple(found)

    def _even_ticks(self) -> tuple[float, ...]:
        rough = (self.high - self.low) / 5
        magnitude = 10.0 ** floor(log10(rough))
        step = next(digit * magnitude for digit in _STEPS if digit * magnitude >= rough)
        first = ceil(self.low / step)
        return tuple(n * step for n in range(first, floor(self.high / step) + 1))
