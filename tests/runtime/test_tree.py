"""The caller's structures and back."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from occ.runtime_stub.errors import InputError
from occ.runtime_stub.tree import flatten_inputs, unflatten

TREE = {
    "tuple": [
        {"tuple": [{"tensor": 0}, {"list": [{"tensor": 1}, {"dict": [["k", {"tensor": 2}]]}]}]},
        {
            "dict": [
                ["mask", {"tensor": 3}],
                ["causal", {"constant": True}],
                ["cap", {"constant": {"float": "inf"}}],
            ]
        },
    ]
}
NAMES = ["x", "ys_0", "ys_1_k", "mask"]


def test_nested_inputs() -> None:
    found = flatten_inputs(TREE, NAMES, (1, [2, {"k": 3}]), {"mask": 4, "causal": True, "cap": math.inf})
    assert found == [1, 2, 3, 4]
    assert flatten_inputs(TREE, NAMES, (1, (2, {"k": 3})), {"mask": 4}) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1,), {"mask": 4}, "input at position 1 is missing"),
        ((1, [2]), {"mask": 4}, "positional input 1 must be a list of 2"),
        ((1, [2, {"q": 3}]), {"mask": 4}, r"positional input 1\[1\] must be a dict with the keys 'k'"),
        ((1, [2, {"k": 3}]), {}, "input 'mask' is missing; the model takes x, ys_0, ys_1_k, mask"),
        ((1, [2, {"k": 3}]), {"mask": 4, "causal": False}, "'causal' was True when the model was compiled"),
        ((1, [2, {"k": 3}]), {"mask": 4, "causal": torch.ones(1)}, "'causal' was True"),
        ((1, [2, {"k": 3}]), {"mask": 4, "msk": 5}, "'msk' is unknown"),
    ],
)
def test_wrong_structures(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        flatten_inputs(TREE, NAMES, args, kwargs)


def test_outputs() -> None:
    a, b = torch.zeros(1), torch.ones(1)
    tree: dict[str, Any] = {
        "dict": [["a", {"tensor": 1}], ["rest", {"tuple": [{"list": []}, {"constant": None}, {"tensor": 0}]}]]
    }
    found: Any = unflatten(tree, [a, b])
    assert found["a"] is b
    assert found["rest"] == ([], None, a)
