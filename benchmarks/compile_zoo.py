"""Compile one network of the zoo: `python compile_zoo.py NAME FOLDER SHARE...`, shares in percent of demand.

Every share that is smaller than the smallest feasible budget is compiled at that one. Writes the artifacts
and the example inputs to FOLDER, and one JSON object to standard output: see `Compiled` in compiled.py.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

from artifact import facts
from measuring import save_inputs
from zoo_models import build

import occ
from occ.errors import BudgetError

name, folder = sys.argv[1], Path(sys.argv[2])
shares = [float(text) for text in sys.argv[3:]]
model = build(name)
inputs = save_inputs(folder / "inputs.pt", model.example_inputs)


def compile_for(budget: int) -> tuple[Path, float]:
    artifact = folder / f"{name}-{budget}.occ"
    began = time.perf_counter()
    # Standard output is for the JSON alone.
    with contextlib.redirect_stdout(sys.stderr):
        occ.compile(model.module, model.example_inputs, budget=budget, output=artifact)
    return artifact, time.perf_counter() - began


try:
    compile_for(1)
    raise SystemExit(f"{name} was compiled for a budget of one byte")
except BudgetError as error:
    smallest, floor = error.smallest, str(error)

artifact, seconds = compile_for(smallest)
found = facts(artifact)
programs = {smallest: (artifact, seconds)}
plans = []
for share in shares:
    budget = max(smallest, int(found.demand * share / 100))
    if budget not in programs:
        programs[budget] = compile_for(budget)
    artifact, seconds = programs[budget]
    plans.append({"share": share, "budget": budget, "artifact": str(artifact), "seconds": seconds})
print(
    json.dumps(
        {
            "kind": model.kind,
            "inputs": str(inputs),
            "weights": found.weights,
            "demand": found.demand,
            "smallest": smallest,
            "floor": floor,
            "plans": plans,
        }
    )
)
