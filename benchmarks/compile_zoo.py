"""Compile one network of the zoo: `python compile_zoo.py NAME FOLDER THREADS SHARE...`, shares in percent of
demand, THREADS 0 for one per processor.

A share that is smaller than the smallest feasible budget is planned at that one. Writes artifacts and example
inputs to FOLDER, and one JSON object to standard output: see `Compiled` in compiled.py.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from measuring import save_inputs
from zoo_models import build

import occ
from occ.errors import BudgetError
from occ.replanning import replan


@dataclass(frozen=True)
class Timed:
    """An artifact: its path, arena in bytes, the seconds it took to make, and those that a run is predicted
    to take, in all and of computing."""

    artifact: str
    arena: int
    seconds: float
    latency: float
    compute: float


def main(name: str, folder: Path, threads: int | None, shares: list[float]) -> dict[str, object]:
    """Compile without a budget, then plan that artifact anew for every share."""
    model = build(name)
    inputs = save_inputs(folder / "inputs.pt", model.example_inputs)
    began = time.perf_counter()
    whole = occ.compile(
        model.module, model.example_inputs, output=folder / "whole.occ", name=name, threads=threads
    )
    seconds = time.perf_counter() - began
    source = whole.source

    def planned(budget: int) -> Timed:
        began = time.perf_counter()
        made = replan(whole.path, budget, folder / f"{budget}.occ")
        taken = time.perf_counter() - began
        prediction = made.plan.prediction
        return Timed(str(made.path), made.plan.budget.arena, taken, prediction.latency, prediction.compute)

    try:
        planned(1)
        raise SystemExit(f"{name} was planned for a budget of one byte")
    except BudgetError as error:
        smallest, floor = error.smallest, str(error)

    budgets = {share: max(smallest, int(source.demand * share / 100)) for share in shares}
    programs = {budget: planned(budget) for budget in sorted(set(budgets.values()))}
    whole.path.unlink()
    return {
        "kind": model.kind,
        "inputs": str(inputs),
        "weights": source.weights_nbytes,
        "demand": source.demand,
        "smallest": smallest,
        "floor": floor,
        "seconds": seconds,
        "plans": [
            {"share": share, "budget": budget, **vars(programs[budget])} for share, budget in budgets.items()
        ],
    }


if __name__ == "__main__":
    # Standard output is for the JSON alone.
    with contextlib.redirect_stdout(sys.stderr):
        name, folder, threads, *shares = sys.argv[1:]
        result = main(name, Path(folder), int(threads) or None, [float(share) for share in shares])
    print(json.dumps(result))
