"""Every small model of the zoo's kinds, lowered and run, against eager mode."""

from __future__ import annotations

import pytest

from tests.lower.comparing import checked, fallbacks
from tests.lower.invariants import check_layout, check_stored_once, check_values
from tests.small_models import SMALL, build

WITHOUT_ENTRY = {"max_pool1d"}


@pytest.mark.parametrize("name", SMALL)
def test_model(name: str) -> None:
    model = build(name)
    if isinstance(model.example_inputs, dict):
        programs = checked(model.module, **model.example_inputs)
    else:
        programs = checked(model.module, *model.example_inputs)
    for lowered in programs:
        check_values(lowered.program)
        check_stored_once(lowered)
        check_layout(lowered.program)
        assert {op.split(".")[0] for op in fallbacks(lowered.program)} <= WITHOUT_ENTRY
