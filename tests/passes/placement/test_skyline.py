"""Dives, stacking and the compression of time that they work on."""

from __future__ import annotations

from occ.ir import PlacementItem
from occ.passes.placement.bound import column_loads, max_load
from occ.passes.placement.problem import Problem, column_starts, problem_of
from occ.passes.placement.search import climb
from occ.passes.placement.skyline import conflicts, dive, orders, shaken_order, stack


def item(nbytes: int, *ranges: tuple[int, int], alignment: int = 64) -> PlacementItem:
    return PlacementItem("x", nbytes, alignment, ranges)


def test_a_column_stands_for_steps_between_which_nothing_dies() -> None:
    items = [item(64, (0, 10)), item(64, (2, 5)), item(64, (4, 9)), item(64, (5, 6)), item(64, (9, 10))]
    assert column_starts(items) == [4, 5, 9]
    assert problem_of(items).spans == (((0, 3),), ((0, 1),), ((0, 2),), ((1, 2),), ((2, 3),))


def test_ranges_with_nothing_between_them_become_one_span() -> None:
    assert problem_of([item(64, (0, 2), (8, 9))]).spans == (((0, 2),),)


def test_the_unit_divides_sizes_and_agrees_with_alignments() -> None:
    problem = problem_of([item(192, (0, 1)), item(384, (0, 1)), item(8192, (0, 1), alignment=4096)])
    assert (problem.unit, problem.sizes, problem.alignments) == (64, (3, 6, 128), (1, 1, 64))
    pages = problem_of([item(8192, (0, 1)), item(16384, (0, 1), alignment=4096)])
    assert (pages.unit, pages.sizes, pages.alignments) == (8192, (1, 2), (1, 1))


def test_loads_and_bound() -> None:
    problem = problem_of([item(100, (0, 2)), item(64, (1, 4)), item(128, (3, 4))])
    assert column_loads(problem) == [3, 3]
    assert max_load(problem) == 192
    assert max_load(problem_of([item(100, (0, 2)), item(64, (1, 4))])) == 164


def test_snap_finds_the_next_height_that_a_placement_can_have() -> None:
    problem = problem_of([item(100, (0, 2)), item(64, (0, 2))])
    assert [problem.snap(height) for height in (99, 100, 101, 129)] == [100, 100, 128, 164]


def test_conflicts_through_any_span() -> None:
    problem = problem_of([item(64, (0, 1), (8, 9)), item(64, (2, 7)), item(64, (8, 9)), item(64, (0, 3))])
    assert [others.tolist() for others in conflicts(problem)] == [[2, 3], [3], [0], [0, 1]]


def test_stack_puts_each_item_on_what_it_meets() -> None:
    problem = problem_of([item(64, (0, 2)), item(128, (1, 3)), item(64, (2, 4)), item(64, (0, 4))])
    assert stack(problem, (0, 1, 2, 3), 10_000) == [0, 1, 3, 4]
    assert stack(problem, (3, 1, 0, 2), 256) == [3, 1, 3, 0]
    assert stack(problem, (0, 1, 2, 3), 256) is None


def ladder() -> Problem:
    return problem_of([item(64 * (1 + i * 7 % 5), (i, i + 1 + i % 4)) for i in range(40)])


def test_a_dive_is_a_stacking_of_its_own_order() -> None:
    problem = ladder()
    for order in orders(problem):
        offsets = dive(problem, conflicts(problem), order)
        sequence = sorted(order, key=offsets.__getitem__)
        assert stack(problem, sequence, problem.height(offsets)) == offsets


def test_orders_are_permutations() -> None:
    problem = ladder()
    for order in (*orders(problem), shaken_order(problem, 0), shaken_order(problem, 1)):
        assert sorted(order) == list(range(40))
    assert shaken_order(problem, 2) != shaken_order(problem, 4)
    assert shaken_order(problem, 2) == shaken_order(problem, 2)


def test_a_climb_never_ends_higher() -> None:
    problem = ladder()
    sequence = tuple(reversed(range(40)))
    offsets = stack(problem, sequence, 10**6)
    assert offsets is not None
    climbed = climb(problem, offsets, max_load(problem), 2000)
    assert max_load(problem) <= problem.height(climbed) < problem.height(offsets)
