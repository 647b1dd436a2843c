"""Run a model in a process of its own and measure it there: both ends of the pipe.

The child end, `serve`, needs the standard library and torch only, and is the same for a compiled program and
for eager PyTorch. The parent end is `Worker`. They exchange one JSON object a line; tensors go through files.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

Model = Callable[..., object]

WAIT_POLICIES: dict[str, dict[str, str]] = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
"""Environments for eager: OpenMP's threads spin a while when out of work, or sleep at once. Which is faster
depends on the model and on what else runs, so eager is measured under both and the faster one counts."""


@dataclass(frozen=True)
class Measurement:
    """What a worker saw while it served one request (the first: while it loaded the model).

    `seconds` has one entry per run. `peak` is the highest resident memory less the process's own after its
    imports, in bytes; `code` the part of that growth which is pages of files at the end: library code
    touched for the first time, and the libraries' read-only data.
    """

    seconds: tuple[float, ...]
    peak: int
    code: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def resident() -> dict[str, int]:
    """This process's resident memory in bytes, by the kernel's names: VmRSS, its peak VmHWM, RssFile."""
    fields = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    wanted = ("VmRSS:", "VmHWM:", "RssFile:")
    return {field[0][:-1]: int(field[1]) * 1024 for field in fields if field and field[0] in wanted}


def reset_peak() -> None:
    """Set the kernel's peak of resident memory, VmHWM, to what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def tensors_of(result: object) -> list[torch.Tensor]:
    """The tensors in a model's result, in order."""
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def serve(load: Callable[[], Model]) -> None:
    """Load a model, then answer requests on standard input until it closes.

    A request has `inputs` (a file with the arguments: torch.save of (tuple, dict)), `runs`, and `outputs`
    (a file for the tensors of the last result, or null). Every reply has the fields of Measurement.
    """
    baseline = resident()

    def reply(seconds: Sequence[float]) -> None:
        now = resident()
        code = now["RssFile"] - baseline["RssFile"]
        message = {"seconds": seconds, "peak": now["VmHWM"] - baseline["VmRSS"], "code": code}
        print(json.dumps(message), flush=True)

    reset_peak()
    started = time.perf_counter()
    model = load()
    reply([time.perf_counter() - started])
    for line in sys.stdin:
        request = json.loads(line)
        args, kwargs = torch.load(request["inputs"], weights_only=True)
        reset_peak()
        seconds = []
        result: object = None
        for _ in range(request["runs"]):
            result = None
            started = time.perf_counter()
            with torch.no_grad():
                result = model(*args, **kwargs)
            seconds.append(time.perf_counter() - started)
        reply(seconds)
        if request["outputs"]:
            torch.save([tensor.clone() for tensor in tensors_of(result)], request["outputs"])
            print("{}", flush=True)


class Worker:
    """A child process that serves one model; a context manager. `loading` is the measurement of the load.

    Raises RuntimeError where the child ends early; what it wrote to standard error is on the terminal.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.command = tuple(command)
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=None if environment is None else dict(environment),
        )
        self.loading = Measurement(**self._reply())

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"`{' '.join(self.command)}` ended early with exit code {code}")
        reply: dict[str, Any] = json.loads(line)
        if "seconds" in reply:
            reply["seconds"] = tuple(reply["seconds"])
        return reply

    def run(self, inputs: Path, runs: int = 1, outputs: Path | None = None) -> Measurement:
        """Run the model `runs` times on the arguments in `inputs`; the last result's tensors to `outputs`."""
        request = {"inputs": str(inputs), "runs": runs, "outputs": None if outputs is None else str(outputs)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        measurement = Measurement(**self._reply())
        if outputs is not None:
            self._reply()
        return measurement

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()


def in_turns(workers: Sequence[Worker], inputs: Path, rounds: int, runs: int) -> list[Measurement]:
    """Measure the workers by turns, `runs` runs each in every one of `rounds` rounds; the rest waits idle.

    Each round's first run warms up and is not counted.
    """
    seconds: list[list[float]] = [[] for _ in workers]
    peaks = [0] * len(workers)
    code = [0] * len(workers)
    for _ in range(rounds):
        for index, worker in enumerate(workers):
            measured = worker.run(inputs, runs + 1)
            seconds[index].extend(measured.seconds[1:])
            peaks[index] = max(peaks[index], measured.peak)
            code[index] = max(code[index], measured.code)
    return [Measurement(tuple(s), p, c) for s, p, c in zip(seconds, peaks, code, strict=True)]


def save_inputs(path: Path, inputs: Mapping[str, torch.Tensor] | Iterable[torch.Tensor]) -> Path:
    """Write a model's arguments where a worker can read them."""
    arguments = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    torch.save(arguments, path)
    return path


def largest_difference(path: Path, reference: Path) -> tuple[float, float]:
    """Compare two workers' outputs: max |a - b| and max |b| over all tensors.

    Raises ValueError where number, shape or type of the tensors differ.
    """
    ours = torch.load(path, weights_only=True)
    theirs = torch.load(reference, weights_only=True)
    forms = [[(tuple(t.shape), t.dtype) for t in tensors] for tensors in (ours, theirs)]
    if forms[0] != forms[1]:
        raise ValueError(f"the results differ in form: {forms[0]} and, of the reference, {forms[1]}")
    difference = size = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if b.numel():
            a, b = a.double(), b.double()
            # Equal infinities differ by nothing; a NaN, by everything.
            delta = torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(nan=torch.inf, posinf=torch.inf)
            difference = max(difference, delta.max().item())
            size = max(size, b.abs().max().item())
    return difference, size
