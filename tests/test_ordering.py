"""Orders of steps: against all orders of small random programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import assume, given, settings

from occ.ir import Choices, Program
from occ.passes.liveness import liveness
from occ.passes.ordering import lower_order, needed_steps, ordered_steps, runs_of
from occ.rewrite import rewrite
from tests.programs import programs


def all_orders(needed: Sequence[Sequence[int]], done: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Every order in which each step comes after those it needs."""
    if len(done) == len(needed):
        yield done
    for index in range(len(needed)):
        if index not in done and set(needed[index]) <= set(done):
            yield from all_orders(needed, (*done, index))


def peak_in(program: Program, order: Sequence[int]) -> int:
    """Bytes of the fullest step when the program runs in an order."""
    return liveness(rewrite(program, Choices(order=runs_of(order)))).peak_nbytes


def closed(needed: Sequence[Sequence[int]]) -> list[set[int]]:
    """For each step all that must run before it, those aside that nothing but order among them requires."""
    found: list[set[int]] = []
    for before in needed:
        found.append(set(before).union(*(found[index] for index in before)))
    return found


@given(programs(max_operations=5))
@settings(max_examples=60, deadline=None)
def test_no_order_of_a_small_program_needs_less(program: Program) -> None:
    assume(len(program.steps) <= 8)
    needed = [sorted(before) for before in closed(needed_steps(program))]
    order = lower_order(program, [0] * len(program.steps)) or tuple(range(len(program.steps)))
    assert sorted(order) == list(range(len(program.steps)))
    assert all(set(needed[index]) <= set(order[:place]) for place, index in enumerate(order))
    assert peak_in(program, order) == min(peak_in(program, other) for other in all_orders(needed))


@given(programs(max_operations=8))
@settings(max_examples=40, deadline=None)
def test_runs_say_the_order(program: Program) -> None:
    order = lower_order(program, [0] * len(program.steps)) or tuple(range(len(program.steps)))
    assert ordered_steps(program, runs_of(order)) == tuple(order)
