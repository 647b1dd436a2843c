"""What planning takes and gives: `python benchmarks/planning.py --models a,b`. Writes docs/planning.md.

For each network: the seconds that planning takes beside capturing and measuring, the curve of predicted
latency over budgets from the smallest to that which holds everything, and how far its arenas lie above their
bounds. A curve that rises with the budget is an error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from markdown_table import MarkdownTable
from zoo_models import ZOO, build

from occ.drafts import PlanningTarget
from occ.goals import Plans
from occ.ir import Plan, Program, StepCost
from occ.measure import Measurer
from occ.model_file import as_call
from occ.pipeline import captured_and_lowered
from occ.planned import planning_target
from occ.progress import SILENT
from occ.report.dump import Dump
from occ.target import local_target
from occ.units import PAGE, round_up

MODELS = "resnet152,gpt2_medium,vit_l_16,bert_large,vgg19,mamba_130m"
POINTS = 20
SAME = 1e-6
"""Relative difference below which two latencies count as equal, as in the planner."""

PREFACE = """# Planning

Seconds of planning beside capturing and measuring: for the smallest budget, then for half and a tenth of
demand, each by itself. Then {points} budgets, evenly spaced in their logarithms from the smallest to the one
that holds all weights: the latency predicted for the first, the one in the middle and the last; how many of
the {points} arenas are at their bound, and the largest excess over it. How to repeat it:
[benchmarks.md](benchmarks.md)."""


@dataclass
class Clock:
    """The cost of every step by `measurer`, and the seconds that measuring took."""

    measurer: Measurer
    seconds: float = field(default=0.0)

    def __call__(self, program: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
        began = time.perf_counter()
        costs = self.measurer.measure(program, spin, resident)
        self.seconds += time.perf_counter() - began
        return costs


@dataclass(frozen=True)
class Planned:
    """Plans, and the seconds that making them took beside measuring."""

    plans: tuple[Plan, ...]
    seconds: float


def planned(source: Program, target: PlanningTarget, clock: Clock, budgets: Sequence[int]) -> Planned:
    """Plan `source` for budgets in bytes, by one planner; 0 is the smallest that works."""
    began, measured = time.perf_counter(), clock.seconds
    planner = Plans(source, target)
    plans = tuple(planner.plan(budget) if budget else planner.smallest for budget in budgets)
    return Planned(plans, time.perf_counter() - began - (clock.seconds - measured))


def spaced(smallest: int, largest: int, count: int) -> list[int]:
    """Budgets in bytes from `smallest` to `largest`, whole pages apart."""
    ratio = (largest / smallest) ** (1.0 / (count - 1))
    inner = [smallest + round_up(int(smallest * ratio**k) - smallest, PAGE) for k in range(1, count - 1)]
    return [smallest, *inner, largest]


def row_of(name: str) -> list[str]:
    """The row of one network. Raises RuntimeError where more memory is predicted to be slower."""
    torch.manual_seed(0)
    model = build(name)
    args, kwargs = as_call(model.example_inputs)
    folder = Path(tempfile.gettempdir())
    target = local_target(folder)
    lowered = captured_and_lowered(
        name,
        model.module,
        args,
        kwargs,
        target=target,
        portable=False,
        progress=SILENT,
        dump=Dump(None),
    )
    source = lowered.program
    with Measurer(target, folder=folder) as measurer:
        clock = Clock(measurer)
        planning = replace(planning_target(source, target, measurer), measure=clock)
        smallest = planned(source, planning, clock, [0])
        least = smallest.plans[0].budget.total
        shares = [
            planned(source, planning, clock, [max(least, int(source.demand * share))]) for share in (0.5, 0.1)
        ]
        [unlimited] = planned(source, planning, clock, [2 * source.demand + least]).plans
        curve = planned(source, planning, clock, spaced(least, unlimited.budget.total, POINTS)).plans
    for less, more in pairwise(curve):
        if more.prediction.latency > less.prediction.latency * (1.0 + SAME):
            raise RuntimeError(
                f"{name} is predicted to take {more.prediction.latency:.6f} s with {more.budget.limit} bytes"
                f" and {less.prediction.latency:.6f} s with {less.budget.limit}"
            )
    excess = [plan.budget.arena / max(1, round_up(plan.placement.bound, PAGE)) - 1.0 for plan in curve]
    latencies = [plan.prediction.latency * 1e3 for plan in curve]
    return [
        name,
        f"{len(source.steps)}",
        f"{clock.seconds:.1f} s",
        *(f"{made.seconds:.1f} s" for made in (smallest, *shares)),
        f"{latencies[0]:.1f} ms",
        f"{latencies[POINTS // 2]:.1f} ms",
        f"{latencies[-1]:.1f} ms",
        f"{sum(extra == 0.0 for extra in excess)}, {max(excess):.2%}",
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default=MODELS, help="names of the zoo, separated by commas")
    parser.add_argument(
        "--table", type=Path, default=Path(__file__).resolve().parent.parent / "docs" / "planning.md"
    )
    options = parser.parse_args(arguments)
    names = options.models.split(",")
    if unknown := [name for name in names if name not in ZOO]:
        parser.error(f"no network {', '.join(unknown)}; the zoo has {', '.join(ZOO)}")
    header = (
        "network",
        "steps",
        "measuring",
        "smallest",
        "50 %",
        "10 %",
        "slowest",
        "median",
        "fastest",
        "arenas",
    )
    table = MarkdownTable(options.table, PREFACE.format(points=POINTS), header)
    failures = 0
    for name in names:
        try:
            row = row_of(name)
        except RuntimeError as error:
            failures += 1
            row = [name, f"FAILED: {error}", *[""] * (len(header) - 2)]
        table.put(row, list(ZOO))
        print(" | ".join(row), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
