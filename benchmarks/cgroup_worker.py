"""Run an artifact over and over: `python cgroup_worker.py MODEL.occ INPUTS.pt RUNS SECONDS`.

Imports everything, calls each kind of kernel once on tiny tensors, prints `ready` and waits for a line. Then
loads the artifact, runs it RUNS times or for SECONDS, at least MIN_RUNS times, each result gone before the
next run, and prints one JSON object.
"""

# ruff: noqa: E402  OpenMP's settings bind only before torch is imported.

from __future__ import annotations

import json
import statistics
import sys
from time import perf_counter

from occ.runtime_stub.integrity import check_archive
from occ.runtime_stub.machine import set_allocator, set_openmp

MIN_RUNS = 10
SETTLED = 3
"""Runs after which nothing may grow."""

artifact, inputs, runs, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
machine = check_archive(artifact)["machine"]
set_openmp(machine)
set_allocator()

import torch

from occ.resident import peak_nbytes, resident_nbytes
from occ.runtime_stub import entry, npy  # noqa: F401
from occ.runtime_stub.program import load
from occ.warm_up import warm_up

torch.set_num_threads(machine["threads"])
args, kwargs = torch.load(inputs, weights_only=True)
warm_up()
baseline = resident_nbytes()
print("ready", flush=True)
sys.stdin.readline()

began = perf_counter()
taken: list[float] = []
resident: list[int] = []
with load(artifact) as program:
    while len(taken) < runs and (len(taken) < MIN_RUNS or perf_counter() - began < seconds):
        started = perf_counter()
        program(*args, **kwargs)
        taken.append(perf_counter() - started)
        resident.append(resident_nbytes())
print(
    json.dumps(
        {
            "runs": len(taken),
            "median": statistics.median(taken),
            "baseline": baseline,
            "peak": peak_nbytes(),
            "growth": max(resident[SETTLED:]) - resident[SETTLED - 1],
        }
    ),
    flush=True,
)
