"""Trace some runs of a program: `python trace_worker.py MODEL.occ INPUTS RUNS`, as JSON on standard output.

For each run the `seconds` of its steps, waits and loads by kind; for the one of median latency also that
`latency`, `waits` and `reads`: when each began and how long it took, in seconds from the first step's begin,
of reads also bytes. `planned` are the seconds of all steps as the plan has them.
"""

# ruff: noqa: E402  OpenMP's settings bind only before torch is imported.

from __future__ import annotations

import json
import sys
from typing import Any

artifact, inputs, runs = sys.argv[1:]
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


def traced(trace: StepTrace) -> dict[str, Any]:
    """What a trace of one run says."""
    events = trace.events()
    began, ended = events[0].began, events[-1].ended
    seconds = dict.fromkeys(("step", "wait", "load"), 0.0)
    for event in events:
        seconds[event.kind] += event.ended - event.began
    return {
        "latency": ended - began,
        "seconds": seconds,
        "waits": [
            (event.began - began, event.ended - event.began) for event in events if event.kind == "wait"
        ],
        "reads": [
            (read.began - began, read.arrived - read.began, read.nbytes)
            for job in trace.jobs
            for read in job.reads
        ],
    }


def main() -> None:
    with load(artifact) as program:
        args, kwargs = torch.load(inputs, weights_only=True)
        names = [spec["name"] for spec in manifest["inputs"]]
        flat = flatten_inputs(manifest["input_tree"], names, args, kwargs)
        found = []
        program.run(flat)
        program.run(flat)
        for _ in range(int(runs)):
            trace = StepTrace(program.text)
            program.run(flat, trace=trace)
            found.append(traced(trace))
        facts = plan_facts(json.loads(read_member(artifact, "plan.json"))["plan"])
    found.sort(key=lambda run: run["latency"])
    middle = found[len(found) // 2]
    print(
        json.dumps(
            {
                "planned": sum(step.seconds for step in facts.steps),
                "seconds": [run["seconds"] for run in found],
                "waits": middle["waits"],
                "reads": middle["reads"],
                "latency": middle["latency"],
            }
        )
    )


if __name__ == "__main__":
    main()
