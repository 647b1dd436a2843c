"""When each step, wait and load of a run began and ended, taken without a word in the program's text.

`sys.settrace` reports each line of the step functions as it begins; a statement lasts until the next one
begins. It costs a microsecond or so a line, and nothing when no trace is taken.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any, Protocol

_CALL = re.compile(r"\s*(?P<call>[\w.]+)\(")
_STEP = re.compile(r"#\s*(?P<step>\d+) ")


class Spans(Protocol):
    """What records loads: a list of (tile, submitted, started, finished), in seconds, where it is one."""

    spans: list[tuple[int, float, float, float]] | None


class StepTrace:
    """One run's events. `text` is the program's text."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._begun: list[tuple[int, float]] = []
        self._loads: list[tuple[int, float, float, float]] = []
        self._filename = ""

    @contextmanager
    def recording(self, loader: Spans, filename: str) -> Iterator[None]:
        """Record what the calling thread runs of `filename`, and the loads of `loader`."""
        self._filename = filename
        loader.spans = self._loads
        before = sys.gettrace()
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(before)
            loader.spans = None

    def statements(self) -> list[tuple[str, float, float]]:
        """(text, began, ended) of each statement that ran, in seconds of `time.perf_counter`."""
        found: list[tuple[str, float, float]] = []
        current: tuple[int, float] | None = None
        for line, time in self._begun:
            start = self._statement(line) if line else 0
            if current is not None and start == current[0]:
                continue
            if current is not None and current[0]:
                found.append((self._label(current[0]), current[1], time))
            current = (start, time)
        return found

    def write_chrome(self, path: str) -> None:
        """Write the run for chrome://tracing or Perfetto: kernels in one row, loads in another."""
        statements = self.statements()
        times = [began for _, began, _ in statements] + [submitted for _, submitted, _, _ in self._loads]
        origin = min(times, default=0.0)
        events = [_event(name, 1, began - origin, ended - began) for name, began, ended in statements]
        events += [
            {
                **_event(f"tile {tile}", 2, started - origin, finished - started),
                "args": {"queued_ms": round((started - submitted) * 1e3, 3)},
            }
            for tile, submitted, started, finished in self._loads
        ]
        names = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": {"name": name}}
            for tid, name in ((1, "steps"), (2, "loads"))
        ]
        Path(path).write_text(json.dumps({"traceEvents": names + events}), encoding="utf-8")

    def _on_call(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._on_line if frame.f_code.co_filename == self._filename else None

    def _on_line(self, frame: FrameType, event: str, argument: object) -> Any:
        # A return ends the last statement of a section; it is kept as line 0.
        self._begun.append((frame.f_lineno if event == "line" else 0, perf_counter()))
        return self._on_line

    def _statement(self, line: int) -> int:
        """The line on which the statement that spans `line` begins: the one indented by four."""
        while not re.match(r" {4}\w", self._lines[line - 1]):
            line -= 1
        return line

    def _label(self, line: int) -> str:
        call = _CALL.match(self._lines[line - 1])
        text = call.group("call") if call else self._lines[line - 1].strip()
        if text in ("load", "wait"):
            return self._lines[line - 1].split("#")[0].strip()
        for candidate in self._lines[line - 1 :]:
            step = _STEP.search(candidate)
            if step:
                return f"{step.group('step')} {text}"
        return text


def _event(name: str, tid: int, start: float, duration: float) -> dict[str, Any]:
    return {
        "name": name,
        "ph": "X",
        "pid": 1,
        "tid": tid,
        "ts": round(start * 1e6, 3),
        "dur": round(duration * 1e6, 3),
    }
