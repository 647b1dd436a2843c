"""What a Chrome trace must be to show as it is meant in Perfetto, checked one rule at a time.

The rules are those of the Trace Event Format (Google, 2016) that its importers rely on: known phases with
their required fields, times that are finite and in order, slices of a thread that nest and never cross,
arrows with one begin and one end, bound to a slice at each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

Event = dict[str, Any]
REQUIRED = {
    "X": {"name", "ts", "dur", "pid", "tid"},
    "C": {"name", "ts", "pid", "args"},
    "M": {"name", "pid", "args"},
    "s": {"name", "cat", "id", "ts", "pid", "tid"},
    "t": {"name", "cat", "id", "ts", "pid", "tid"},
    "f": {"name", "cat", "id", "ts", "pid", "tid", "bp"},
}
METADATA = {"process_name": "name", "thread_name": "name", "thread_sort_index": "sort_index"}
ROUNDING = 0.0015
"""Microseconds by which a slice's end may lie off, being the sum of two rounded numbers."""


def check(trace: dict[str, Any]) -> list[Event]:
    """The trace's events, all of them sound; AssertionError otherwise."""
    assert set(trace) <= {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    events: list[Event] = trace["traceEvents"]
    for event in events:
        _check_event(event)
    times = [event["ts"] for event in events if "ts" in event]
    assert times == sorted(times)
    assert min(times, default=0.0) >= 0.0
    named = {event["tid"] for event in events if event["ph"] == "M" and event["name"] == "thread_name"}
    assert {event["tid"] for event in events if event["ph"] in "Xstf"} <= named
    for thread in named:
        _check_nesting([e for e in events if e["ph"] == "X" and e["tid"] == thread])
    _check_arrows(events)
    return events


def _check_event(event: Event) -> None:
    assert REQUIRED[event["ph"]] <= set(event), event
    assert isinstance(event["name"], str)
    assert event["name"]
    for number in (event.get("ts", 0.0), event.get("dur", 0.0)):
        assert isinstance(number, (int, float))
        assert math.isfinite(number)
        assert number >= 0.0
    for number in (event["pid"], event.get("tid", 0)):
        assert type(number) is int
    if event["ph"] == "M":
        assert METADATA[event["name"]] in event["args"]
    if event["ph"] == "C":
        assert event["args"]
        for value in event["args"].values():
            assert isinstance(value, (int, float))
            assert math.isfinite(value)
            assert value >= 0


def _check_nesting(slices: list[Event]) -> None:
    open_until: list[float] = []
    for event in slices:
        while open_until and open_until[-1] <= event["ts"] + ROUNDING:
            open_until.pop()
        end = event["ts"] + event["dur"]
        assert not open_until or end <= open_until[-1] + ROUNDING, event
        open_until.append(end)


def _check_arrows(events: list[Event]) -> None:
    arrows: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            arrows[event["id"]].append(event)
    for points in arrows.values():
        assert [point["ph"] for point in points] == ["s", *"t" * (len(points) - 2), "f"]
        for point in points:
            assert any(
                event["ts"] <= point["ts"] <= event["ts"] + event["dur"] + ROUNDING
                for event in events
                if event["ph"] == "X" and event["tid"] == point["tid"]
            )
