"""A recorded run in the Chrome trace format, for ui.perfetto.dev and chrome://tracing.

One process with a track for modules, one for steps and waits, one for each of the loader's threads, and for
a device one for its copies; arrows from where a tile is asked for, over its first read, to where it is waited
for; counters of the arena's bytes in use, as planned, and of the bytes read a second. Times are microseconds
from the beginning of the trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from .facts import PlanFacts, TileFacts, plan_facts
from .jobs import Job, Read, RowsJob, StagedJob, TileJob
from .trace import Statement, StepTrace

PROCESS = 1
MODULES, STEPS, COPIES, FIRST_READER = 1, 2, 3, 10
"""Thread numbers of the tracks."""

Event = dict[str, Any]


def write_chrome(path: str, trace: StepTrace, plan: Mapping[str, Any]) -> None:
    """Write a trace of one run to `path`; `plan` is that of plan.json. Raises OSError."""
    Path(path).write_text(json.dumps(chrome_trace(trace, plan), separators=(",", ":")), encoding="utf-8")


def chrome_trace(trace: StepTrace, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The trace as JSON data, events in order of their times."""
    facts = plan_facts(plan)
    statements = trace.events()
    jobs = [job for job in trace.jobs if job.reads or _copies(job)]
    begins = [each.began for each in statements] + [job.submitted for job in jobs]
    writer = _Writer(facts, min(begins if trace.began is None else [*begins, trace.began], default=0.0))
    if trace.began is not None and statements:
        writer.start(trace.began, statements[0].began)
    writer.modules(statements)
    writer.statements(statements)
    for number, job in enumerate(jobs):
        writer.job(number, job, statements)
    writer.in_use(statements)
    writer.bandwidth(jobs)
    threads = {read.thread for job in jobs for read in job.reads}
    copied = any(_copies(job) for job in jobs)
    return {
        "displayTimeUnit": "ms",
        "otherData": {"model": facts.model},
        "traceEvents": [*_names(facts.model, threads, copied), *sorted(writer.events, key=_order)],
    }


class _Writer:
    """Events under construction; `origin` is the time (in seconds) that the trace counts from."""

    def __init__(self, facts: PlanFacts, origin: float) -> None:
        self.events: list[Event] = []
        self._facts = facts
        self._origin = origin

    def start(self, began: float, ended: float) -> None:
        """What comes before the first step: loading the program, reading what stays in memory."""
        self._slice("start", "start", STEPS, began, ended, {})

    def modules(self, statements: Iterable[Statement]) -> None:
        steps = (each for each in statements if each.kind == "step")
        for module, group in groupby(steps, key=lambda each: self._facts.steps[each.number].module):
            each = list(group)
            if module:
                self._slice(module, "module", MODULES, each[0].began, each[-1].ended, {})

    def statements(self, statements: Iterable[Statement]) -> None:
        """Steps, one slice each, with their statements inside where there are several; loads and waits."""
        for (kind, number), group in groupby(statements, key=lambda each: (each.kind, each.number)):
            parts = list(group)
            began, ended = parts[0].began, parts[-1].ended
            if kind == "step":
                step = self._facts.steps[number]
                args = {
                    "step": number,
                    "module": step.module,
                    "kernel": step.kernel,
                    "bytes written": step.writes,
                    "workspace": step.workspace,
                    "planned us": round(step.seconds * 1e6, 3),
                }
                self._slice(step.name, "step", STEPS, began, ended, args)
                for part in parts if len(parts) > 1 else ():
                    self._slice(part.text.partition(" ")[2], "call", STEPS, part.began, part.ended, {})
            else:
                for part in parts:
                    self._slice(
                        f"{kind} {self._facts.tiles[number].name}",
                        kind,
                        STEPS,
                        part.began,
                        part.ended,
                        _tile_args(number, self._facts.tiles[number]),
                    )

    def job(self, number: int, job: Job, statements: Sequence[Statement]) -> None:
        """The reads of a job, each on its thread's track, and the arrows that belong to them."""
        reads = sorted(job.reads, key=lambda read: read.began)
        args: dict[str, Any]
        if isinstance(job, TileJob):
            name, args = self._facts.tiles[job.tile.id].name, self._tile_args(job)
        else:
            name = f"rows of {job.table.name}" if isinstance(job, RowsJob) else "rows"
            args = {}
        for index, read in enumerate(reads):
            mine = {
                **args,
                "part": f"{index + 1} of {len(reads)}",
                "part bytes": read.nbytes,
                "part file offset": read.file_offset,
                "queued us": round((read.began - job.submitted) * 1e6, 3),
                "MB/s": _rate(read),
            }
            track = FIRST_READER + read.thread
            self._slice(name, "read", track, read.began, read.checked, mine)
            if read.checked - read.arrived >= 1e-6:
                self._slice("checksum", "check", track, read.arrived, read.checked, {})
        for copy in _copies(job):
            self._slice(name, "copy", COPIES, copy.began, copy.arrived, {**args, "MB/s": _rate(copy)})
        if isinstance(job, TileJob):
            first, track = (
                (reads[0].began, FIRST_READER + reads[0].thread) if reads else (_copies(job)[0].began, COPIES)
            )
            self._arrows(number, job, first, track, statements)

    def in_use(self, statements: Iterable[Statement]) -> None:
        """The bytes of the arena that the plan says are taken, from the beginning of every step on."""
        last: dict[str, int] | None = None
        for number, group in groupby(
            (each for each in statements if each.kind == "step"), key=lambda each: each.number
        ):
            now = {what: column[number] for what, column in self._facts.in_use.items()}
            if now and now != last:
                self._counter("arena in use (bytes, planned)", next(group).began, now)
                last = now

    def bandwidth(self, jobs: Iterable[Job]) -> None:
        """Bytes read a second, by all threads together: each read counts evenly over its time."""
        changes: dict[float, float] = {}
        for read in (read for job in jobs for read in job.reads):
            rate = read.nbytes / max(read.arrived - read.began, 1e-9)
            changes[read.began] = changes.get(read.began, 0.0) + rate
            changes[read.arrived] = changes.get(read.arrived, 0.0) - rate
        rate = 0.0
        for time in sorted(changes):
            rate += changes[time]
            self._counter("read bandwidth (MB/s)", time, {"MB/s": round(max(0.0, rate) / 1e6, 1)})

    def _tile_args(self, job: TileJob) -> dict[str, Any]:
        return _tile_args(job.tile.id, self._facts.tiles[job.tile.id])

    def _arrows(
        self, number: int, job: TileJob, began: float, track: int, statements: Sequence[Statement]
    ) -> None:
        """From the statement that asked for the tile to its first read, and on to the one that waits."""
        points = [(began, track)]
        mine = [each for each in statements if each.kind != "step" and each.number == job.tile.id]
        for each in mine:
            if each.kind == "load" and each.began <= job.submitted <= each.ended:
                points.insert(0, (each.began, STEPS))
        for each in mine:
            if each.kind == "wait" and each.began >= job.submitted and each.ended >= began:
                points.append((max(each.began, began), STEPS))
                break
        for phase, (time, tid) in zip(["s", *"t" * (len(points) - 2), "f"], points, strict=False):
            if len(points) > 1:
                event = {"name": "tile", "cat": "tile", "ph": phase, "id": number, "pid": PROCESS, "tid": tid}
                self.events.append({**event, "ts": self._us(time), **({"bp": "e"} if phase == "f" else {})})

    def _slice(
        self, name: str, category: str, track: int, began: float, ended: float, args: dict[str, Any]
    ) -> None:
        start, end = self._us(began), self._us(ended)
        event = {"name": name, "cat": category, "ph": "X", "pid": PROCESS, "tid": track, "ts": start}
        self.events.append({**event, "dur": round(end - start, 3), "args": args})

    def _counter(self, name: str, time: float, values: Mapping[str, float]) -> None:
        self.events.append(
            {"name": name, "ph": "C", "pid": PROCESS, "tid": 0, "ts": self._us(time), "args": dict(values)}
        )

    def _us(self, time: float) -> float:
        return round((time - self._origin) * 1e6, 3)


def _copies(job: Job) -> list[Read]:
    """What a device copied of a job, and when."""
    return job.copies if isinstance(job, StagedJob) else []


def _rate(read: Read) -> float:
    """MB a second."""
    return round(read.nbytes / 1e6 / max(read.arrived - read.began, 1e-9), 1)


def _tile_args(number: int, tile: TileFacts) -> dict[str, Any]:
    return {
        "tile": number,
        "bytes": tile.nbytes,
        "weights": ", ".join(tile.weights),
        "module": tile.module,
        "file offset": tile.file_offset,
        "arena address": tile.address,
        "resident": tile.resident,
    }


def _order(event: Event) -> tuple[float, float]:
    """By time; of slices that begin together the longer one, which holds the other, first."""
    return event["ts"], -event.get("dur", 0.0)


def _names(model: str, threads: Iterable[int], copied: bool) -> Iterator[Event]:
    """What the process and its tracks are called, and in which order they are shown."""
    yield {"name": "process_name", "ph": "M", "pid": PROCESS, "tid": 0, "args": {"name": f"occ: {model}"}}
    tracks = {MODULES: "modules", STEPS: "steps"}
    if copied:
        tracks[COPIES] = "copies"
    tracks.update({FIRST_READER + thread: f"loader {thread}" for thread in sorted(threads)})
    for order, (tid, name) in enumerate(tracks.items()):
        common = {"ph": "M", "pid": PROCESS, "tid": tid}
        yield {"name": "thread_name", **common, "args": {"name": name}}
        yield {"name": "thread_sort_index", **common, "args": {"sort_index": order}}
