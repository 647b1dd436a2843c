"""Pooling in C against torch's in double precision, over windows, ranks, layouts and types."""

from __future__ import annotations

import random

import pytest

from occ.codegen.native import NativeFunction
from occ.native import local_library
from occ.runtime_stub.native import Native
from tests.kernels.native import function_of
from tests.kernels.pooling_calls import Call, Draw

CALLS = 150


def c_function(one: Call) -> NativeFunction:
    function = function_of(one.kernel, one.args, [one.out], ())
    assert function is not None
    return function


@pytest.fixture(scope="module")
def library() -> tuple[list[Call], Native]:
    """Every call, and one library with their functions."""
    made = Draw(random.Random(0)).calls(CALLS, 1 << 30)
    return made, Native(local_library([c_function(one) for one in made]))


def test_equals_torch(library: tuple[list[Call], Native]) -> None:
    made, native = library
    for one in made:
        function = c_function(one)
        one.check(getattr(native, function.symbol), function.source)


def test_calls_cover_every_kernel_layout_and_rank(library: tuple[list[Call], Native]) -> None:
    made, _ = library
    sources = [c_function(one).source for one in made]
    for kind in ("MAXIMUM", "MEAN"):
        for dtype in ("F32", "BF16", "F16"):
            assert any(f"pool_{kind}_{dtype}(&p)" in source for source in sources)
    assert {one.x.dim() for one in made} == {3, 4, 5}
    assert any(one.x.stride(1) == 1 and one.x.shape[1] >= 16 for one in made)
    assert any(bool(one.wanted.isnan().any()) for one in made)
