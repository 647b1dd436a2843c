"""Attention in Triton against torch's in double precision, run by the interpreter: the calls of the one in C,
and those that are blocked in ways of their own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

from occ.codegen.triton import TritonFunction
from tests.kernels.attention_calls import Call, call, calls, masks, over_queries
from tests.kernels.cases import FLOATS
from tests.kernels.triton_modules import loaded, triton_of

pytest.importorskip("triton", reason="NOT TESTED: there is no Triton")


def function_of(one: Call) -> TritonFunction:
    function = triton_of("native_attention", one.args, [one.out])
    assert function is not None
    return function


def run(made: Sequence[Call]) -> None:
    functions = [function_of(one) for one in made]
    module = loaded(functions)
    for one, function in zip(made, functions, strict=True):
        one.run(getattr(module, function.symbol), function.source)


def check(made: Sequence[Call]) -> None:
    run(made)
    for one in made:
        one.check(function_of(one).source)


def test_equals_torch() -> None:
    """A fifth of the calls: the interpreter is slow."""
    made = list(calls())[::5]
    assert {one.out.dtype for one in made} == set(FLOATS)
    check(made)


def test_result_over_the_queries() -> None:
    made = list(over_queries(list(calls())[::9]))
    assert len({one.out.shape for one, _ in made}) > 5
    run([one for one, _ in made])
    for one, wanted in made:
        one.check(function_of(one).source, wanted)


def test_many_blocks_of_keys() -> None:
    """Weights are rescaled: the largest score comes last."""
    one = call((1, 1), (20, 700), (32, 32), torch.float16)
    one.args["key"][:, :, -1] *= 8
    check([one])


def test_heads_that_share_keys_are_computed_together() -> None:
    """A few queries, as in decoding: one block holds those of all heads that share keys."""
    made = [
        call((6, 2), (rows, 70), (16, 16), causal=causal, first=50, layout=layout)
        for rows, causal, layout in ((1, False, "rows"), (3, True, "heads"), (5, True, "columns"))
    ]
    made += [call((6, 2), (3, 70), (16, 16), mask=mask) for mask in masks(3, 70, 6)]
    assert any("TOGETHER=3" in function_of(one).source for one in made)
    check(made)


def test_a_negative_scale() -> None:
    check([call((2, 2), (33, 70), (16, 16), scale=-0.5, causal=causal) for causal in (False, True)])


def test_nan_stays_in_its_row_and_infinite_scores_give_nan() -> None:
    lost, infinite = call((2, 2), (40, 70), (16, 16)), call((2, 2), (3, 70), (16, 16))
    lost.args["query"][0, 1, 33, 5] = float("nan")
    infinite.args["query"][:] = float("inf")
    run([lost, infinite])
    for one in (lost, infinite):
        wanted = F.scaled_dot_product_attention(*(one.args[n] for n in ("query", "key", "value")))
        assert torch.equal(one.out.isnan(), wanted.isnan())


def test_what_a_query_gets_that_sees_nothing() -> None:
    unseen = torch.zeros(1, 1, 3, 70, dtype=torch.bool)
    for given, wanted in (("zero", 0.0), ("nan", float("nan"))):
        one = call((2, 2), (3, 70), (16, 16), mask=unseen)
        one.args["unseen"] = given
        run([one])
        assert torch.equal(one.out, torch.full_like(one.out, wanted)) or bool(
            one.out.isnan().all() and wanted != wanted
        )
