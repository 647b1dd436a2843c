"""The rectangles that every picture of a plan is drawn from."""

from __future__ import annotations

from itertools import combinations

import pytest

from occ.ir import BufferKind, Plan
from occ.report.peak import peak_story
from occ.report.spans import SpanKind, picture
from occ.units import PAGE
from tests.report.planned import Stack, planned, stack
from tests.tiny_plans import EXAMPLES, mlp

STREAMING = {share: planned(stack(12), share) for share in (0.2, 0.4, 0.8)}


@pytest.mark.parametrize("plan", [*STREAMING.values(), planned(stack(12))], ids=str)
def test_the_fullest_step_is_the_bound(plan: Plan) -> None:
    occupancy = picture(plan).occupancy()
    assert max(occupancy.total) == plan.placement.bound
    assert len(occupancy.total) == len(plan.program.steps)


@pytest.mark.parametrize("plan", [*STREAMING.values(), *(make().plan for make in EXAMPLES.values())])
def test_no_two_spans_share_bytes_at_a_step(plan: Plan) -> None:
    for a, b in combinations(picture(plan).spans, 2):
        together = a.first < b.last and b.first < a.last
        assert not (together and a.offset < b.end and b.offset < a.end)


def test_a_wrapping_tile_lies_at_both_ends() -> None:
    drawn = picture(mlp().plan)
    first = [owner.name for owner in drawn.owners].index("fc1.weight")
    spans = [(s.first, s.ready, s.last) for s in drawn.spans if s.owner == first]
    assert spans == [(0, 0, 1), (3, 4, 4)]
    assert drawn.owners[first].kind is SpanKind.STREAMED
    assert drawn.owners[first].module == "net.linear"


def test_tiles_are_named_after_what_they_hold() -> None:
    owners = picture(mlp().plan).owners
    packed = next(owner for owner in owners if owner.kind is SpanKind.RESIDENT)
    assert packed.name == "fc1.bias and 1 more"
    assert packed.holds == (("fc1.bias", 0, 2048), ("fc2.bias", 0, 256))


def test_the_peak_is_explained() -> None:
    plan = STREAMING[0.4]
    story = peak_story(plan, plan.program, picture(plan))
    assert story is not None
    total = picture(plan).occupancy().total
    assert total[story.step] == max(total)
    assert plan.program.steps[story.step].name in story.why[0]
    assert "on purpose" in " ".join(story.why)
    assert story.levers


def test_what_is_kept_across_the_worst_step_is_named() -> None:
    made = Stack()
    x = made.value("x", BufferKind.INPUT, PAGE)
    skip, hidden, wide, y = (
        made.value(name, kind, nbytes)
        for name, kind, nbytes in (
            ("skip", BufferKind.ACTIVATION, 3 * PAGE),
            ("hidden", BufferKind.ACTIVATION, PAGE),
            ("wide", BufferKind.ACTIVATION, PAGE),
            ("y", BufferKind.OUTPUT, PAGE),
        )
    )
    weight = made.weight("up.weight", 2 * PAGE)
    made.step("norm", "norm", "copy", [x], skip)
    made.step("act", "act", "gelu", [skip], hidden)
    made.step("up", "up", "linear", [hidden, weight], wide)
    made.step("add", "", "add", [skip, wide], y)
    program = made.program("residual", x, y)
    plan = planned(program)
    story = peak_story(plan, program, picture(plan))
    assert story is not None
    assert "skip (12.3 kB) is not touched by the step: it is kept from step 0 to 3" in " ".join(story.why)
    assert story.levers[0].startswith("A budget")
    assert story.levers[1].startswith("A smaller input")
