"""What a command says while it works: lines as stages end, and how far a long one is.

A stage that counts gives its rate and the time that is left. On a terminal that is one line, rewritten on
standard error and gone when the stage ends; elsewhere it is a plain line now and then, among the others.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TextIO

from occ.units import format_bytes

REDRAW_SECONDS = 0.2
"""Between two states of the line on a terminal."""

SHORT_SECONDS = 0.5
"""A stage that takes less is not shown at all."""

PLAIN_SECONDS = 15.0
"""Between two lines of a stage where there is no terminal."""

BYTES = "bytes"
"""The unit whose numbers are written as sizes."""

Advance = Callable[[int], None]
"""Counts so many more."""

_ERASE = "\r\x1b[K"


@dataclass
class Stage:
    """Something that takes long. `total` is None where nobody knows it; times are seconds of a clock."""

    what: str
    total: int | None
    unit: str
    began: float
    done: int = 0
    told: float = field(init=False)

    def __post_init__(self) -> None:
        self.told = self.began

    def text(self, now: float) -> str:
        """How far it is: `measuring 12 of 400 kernels, 35 a second, 11 s left`."""
        seconds = now - self.began
        if not self.unit:
            return f"{self.what}, {_seconds(seconds)}"
        number = format_bytes if self.unit == BYTES else str
        unit = "" if self.unit == BYTES else f" {self.unit}"
        of = "" if self.total is None else f" of {number(self.total)}"
        text = f"{self.what} {number(self.done)}{of}{unit}"
        if not self.done or seconds <= 0.0:
            return f"{text}, {_seconds(seconds)}"
        rate = self.done / seconds
        shown = format_bytes(round(rate)) if self.unit == BYTES else f"{rate:.3g}"
        if self.total is None:
            return f"{text}, {shown} a second"
        return f"{text}, {shown} a second, {_seconds(max(0, self.total - self.done) / rate)} left"


class Progress:
    """Where stages are told. This one keeps silent."""

    def __call__(self, line: str) -> None:
        """Say that something is done."""

    @contextmanager
    def stage(
        self, what: str, total: int | None = None, unit: str = "", *, ticking: bool = True
    ) -> Iterator[Advance]:
        """A stage that lasts as long as the block: `total` things that `unit` names (BYTES: bytes), counted
        by what the block is given. Without a unit only its time is told. Stages may lie within others.

        One that is not `ticking` is told only as it advances: nothing goes on beside it that would disturb a
        measurement.
        """
        yield lambda count: None


class Lines(Progress):
    """Lines alone, as the caller of a function wants them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __call__(self, line: str) -> None:
        self._say(line)


class Shown(Progress):
    """Lines with the time since the beginning, to standard output; a stage under way to `terminal` where that
    is one, and otherwise as lines."""

    def __init__(self, terminal: TextIO | None = None, clock: Callable[[], float] = monotonic) -> None:
        stream = sys.stderr if terminal is None else terminal
        self._terminal = stream if stream.isatty() else None
        self._clock = clock
        self._began = clock()
        self._stages: list[Stage] = []
        self._drawn = ""
        self._lock = threading.RLock()

    def __call__(self, line: str) -> None:
        with self._lock:
            self._erase()
            print(f"[{self._clock() - self._began:6.1f} s] {line}", flush=True)

    @contextmanager
    def stage(
        self, what: str, total: int | None = None, unit: str = "", *, ticking: bool = True
    ) -> Iterator[Advance]:
        """See Progress."""
        stage = Stage(what, total, unit, self._clock())
        over = threading.Event()
        with self._lock:
            self._stages.append(stage)
        ticker = threading.Thread(target=self._tick, args=(over,), name="occ-progress", daemon=True)
        if self._terminal is not None and ticking and len(self._stages) == 1:
            ticker.start()
        try:
            yield lambda count: self._advance(stage, count)
        finally:
            over.set()
            if ticker.ident is not None:
                ticker.join()
            with self._lock:
                self._stages.remove(stage)
                self._erase()

    def _advance(self, stage: Stage, count: int) -> None:
        stage.done += count
        now = self._clock()
        if now - stage.told >= (PLAIN_SECONDS if self._terminal is None else REDRAW_SECONDS):
            stage.told = now
            if self._terminal is None:
                self(stage.text(now))
            else:
                self.draw()

    def _tick(self, over: threading.Event) -> None:
        while not over.wait(REDRAW_SECONDS):
            self.draw()

    def draw(self) -> None:
        """Write the state of the innermost stage that has lasted a while over the line on the terminal."""
        now = self._clock()
        with self._lock:
            shown = [stage for stage in self._stages if now - stage.began >= SHORT_SECONDS]
            text = shown[-1].text(now) if shown else self._drawn
            if self._terminal is not None and text != self._drawn:
                self._terminal.write(f"{_ERASE}{text}")
                self._terminal.flush()
                self._drawn = text

    def _erase(self) -> None:
        if self._drawn and self._terminal is not None:
            self._terminal.write(_ERASE)
            self._terminal.flush()
            self._drawn = ""


SILENT = Progress()


def as_progress(progress: Callable[[str], None]) -> Progress:
    """What the caller gave: a Progress as it is, any other function for its lines."""
    return progress if isinstance(progress, Progress) else Lines(progress)


def _seconds(seconds: float) -> str:
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
