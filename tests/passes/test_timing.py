"""The time model: schedules worked out by hand, and a direct transcription of its equations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from occ.errors import InternalError
from occ.ir import Load, Reader, Sizing, StepCost, Tile
from occ.passes.timing import predict, simulate
from occ.units import PAGE

TILES = tuple(Tile(i, i, i + 1, i * PAGE, PAGE) for i in range(4))
SECOND_A_PAGE = Reader(bandwidth=PAGE)


def test_a_load_of_the_same_step_is_waited_for() -> None:
    timeline = simulate([2.0, 3.0], TILES, [Load(0, 1, 1, 1)], SECOND_A_PAGE)
    assert timeline.starts == pytest.approx((0.0, 3.0))
    assert timeline.ends == pytest.approx((2.0, 6.0))
    assert timeline.load_begins == pytest.approx((2.0,))
    assert (timeline.latency, timeline.stall) == pytest.approx((6.0, 1.0))


def test_a_load_issued_earlier_is_hidden() -> None:
    timeline = simulate([2.0, 3.0], TILES, [Load(0, 0, 1, 1)], SECOND_A_PAGE)
    assert (timeline.latency, timeline.stall) == pytest.approx((5.0, 0.0))


def test_reads_queue_behind_each_other() -> None:
    loads = [Load(0, 0, 1, 1), Load(1, 0, 1, 1), Load(2, 1, 2, 2)]
    timeline = simulate([1.0, 1.0, 1.0], TILES, loads, Reader(PAGE, overhead=0.5))
    assert timeline.load_ends == pytest.approx((1.5, 3.0, 4.5))
    assert timeline.starts == pytest.approx((0.0, 3.0, 4.5))
    assert timeline.waits == pytest.approx((0.0, 2.0, 0.5))


def test_the_tail_loads_the_head_of_the_next_run() -> None:
    timeline = simulate([1.0, 4.0], TILES, [Load(0, 1, 0, 0, wraps=True)], SECOND_A_PAGE)
    assert (timeline.latency, timeline.stall) == pytest.approx((5.0, 0.0))
    late = simulate([4.0, 0.25], TILES, [Load(0, 1, 0, 0, wraps=True)], SECOND_A_PAGE)
    assert late.starts[0] == pytest.approx(0.75)
    assert late.latency == pytest.approx(5.0)


def test_reading_that_takes_longer_than_computing_is_the_latency() -> None:
    loads = [Load(1, 0, 1, 1), Load(2, 1, 2, 2), Load(0, 1, 0, 0, wraps=True)]
    timeline = simulate([0.75, 0.75, 0.75], TILES, loads, SECOND_A_PAGE)
    assert timeline.latency == pytest.approx(3.0)


def test_computing_is_slower_while_a_read_is_in_flight() -> None:
    reader = Reader(PAGE, slowdown=2.0)
    # 1 s of reading leaves 0.5 s of the first step's work undone at half speed: 1 + (2 - 0.5) seconds.
    assert simulate([2.0, 1.0], TILES, [Load(0, 0, 1, 1)], reader).ends == pytest.approx((2.5, 3.5))
    # A step within the read takes twice as long.
    assert simulate([0.25, 1.0], TILES, [Load(0, 0, 1, 1)], reader).ends == pytest.approx((0.5, 2.0))


def test_every_load_interrupts_the_step_before_which_it_is_submitted() -> None:
    loads = [Load(0, 0, 1, 1), Load(1, 0, 1, 1), Load(2, 1, 0, 0, wraps=True)]
    timeline = simulate([2.0, 3.0], TILES, loads, Reader(4 * PAGE, interruption=0.5))
    assert timeline.ends == pytest.approx((3.0, 6.5))
    assert (timeline.latency, timeline.stall) == pytest.approx((6.5, 0.0))


def test_a_tile_arrives_a_share_of_its_reading_later() -> None:
    both = [Load(0, 0, 1, 1), Load(1, 0, 2, 2)]
    assert simulate([0.5, 0.5, 0.5], TILES, both, Reader(PAGE, lag=0.5)).starts == (0.0, 1.5, 2.0)
    # Of a read that is made in several requests only the last can be late.
    whole = Reader(PAGE, lag=0.5, request_nbytes=PAGE // 4)
    assert simulate([0.5, 0.5, 0.5], TILES, both, whole).starts == (0.0, 1.125, 2.0)
    # The last one shares with none.
    alone = Reader(PAGE, lag=0.5, response=0.125)
    assert simulate([0.5, 0.5, 0.5], TILES, both, alone).starts == (0.0, 1.5, 2.125)


def test_what_the_run_before_loaded_is_late_as_well() -> None:
    loads = [Load(0, 2, 0, 0, wraps=True), Load(1, 2, 1, 1, wraps=True)]
    timeline = simulate([2.0, 2.0, 0.25], TILES, loads, Reader(PAGE, lag=0.25))
    assert timeline.starts == (1.0, 3.0, 5.0)
    sizing = Sizing(TILES[:2], (), tuple(loads), PAGE)
    assert predict(sizing, [StepCost(4.0, 0)] * 3, Reader(PAGE, lag=9.0)).cold_start == 14.0


def test_prediction_counts_bytes_and_the_cold_start() -> None:
    sizing = Sizing(TILES[:3], (1,), (Load(2, 0, 1, 1), Load(0, 1, 0, 0, wraps=True)), 3 * PAGE)
    costs = [StepCost(2.0, 0), StepCost(2.0, 0)]
    prediction = predict(sizing, costs, SECOND_A_PAGE)
    assert prediction.latency == pytest.approx(4.0)
    assert (prediction.compute, prediction.stall) == pytest.approx((4.0, 0.0))
    assert prediction.streamed_nbytes == 2 * PAGE
    assert prediction.cold_start == pytest.approx(2.0 + 4.0)


@pytest.mark.parametrize(
    "loads",
    [
        [Load(0, 2, 1, 1)],
        [Load(0, 1, 1, 2, wraps=True)],
        [Load(0, 1, 1, 1), Load(1, 0, 2, 2)],
        [Load(0, 3, 3, 3)],
    ],
    ids=["issued after its deadline", "wraps over itself", "not in order", "no such step"],
)
def test_loads_out_of_order_are_refused(loads: list[Load]) -> None:
    with pytest.raises(InternalError, match="the load of tile"):
        simulate([1.0, 1.0, 1.0], TILES, loads, SECOND_A_PAGE)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[list[float], list[Load], Reader]:
    steps = draw(st.integers(2, 6))
    loads = []
    for tile in range(draw(st.integers(0, 4))):
        deadline = draw(st.integers(0, steps - 1))
        last_use = draw(st.integers(deadline, steps - 1))
        if last_use < steps - 1 and draw(st.booleans()):
            loads.append(
                Load(tile, draw(st.integers(last_use + 1, steps - 1)), deadline, last_use, wraps=True)
            )
        else:
            loads.append(Load(tile, draw(st.integers(0, deadline)), deadline, last_use))
    loads.sort(key=lambda load: load.issue)
    durations = draw(st.lists(st.integers(0, 8).map(float), min_size=steps, max_size=steps))
    overheads = st.sampled_from([0.0, 0.25])
    reader = Reader(
        PAGE * draw(st.sampled_from([0.5, 1.0, 3.0])), draw(overheads), interruption=draw(overheads)
    )
    return durations, loads, reader


@given(schedules())
def test_simulation_is_the_equations_over_many_runs(case: tuple[list[float], list[Load], Reader]) -> None:
    durations, loads, reader = case
    runs, clock, free = 40, 0.0, 0.0
    ready: dict[tuple[int, int], float] = {}
    run_ends = []
    for run in range(runs):
        for i, duration in enumerate(durations):
            for k, load in enumerate(loads):
                if load.issue == i:
                    free = max(free, clock) + reader.seconds(PAGE)
                    ready[k, run + load.wraps] = free
            waits = [ready.get((k, run), 0.0) for k, load in enumerate(loads) if load.deadline == i]
            submitted = sum(load.issue == i for load in loads)
            clock = max([clock, *waits]) + duration + reader.interruption * submitted
        run_ends.append(clock)
    # Periods may alternate; over many runs their mean is what counts.
    period = (run_ends[-1] - run_ends[15]) / (runs - 16)
    simulated = simulate(durations, TILES, loads, reader, max_runs=40).latency
    assert simulated == pytest.approx(period, rel=0.1, abs=1e-9)
