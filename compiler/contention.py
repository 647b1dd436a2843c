"""Whether other processes compute while something is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

PRESSURE = Path("/proc/pressure/cpu")

CONTENDED = 0.2
"""Share of the time in which some thread waits for a processor, beyond which measured times say little. One
more process that computes makes it 0.5 on two processors; a machine at rest has less than 0.1."""

TELLING_SECONDS = 0.02
"""Shorter times are not counted: Linux weighs what threads wait by whole ticks, 1 to 10 ms, of the time since
the number was last read, and less than a tick by nothing."""


class Contention:
    """For how much of the time that is watched some thread, of whatever process, waits for a processor."""

    def __init__(self) -> None:
        self._waited = self._passed = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count the block's time."""
        waited, began = _waited_seconds(), perf_counter()
        yield
        passed = perf_counter() - began
        if passed >= TELLING_SECONDS:
            self._waited += _waited_seconds() - waited
            self._passed += passed

    @property
    def share(self) -> float:
        """Of the time watched until now; 0 where there was none, or the system does not say."""
        return self._waited / self._passed if self._passed else 0.0


def _waited_seconds() -> float:
    """For how long some thread has waited for a processor since the machine started, as Linux counts it
    (Documentation/accounting/psi.rst); 0 where it does not."""
    try:
        some = PRESSURE.read_text().splitlines()[0].split()
    except OSError:
        return 0.0
    return int(some[-1].removeprefix("total=")) / 1e6
