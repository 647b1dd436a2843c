"""Placements of literal small problems, and the properties that every placement has."""

from __future__ import annotations

from itertools import combinations, permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from occ.errors import InternalError
from occ.ir import PlacementItem
from occ.passes.placement import place


def item(nbytes: int, *ranges: tuple[int, int], alignment: int = 64, name: str = "x") -> PlacementItem:
    return PlacementItem(name, nbytes, alignment, ranges)


def live_together(one: PlacementItem, other: PlacementItem) -> bool:
    return any(a < d and c < b for a, b in one.ranges for c, d in other.ranges)


def is_valid(items: list[PlacementItem], offsets: tuple[int, ...]) -> bool:
    """The oracle: every pair, every byte range."""
    if any(offset % x.alignment or offset < 0 for x, offset in zip(items, offsets, strict=True)):
        return False
    placed = list(zip(items, offsets, strict=True))
    return all(
        not live_together(x, y) or a + x.nbytes <= b or b + y.nbytes <= a
        for (x, a), (y, b) in combinations(placed, 2)
    )


def least_height(items: list[PlacementItem]) -> int:
    """Brute force: some sequence of stacking everything as low as what lies below allows is optimal."""
    best = sum(x.nbytes + x.alignment for x in items)
    for sequence in permutations(range(len(items))):
        offsets: dict[int, int] = {}
        for i in sequence:
            below = [offsets[j] + items[j].nbytes for j in offsets if live_together(items[i], items[j])]
            offsets[i] = -(-max(below, default=0) // items[i].alignment) * items[i].alignment
        best = min(best, max(offsets[i] + items[i].nbytes for i in offsets))
    return best


def test_nothing_takes_no_bytes() -> None:
    placement = place([])
    assert (placement.height, placement.bound, placement.optimal) == (0, 0, True)


def test_items_without_bytes_or_ranges_lie_at_zero() -> None:
    placement = place([item(0, (0, 4)), item(100), item(128, (0, 4))])
    assert placement.offsets == (0, 0, 0)
    assert placement.height == 128


def test_items_that_never_meet_share_bytes() -> None:
    placement = place([item(128, (0, 2)), item(64, (2, 4)), item(128, (4, 6))])
    assert placement.offsets == (0, 0, 0)
    assert placement.optimal


def test_the_padding_of_the_highest_item_does_not_count() -> None:
    placement = place([item(100, (0, 2)), item(100, (0, 2))])
    assert sorted(placement.offsets) == [0, 128]
    assert (placement.height, placement.bound, placement.optimal) == (228, 228, True)


def test_a_chain_alternates_between_two_ends() -> None:
    chain = [item(64 * size, (step, step + 2)) for step, size in enumerate((4, 1, 3, 2, 2, 3, 1, 4))]
    placement = place(chain)
    assert is_valid(chain, placement.offsets)
    assert (placement.height, placement.bound, placement.optimal) == (320, 320, True)


def test_an_optimum_above_the_bound_is_proven() -> None:
    lives = [
        (2, 0, 1),
        (2, 0, 2),
        (1, 2, 3),
        (1, 1, 3),
        (2, 3, 4),
        (1, 1, 5),
        (1, 2, 5),
        (2, 4, 6),
        (2, 5, 6),
    ]
    items = [item(64 * size, (first, last)) for size, first, last in lives]
    every_way = product(*(range(0, 256 - x.nbytes + 1, 64) for x in items))
    assert not any(is_valid(items, offsets) for offsets in every_way)
    placement = place(items)
    assert is_valid(items, placement.offsets)
    assert (placement.bound, placement.height, placement.optimal) == (256, 320, True)


def test_a_wrapped_item_meets_both_ends_of_the_period_only() -> None:
    wrapped = item(4096, (0, 2), (8, 10), alignment=4096)
    items = [wrapped, item(4096, (2, 8)), item(64, (9, 10)), item(64, (0, 1))]
    placement = place(items)
    assert is_valid(items, placement.offsets)
    assert (placement.height, placement.optimal) == (4160, True)
    assert placement.offsets[0] == placement.offsets[1] == 0


def test_mixed_alignment_puts_pages_below_lines() -> None:
    items = [item(100, (0, 3)), item(4096, (0, 3), alignment=4096), item(8192, (1, 2), alignment=4096)]
    placement = place(items)
    assert is_valid(items, placement.offsets)
    assert (placement.height, placement.optimal) == (12388, True)


def test_items_that_are_always_live_lie_at_the_bottom() -> None:
    weights = [item(8192, (0, 6), alignment=4096, name=f"weight{i}") for i in range(3)]
    placement = place([item(64, (0, 3)), *weights, item(128, (3, 6))])
    assert placement.offsets == (24576, 0, 8192, 16384, 24576)
    assert placement.optimal


def test_a_limit_ends_the_search_early() -> None:
    items = [item(64 * (1 + i * 7 % 5), (i, i + 1 + i % 4)) for i in range(30)]
    free = place(items)
    generous = place(items, height_limit=2 * free.height)
    assert generous.method == "dive"
    assert generous.height <= 2 * free.height
    assert generous.bound == free.bound


def test_a_limit_below_the_bound_is_answered_with_the_least_found() -> None:
    placement = place([item(128, (0, 2)), item(128, (1, 3))], height_limit=200)
    assert (placement.height, placement.bound, placement.optimal) == (256, 256, True)


def test_ten_thousand_items_of_a_repeated_layer() -> None:
    layer = [(6, 0, 3), (2, 1, 2), (5, 2, 4), (1, 3, 5), (7, 3, 4)]
    items = [
        item(4096 * size, (4 * i + first, 4 * i + last)) for i in range(2000) for size, first, last in layer
    ]
    placement = place(items)
    assert placement.height == placement.bound


@pytest.mark.parametrize(
    "broken",
    [
        item(-1, (0, 1)),
        item(64, (0, 1), alignment=0),
        item(64, (1, 1)),
        item(64, (0, 3), (2, 4)),
        item(64, (4, 6), (0, 2)),
    ],
)
def test_items_that_break_their_contract_are_refused(broken: PlacementItem) -> None:
    with pytest.raises(InternalError, match="placement item 'x'"):
        place([broken])


@st.composite
def any_item(draw: st.DrawFn) -> PlacementItem:
    steps = sorted(draw(st.sets(st.integers(0, 12), min_size=4, max_size=4)))
    ranges = ((steps[0], steps[1]), (steps[2], steps[3])) if draw(st.booleans()) else ((steps[0], steps[2]),)
    nbytes = draw(st.one_of(st.integers(0, 700), st.integers(1, 6).map(lambda lines: 64 * lines)))
    return PlacementItem("any", nbytes, draw(st.sampled_from((64, 64, 256))), ranges)


@settings(max_examples=60, deadline=None)
@given(st.lists(any_item(), max_size=14))
def test_placements_are_valid_and_not_below_the_bound(items: list[PlacementItem]) -> None:
    placement = place(items, effort=0)
    assert is_valid(items, placement.offsets)
    assert placement.height == max(
        (offset + x.nbytes for x, offset in zip(items, placement.offsets, strict=True)), default=0
    )
    steps = range(13)
    load = max(sum(x.nbytes for x in items if any(a <= s < b for a, b in x.ranges)) for s in steps)
    assert load <= placement.bound <= placement.height


@settings(max_examples=40, deadline=None)
@given(st.lists(any_item(), min_size=1, max_size=5))
def test_what_is_called_optimal_is_what_brute_force_finds(items: list[PlacementItem]) -> None:
    placement = place(items)
    least = least_height([x for x in items if x.nbytes] or [item(0, (0, 1))])
    assert placement.height >= least
    if placement.optimal:
        assert placement.height == least


@settings(max_examples=10, deadline=None)
@given(st.lists(any_item(), max_size=10), st.integers(1, 1500))
def test_the_same_question_has_the_same_answer(items: list[PlacementItem], limit: int) -> None:
    assert place(items, height_limit=limit) == place(items, height_limit=limit)
    assert place(items) == place(items)
