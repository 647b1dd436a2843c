"""Orders of steps: against all orders of small random programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import assume, given, settings

from occ.ir import BufferKind, Choices, Program, Ref
from occ.passes.liveness import liveness
from occ.passes.ordering import lower_order, needed_steps, ordered_steps, runs_of
from occ.rewrite import rewrite
from tests.programs import programs
from tests.tiny_plans import Draft, program_of, step


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


def test_values_without_elements_are_written_before_they_are_read() -> None:
    draft = Draft()
    x = draft.value("x", BufferKind.INPUT, "float32", 64)
    y = draft.value("y", BufferKind.OUTPUT, "float32", 64)
    nothing, read = (draft.value(name, BufferKind.ACTIVATION, "float32", 0) for name in ("nothing", "read"))
    steps = [
        step("exp", y, self=Ref(x)),
        step("fill", nothing, value=1.0),
        step("exp", read, self=Ref(nothing)),
    ]
    assert needed_steps(program_of(draft, steps, [x], [y])) == ((), (), (1,))


@given(programs(max_operations=8))
@settings(max_examples=40, deadline=None)
def test_runs_say_the_order(program: Program) -> None:
    order = lower_order(program, [0] * len(program.steps)) or tuple(range(len(program.steps)))
    assert ordered_steps(program, runs_of(order)) == tuple(order)
