"""How fast the target reads, recovered from what a plan predicts."""

from __future__ import annotations

from math import sqrt

from occ.ir import Plan
from occ.passes.timing import Reader, predict, simulate

SLOWEST, FASTEST = 1e5, 1e13
"""Bytes a second between which every storage lies."""

BISECTIONS = 26
ROUNDS = 3


def effective_reader(plan: Plan) -> Reader:
    """The reader, with no fixed cost a request, at which the time model gives what the plan predicts.

    A plan records its prediction and not the reader behind it. The cold start falls as the bandwidth grows,
    so bisection finds the bandwidth; what a run takes beyond computing and waiting is what reading slows
    computing by. A plan that streams nothing gives no hint, and none is needed: nothing is read in a run.
    """
    prediction, sizing = plan.prediction, plan.sizing
    durations = [cost.seconds for cost in plan.costs]
    if not sizing.loads:
        return Reader(FASTEST)
    slowed = max(0.0, prediction.latency - prediction.compute - prediction.stall)
    slowdown = 1.05 if slowed > 0.0 else 1.0
    reader = Reader(_bandwidth(plan, slowdown), 0.0, slowdown)
    for _ in range(ROUNDS if slowed > 0.0 else 0):
        timeline = simulate(durations, sizing.tiles, sizing.loads, reader)
        found = timeline.latency - prediction.compute - timeline.stall
        if found <= 0.0:
            break
        # Computing loses 1 - 1/slowdown of the time in which a read is in flight.
        lost = min(0.9, (1.0 - 1.0 / slowdown) * slowed / found)
        slowdown = 1.0 / (1.0 - lost)
        reader = Reader(_bandwidth(plan, slowdown), 0.0, slowdown)
    return reader


def _bandwidth(plan: Plan, slowdown: float) -> float:
    low, high = SLOWEST, FASTEST
    for _ in range(BISECTIONS):
        middle = sqrt(low * high)
        cold = predict(plan.sizing, plan.costs, Reader(middle, 0.0, slowdown), 1).cold_start
        low, high = (middle, high) if cold > plan.prediction.cold_start else (low, middle)
    return sqrt(low * high)
