"""What a process takes besides its program's budget: measured, and counted for a program."""

from __future__ import annotations

from dataclasses import replace

import pytest

from occ.child import ChildError
from occ.errors import InternalError
from occ.footprint import measured_footprint, process_nbytes
from occ.ir import Footprint
from occ.target import openmp_settings
from tests.tiny_plans import mlp

FOOTPRINT = Footprint(process=200_000_000, step=3000, shape=100_000)


def test_steps_and_forms_of_products_count() -> None:
    """Two products of different shapes, of four steps."""
    program = mlp().plan.program
    assert process_nbytes(program, FOOTPRINT) == 200_000_000 + 4 * 3000 + 2 * 100_000
    again = replace(program, steps=program.steps * 2)
    assert process_nbytes(again, FOOTPRINT) == 200_000_000 + 8 * 3000 + 2 * 100_000


def test_what_is_measured_is_what_a_bare_process_takes() -> None:
    """Within what two measurements of one machine differ by."""
    first, second = (measured_footprint(openmp_settings(1, "default")) for _ in range(2))
    assert 50_000_000 < first.process < 1_000_000_000
    assert abs(first.process - second.process) <= 4 << 20
    assert 500 < first.step < 20_000
    assert 0 <= first.shape < 1_000_000


def test_a_process_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: object) -> None:
        raise ChildError("was killed")

    monkeypatch.setattr("occ.footprint.Child.ask", ended)
    with pytest.raises(InternalError, match="memory of a process was killed"):
        measured_footprint({})
