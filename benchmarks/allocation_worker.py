"""What the steps of a program allocate outside the arena: `python allocation_worker.py MODEL.occ INPUTS`.

To be started with the malloc counter preloaded (`occ.counter.counter_settings`). Prints as JSON, for a run
after others, every step that made allocations of 64 KiB or more: its `step`, `kernel`, how many (`count`),
the `peak` of all it had at once, and its declared `workspace`, in bytes.
"""

# ruff: noqa: E402  OpenMP's settings bind only before torch is imported.

from __future__ import annotations

import ctypes
import json
import os
import sys
from itertools import groupby
from operator import itemgetter

artifact, inputs = sys.argv[1:]
sys.path.insert(0, artifact)

from runtime_stub.integrity import check_archive, read_member
from runtime_stub.machine import set_openmp

manifest = check_archive(artifact)
set_openmp(manifest["machine"])

import torch

from runtime_stub.facts import plan_facts
from runtime_stub.program import load
from runtime_stub.trace import StepTrace
from runtime_stub.tree import flatten_inputs

RUNS_BEFORE = 2


class CountedTrace(StepTrace):
    """Also records the large allocations within each statement, and the most bytes it had at once."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.counter = ctypes.CDLL(os.environ["OCC_MALLOC_COUNTER"])
        for name in ("live", "peak", "large"):
            getattr(self.counter, f"occ_counter_{name}").restype = ctypes.c_longlong
        self.found: list[tuple[int, int, int]] = []
        self._line = self._live = 0

    def mark(self, line: int) -> None:
        if self._line and (count := self.counter.occ_counter_large()):
            self.found.append((self._line, count, self.counter.occ_counter_peak() - self._live))
        self._line = line
        self._live = self.counter.occ_counter_live()
        self.counter.occ_counter_reset()

    def steps(self) -> list[tuple[int, int, int]]:
        """Number of the step, large allocations and bytes at once, of each statement with any."""
        return [(self._parsed(line)[1], count, peak) for line, count, peak in self.found]


def main() -> None:
    with load(artifact) as program:
        args, kwargs = torch.load(inputs, weights_only=True)
        names = [spec["name"] for spec in manifest["inputs"]]
        flat = flatten_inputs(manifest["input_tree"], names, args, kwargs)
        for _ in range(RUNS_BEFORE):
            outputs = program.run(flat)
        given = dict(zip((spec["name"] for spec in manifest["outputs"]), outputs, strict=True))
        written = {name: given[name] for name in program.writable_outputs()}
        trace = CountedTrace(program.text)
        program.run(flat, written, trace)  # compiles the marked text
        trace.found.clear()
        trace.mark(0)
        program.run(flat, written, trace)
        facts = plan_facts(json.loads(read_member(artifact, "plan.json"))["plan"])
        rows = []
        for number, group in groupby(sorted(trace.steps()), key=itemgetter(0)):
            statements = list(group)
            step = facts.steps[number] if number >= 0 else None
            rows.append(
                {
                    "step": step.name if step else "",
                    "kernel": step.kernel if step else "",
                    "count": sum(count for _, count, _ in statements),
                    "peak": max(peak for _, _, peak in statements),
                    "workspace": step.workspace if step else 0,
                }
            )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
