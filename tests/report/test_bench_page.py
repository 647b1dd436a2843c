"""Predicted and measured side by side: what was observed, and the page that shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from occ.bench import Bench
from occ.ir import Plan
from occ.observed import Observed, ObservedRead, median_seconds, observed_runs, typical
from occ.passes.timing import predicted_timeline
from occ.report.bench_page import bench_page, claim
from occ.report.pages import seconds_text
from occ.runtime_stub.jobs import Read, TileJob
from occ.runtime_stub.trace import StepTrace
from tests.report.browser import browser, chromium
from tests.report.planned import planned, stack

PLAN = planned(stack(8), 0.3)


def observed(plan: Plan, factor: float) -> Observed:
    """The plan's run as predicted, all of it `factor` times as long."""
    timeline = predicted_timeline(plan)
    return Observed(
        latency=factor * timeline.latency,
        starts=tuple(factor * start for start in timeline.starts),
        ends=tuple(factor * end for end in timeline.ends),
        waits=tuple(factor * wait for wait in timeline.waits),
        reads=tuple(
            ObservedRead(load.tile, k % 2, factor * begin, factor * end, plan.sizing.tiles[load.tile].nbytes)
            for k, (load, begin, end) in enumerate(
                zip(plan.sizing.loads, timeline.load_begins, timeline.load_ends, strict=True)
            )
        ),
    )


RUNS = tuple(observed(PLAN, factor) for factor in (1.0, 1.5, 3.0))


def bench_of(plan: Plan, latency: float) -> Bench:
    fields = dict.fromkeys(Bench.__dataclass_fields__, 0)
    return Bench(
        **{
            **fields,
            "artifact": "model.occ",
            "runs": 20,
            "planned_nbytes": plan.budget.total,
            "measured_nbytes": plan.budget.total - 1000,
            "arena_nbytes": plan.budget.arena,
            "predicted_latency": plan.prediction.latency,
            "latency": latency,
            "eager_latency": None,
            "difference": None,
        }  # type: ignore[arg-type]
    )


def page() -> str:
    return bench_page(PLAN, bench_of(PLAN, 1.5 * PLAN.prediction.latency), RUNS)


def test_runs_are_told_apart_and_their_waits_belong_to_the_next_step() -> None:
    text = "def steps_0():\n    load(3)\n    first()  # 0 0x0\n    wait(3)\n    second()  # 1 0x0\n"
    trace = StepTrace(text)
    trace._begun = [(2, 10.0), (3, 11.0), (4, 13.0), (5, 17.0), (0, 18.0)]
    trace._begun += [(line, time + 100.0) for line, time in trace._begun]
    trace.runs = [(10.0, 18.5), (110.0, 118.5)]
    job = TileJob.__new__(TileJob)
    job.tile = type("Tile", (), {"id": 3})()
    job.reads = [Read(1, 0, 4096, 10.5, 12.0, 12.5), Read(0, 4096, 4096, 108.0, 111.0, 111.5)]
    trace.jobs = [job]
    first, second = observed_runs(trace, 2)
    for run in (first, second):
        assert run.latency == 8.5
        assert run.starts == (1.0, 7.0)
        assert run.ends == (3.0, 8.0)
        assert run.waits == (0.0, 4.0)
        assert run.seconds == (2.0, 1.0)
    assert first.reads == (ObservedRead(3, 1, 0.5, 2.5, 4096),)
    assert second.reads == (ObservedRead(3, 0, -2.0, 1.5, 4096),)


def test_the_typical_run_is_the_median_and_so_is_each_step() -> None:
    assert typical(RUNS) is RUNS[1]
    assert typical(RUNS[:2]) is RUNS[0]
    assert median_seconds(RUNS) == RUNS[1].seconds


@pytest.mark.parametrize(
    ("factor", "told"), [(1.2, "20 % more than"), (0.5, "50 % less than"), (1.001, "as predicted;")]
)
def test_the_claim_compares(factor: float, told: str) -> None:
    text = claim(bench_of(PLAN, factor * PLAN.prediction.latency))
    assert told in text
    assert "within the planned" in text


def test_the_page_has_both_timelines_and_the_largest_differences() -> None:
    text = page()
    assert text == page()
    assert "http" not in re.sub(r"http-equiv", "", text)
    found = re.search(r'<script type="application/json" id="bench">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data = json.loads(found.group(1))
    timeline = predicted_timeline(PLAN)
    assert data["predicted"]["start"] == [round(1e9 * start) for start in timeline.starts]
    assert data["measured"]["latency"] == round(1.5e9 * timeline.latency)
    assert len(data["measured"]["reads"]["begin"]) == len(PLAN.sizing.loads)
    rows = [int(row) for row in re.findall(r'<tr data-step="(\d+)">', text)]
    off = [abs(m - (e - s)) for m, s, e in zip(median_seconds(RUNS), timeline.starts, timeline.ends)]  # noqa: B905
    assert [off[row] for row in rows] == sorted(off, reverse=True)[: len(rows)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ns"), (9.6e-7, "960 ns"), (1.5e-6, "1.5 µs"), (0.0123456, "12.3 ms"), (12, "12 s")],
)
def test_times_are_written_as_the_scripts_write_them(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_draws_points_zooms_and_sorts(tmp_path: Path, scheme: str) -> None:
    binary = chromium()
    if binary is None:
        pytest.skip("no Chromium is installed, so the page is NOT tested")
    (tmp_path / "bench.html").write_text(page())
    with browser(binary) as opened:
        opened.open(tmp_path / "bench.html", scheme=scheme)
        left, top, width, _ = opened.box("#overlay")
        opened.mouse("mouseMoved", left + 122 + (width - 132) * 0.3, top + 20)
        assert opened.text("#tip").startswith("step ")
        assert "predicted / measured" in opened.text("#details")
        before = opened.run("document.querySelector('#base').toDataURL()")
        opened.mouse("mouseWheel", left + width / 2, top + 20, deltaX=0, deltaY=-300)
        assert opened.run("document.querySelector('#base').toDataURL()") != before
        opened.run("document.querySelector('#overlay').focus()")
        opened.key("0")
        assert opened.run("document.querySelector('#base').toDataURL()") == before
        opened.key("n")
        assert opened.text("#spoken").startswith("step 0: ")
        opened.key("Escape")
        rows = opened.text("#steps tbody")
        opened.click('th[data-sort="index"]')
        assert opened.text("#steps tbody tr td").strip() == "0"
        opened.click('th[data-sort="difference"]')
        assert opened.text("#steps tbody") == rows
        assert opened.problems == []
