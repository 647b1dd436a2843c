"""The map in characters."""

from __future__ import annotations

import pytest

from occ.errors import UsageError
from occ.report.ascii_map import ascii_map
from tests.report.planned import planned, stack
from tests.tiny_plans import aliases, mlp


def test_the_map_of_a_tiny_plan() -> None:
    rows = [line[8:].split("  ")[0] for line in ascii_map(mlp().plan, 60, 8).splitlines()[1:5]]
    width = len(rows[0])
    assert rows[0] == "=" * (width - 1) + "o"
    assert set(rows[1]) == {"-", ".", "o"}
    assert set(rows[2]) == {"=", ".", "o"}
    assert set(rows[3][:-1]) == {"-"}


@pytest.mark.parametrize(("width", "height"), [(60, 8), (80, 24), (200, 60)])
def test_it_fits_its_frame(width: int, height: int) -> None:
    plan = planned(stack(20), 0.3)
    lines = ascii_map(plan, width, height).splitlines()
    assert len(lines) == height
    assert all(len(line) <= width for line in lines)
    assert sum("<" in line for line in lines[1:-1]) == 1


def test_every_share_of_the_steps_shows_its_fullest() -> None:
    plan = planned(stack(20), 0.3)
    lines = ascii_map(plan, 80, 24).splitlines()[1:-1]
    steps = [int(line.split()[0]) for line in lines]
    assert steps == sorted(set(steps))


def test_a_frame_that_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 60 x 8"):
        ascii_map(mlp().plan, 59, 8)


def test_an_empty_arena_has_no_map() -> None:
    assert ascii_map(aliases().plan) == "the arena is empty"
