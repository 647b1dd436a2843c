"""Every small model of the zoo's kinds, lowered and run, against eager mode."""

from __future__ import annotations

import pytest

from tests.lower.comparing import check, fallbacks
from tests.small_models import SMALL, build

FALLBACKS = {
    "transposed convolutions": {"conv_transpose1d.default", "conv_transpose2d.input"},
    "recurrent layers": {"lstm.input", "gru.input"},
}


@pytest.mark.parametrize("name", SMALL)
def test_model(name: str) -> None:
    model = build(name)
    if isinstance(model.example_inputs, dict):
        program = check(model.module, **model.example_inputs)
    else:
        program = check(model.module, *model.example_inputs)
    print(name, fallbacks(program))
