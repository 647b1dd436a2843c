"""What the steps of a program allocate outside the arena: `python allocation_worker.py MODEL.occ INPUTS`.

To be started with the malloc counter preloaded (`occ.counter.counter_settings`). Prints as JSON, for a run
after others, every step that made allocations of 64 KiB or more: its `step`, `kernel`, how many (`count`),
the `peak` of all it had at once, and its declared `workspace`, in bytes.
"""

# ruff: noqa: E402  OpenMP's settings bind only before torch is imported.

from __future__ import annotations

import json
import sys
from itertools import groupby
from operator import itemgetter

from occ.runtime_stub.integrity import check_archive, read_member
from occ.runtime_stub.machine import set_openmp

artifact, inputs = sys.argv[1:]
manifest = check_archive(artifact)
set_openmp(manifest["machine"])

import torch

from occ.counter import Counter, preloaded_counter
from occ.runtime_stub.facts import plan_facts
from occ.runtime_stub.program import load
from occ.runtime_stub.trace import StepTrace
from occ.runtime_stub.tree import flatten_inputs

RUNS_BEFORE = 2


class CountedTrace(StepTrace):
    """Also records the large allocations within each statement, and the most bytes it had at once."""

    def __init__(self, text: str, counter: Counter) -> None:
        super().__init__(text)
        self.counter = counter
        self.found: list[tuple[int, int, int]] = []
        self._line = 0

    def mark(self, line: int) -> None:
        if self._line and (count := self.counter.large()):
            self.found.append((self._line, count, self.counter.peak()))
        self._line = line
        self.counter.reset()

    def steps(self) -> list[tuple[int, int, int]]:
        """Number of the step, large allocations and bytes at once, of each statement with any."""
        return [(self._parsed(line)[1], count, peak) for line, count, peak in self.found]


def main() -> None:
    counter = preloaded_counter()
    assert counter is not None, "to be started with occ.counter.counter_settings()"
    with load(artifact) as program:
        args, kwargs = torch.load(inputs, weights_only=True)
        names = [spec["name"] for spec in manifest["inputs"]]
        flat = flatten_inputs(manifest["input_tree"], names, args, kwargs)
        for _ in range(RUNS_BEFORE):
            outputs = program.run(flat)
        given = dict(zip((spec["name"] for spec in manifest["outputs"]), outputs, strict=True))
        written = {name: given[name] for name in program.writable_outputs()}
        trace = CountedTrace(program.text, counter)
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
