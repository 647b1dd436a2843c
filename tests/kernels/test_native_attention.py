"""Attention in C against torch's in double precision, over sizes, layouts, masks and types."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from occ.codegen.native import NativeFunction
from occ.native import local_library
from occ.runtime_stub.native import Native
from tests.kernels.attention_calls import Call, call, calls, over_queries
from tests.kernels.native import function_of


def c_function(one: Call) -> NativeFunction:
    function = function_of("native_attention", one.args, [one.out], ())
    assert function is not None
    return function


@pytest.fixture(scope="module")
def library() -> tuple[list[Call], Native]:
    """Every call, and one library with their functions."""
    made = list(calls())
    return made, Native(local_library([c_function(one) for one in made]))


def run(one: Call, native: Native) -> str:
    """The text of the function."""
    function = c_function(one)
    one.run(getattr(native, function.symbol), function.source)
    return function.source


def test_equals_torch(library: tuple[list[Call], Native]) -> None:
    made, native = library
    assert len({c_function(one).symbol for one in made}) > 100
    for one in made:
        one.check(run(one, native))


def test_result_over_the_queries(library: tuple[list[Call], Native]) -> None:
    _, native = library
    made = list(over_queries(calls()))
    assert len(made) > 50
    for one, wanted in made:
        one.check(run(one, native), wanted)


def test_nan_stays_in_its_row_and_infinite_scores_give_nan() -> None:
    lost, infinite = call((2, 2), (40, 70), (16, 16)), call((2, 2), (3, 70), (16, 16))
    lost.args["query"][0, 1, 33, 5] = float("nan")
    infinite.args["query"][:] = float("inf")
    native = Native(local_library([c_function(lost), c_function(infinite)]))
    for one in (lost, infinite):
        run(one, native)
        wanted = F.scaled_dot_product_attention(*(one.args[n] for n in ("query", "key", "value")))
        assert torch.equal(one.out.isnan(), wanted.isnan())


def test_many_keys_take_no_more_stack() -> None:
    """Blocks of 64 keys, whose weights are rescaled: the largest score comes last."""
    one = call((1, 1), (20, 2000), (32, 32))
    one.args["key"][:, :, -1] *= 8
    run(one, Native(local_library([c_function(one)])))
    torch.testing.assert_close(one.out.double(), one.expected, rtol=1e-5, atol=1e-5)
