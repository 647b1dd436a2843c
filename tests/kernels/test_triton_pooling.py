"""Pooling in Triton against torch's in double precision, run by the interpreter."""

from __future__ import annotations

import random
from math import prod

import pytest

from occ.codegen.triton import TritonFunction
from tests.kernels.pooling_calls import Call, Draw
from tests.kernels.triton_modules import loaded, triton_of

pytest.importorskip("triton", reason="NOT TESTED: there is no Triton")

CALLS = 80
MOST = 5_000
"""Elements of an operand; the interpreter is slow."""

LONGEST = 75
"""Elements of a window."""


def function_of(one: Call) -> TritonFunction:
    function = triton_of(one.kernel, one.args, [one.out])
    assert function is not None
    return function


def window_of(one: Call) -> int:
    """Elements of a window, about."""
    sizes = zip(one.x.shape[2:], one.out.shape[2:], strict=True)
    return prod(one.args.get("kernel_size", [-(-size // out) for size, out in sizes]))


def test_equals_torch() -> None:
    drawn = Draw(random.Random(1)).calls(CALLS, MOST)
    made = [one for one in drawn if window_of(one) <= LONGEST]
    functions = [function_of(one) for one in made]
    module = loaded(functions)
    for one, function in zip(made, functions, strict=True):
        one.check(getattr(module, function.symbol), function.source)
    assert {one.kernel for one in made} >= {"native_max_pool", "native_avg_pool", "native_adaptive_avg_pool"}
    assert {one.x.dim() for one in made} == {3, 4, 5}
    assert any(bool(one.wanted.isnan().any()) for one in made)
    # A window over everything is a row.
    assert any("tl.sum" in function.source for function in functions)
