"""A plan in sentences: the numbers are those of the plan, and every case has its words."""

from __future__ import annotations

import json

import pytest

from occ.ir import Reader
from occ.report.advice import Advice, Bound, advise, advise_below
from occ.units import PAGE, format_bytes
from tests.planners import plans
from tests.report.planned import stack

SOURCE = stack(16)
MOST_LINES = 32


def advice(share: float | None, reader: Reader) -> Advice:
    planner = plans(SOURCE, reader)
    least, most = planner.smallest.budget.total, planner.plan(None).budget.total
    limit = None if share is None else least + int(share * (most - least))
    return advise(planner.plan(limit), SOURCE, planner)


@pytest.mark.parametrize(
    ("share", "bandwidth", "bound"),
    [
        (None, 1e9, Bound.COMPUTING),
        (0.6, 1e12, Bound.COMPUTING),
        (0.3, 1e8, Bound.READING),
        (0.0, 1.5e10, Bound.WAITING),
    ],
)
def test_what_bounds_the_latency_is_said(share: float | None, bandwidth: float, bound: Bound) -> None:
    found = advice(share, Reader(bandwidth, 0.0, 1.02))
    assert found.bound is bound
    text = found.text()
    assert len(text.splitlines()) <= MOST_LINES
    if share is not None:
        assert f"{bound.value.capitalize()} bounds it" in text
    assert json.loads(json.dumps(found.as_dict()))["bound"] == bound.value


def test_waits_are_named_with_their_modules() -> None:
    found = advice(0.1, Reader(3e8, 0.0, 1.0))
    assert found.waits
    assert list(found.waits) == sorted(found.waits, key=lambda wait: (-wait.seconds, wait.step))
    assert f"step {found.waits[0].step}, {found.waits[0].name} in {found.waits[0].module}" in found.text()
    assert sum(wait.seconds for wait in found.waits) == pytest.approx(found.latency - found.compute, rel=0.05)


def test_weights_are_grouped_by_modules_without_their_numbers() -> None:
    [group] = advice(0.3, Reader(1e9)).groups
    assert group.modules == "blocks.*.proj"
    assert group.nbytes == SOURCE.weights_nbytes
    assert 0 < group.streamed_nbytes < group.nbytes


def test_more_memory_is_offered_with_what_it_gives() -> None:
    reader = Reader(3e8, 0.0, 1.0)
    found = advice(0.2, reader)
    assert found.limit is not None
    assert len(found.offers) >= 2
    for offer in found.offers:
        assert offer.budget > found.limit
        assert offer.latency == plans(SOURCE, reader).plan(offer.budget).prediction.latency
        assert f"{format_bytes(offer.budget)}: predicted latency" in found.text()


def test_without_a_limit_more_memory_gives_nothing() -> None:
    found = advice(None, Reader(1e9))
    assert found.offers == ()
    assert "More memory gives nothing" in found.text()
    assert str(found.smallest) in found.text()


def test_a_placement_is_proven_or_its_gap_is_said() -> None:
    found = advice(None, Reader(1e9))
    assert found.proven
    assert "The placement is proven" in found.text()


def test_a_budget_that_is_too_small_is_explained() -> None:
    planner = plans(SOURCE)
    least = planner.smallest.budget.total
    found = advise_below(least - PAGE, SOURCE, planner)
    assert not found.feasible
    assert found.smallest == least
    text = found.text()
    assert f"are {PAGE} too few" in text
    assert "blocks.2.proj.weight" in text
    assert "offers no cut" in text
    assert "A smaller type for the weights" in text
