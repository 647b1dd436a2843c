"""The ladder of budgets: bounds hold, results come in order, more memory is never slower."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from occ.ir import Choices, Program, Reader, StepCost
from occ.ladder import SAME, STEP, Demand, Ladder, rungs_between
from occ.passes.liveness import Liveness, liveness
from occ.passes.sizing import smallest_pool
from occ.passes.splitting import split_for
from occ.rewrite import rewrite
from occ.units import PAGE
from tests.planners import READER, costs
from tests.programs import programs
from tests.report.planned import stack


@dataclass(frozen=True)
class Draft:
    program: Program
    liveness: Liveness
    costs: tuple[StepCost, ...]
    reader: Reader = READER
    outside_nbytes: int = PAGE


def draft(program: Program, reader: Reader = READER) -> Draft:
    return Draft(program, liveness(program), costs(program), reader)


def smallest(made: Draft) -> int:
    return smallest_pool(made.program, made.liveness).nbytes + made.outside_nbytes


def largest(made: Draft) -> int:
    return made.liveness.peak_nbytes + made.program.file_nbytes + made.outside_nbytes


def ladder_of(drafts: list[Draft]) -> Ladder[Draft]:
    rungs = rungs_between(min(map(smallest, drafts)), max(map(largest, drafts)))
    return Ladder(rungs, lambda rung: drafts)


@given(st.integers(1, 10**6), st.integers(0, 10**10))
def test_rungs_go_up_by_pages_and_by_small_steps(low: int, more: int) -> None:
    rungs = rungs_between(low * PAGE, low * PAGE + more)
    assert rungs[0] == low * PAGE
    assert rungs[-1] == low * PAGE + more
    for lower, upper in pairwise(rungs):
        assert lower < upper <= lower * STEP + PAGE
        assert (lower - rungs[0]) % PAGE == 0


@given(
    programs(max_operations=5),
    st.sampled_from([1.0, 1.3]),
    st.sampled_from([0.0, 1e-5]),
    st.sampled_from([1e7, 1e9, 1e11]),
)
@settings(max_examples=40, deadline=None)
def test_results_ascend_and_none_beats_its_bound(
    program: Program, slowdown: float, interruption: float, bandwidth: float
) -> None:
    reader = Reader(bandwidth, 1e-5, slowdown, interruption)
    made = draft(program, reader)
    before = 0.0
    for sized in ladder_of([made]).fastest_first(largest(made)):
        latency = sized.prediction.latency
        pool = (sized.rung - made.outside_nbytes) // PAGE * PAGE
        assert latency >= Demand.of(made).least_latency(pool, reader) * (1 - SAME)
        assert latency >= before * (1 - SAME)
        before = latency


def test_the_first_result_is_the_best_of_all_rungs_and_drafts() -> None:
    source = stack(12)
    drafts = [draft(source), draft(rewrite(source, Choices(split_for(source, 64 << 10))))]
    ladder = ladder_of(drafts)
    for limit in ladder.rungs[::9]:
        results = list(ladder.fastest_first(limit))
        best = min(result.prediction.latency for result in results)
        assert results[0].prediction.latency <= best * (1 + SAME)
        assert all(result.rung <= limit for result in results)


def test_few_rungs_are_sized() -> None:
    ladder = ladder_of([draft(stack(40))])
    next(ladder.fastest_first(ladder.rungs[0]))
    assert ladder.sized <= len(ladder.rungs) // 4


@pytest.mark.parametrize("share", [0.9, 1.0, 1.1])
def test_with_a_rival_there_are_those_that_beat_it(share: float) -> None:
    made = draft(stack(12))

    def latencies(rival: float) -> list[float]:
        results = ladder_of([made]).fastest_first(largest(made), rival)
        return [result.prediction.latency for result in results]

    every = latencies(float("inf"))
    rival = share * every[len(every) // 2]
    assert latencies(rival) == [each for each in every if each * (1 + SAME) < rival]


@pytest.mark.parametrize("bandwidth", [2e8, 2e9, 2e10])
def test_a_larger_limit_is_never_slower(bandwidth: float) -> None:
    ladder = ladder_of([draft(stack(20), Reader(bandwidth, 1e-5, 1.05))])
    low, high = ladder.rungs[-1], ladder.rungs[0]
    before = float("inf")
    for number in range(60):
        latency = next(ladder.fastest_first(low + (high - low) * number // 59)).prediction.latency
        assert latency <= before * (1 + SAME)
        before = latency


def test_below_the_first_rung_there_is_nothing() -> None:
    ladder = ladder_of([draft(stack(3))])
    assert list(ladder.fastest_first(ladder.rungs[-1] - 1)) == []
