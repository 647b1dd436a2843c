"""Loops in C against torch, on memory full of NaN: functions, types, rows, layouts, results over operands."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from occ.codegen.kernels.loops import bound_loop
from occ.codegen.loops.ir import parse
from occ.codegen.loops.merge import merged
from occ.codegen.native import NativeFunction
from occ.codegen.native.compiler import find_compiler
from occ.errors import InternalError
from tests.kernels.loop_reference import evaluated
from tests.kernels.loop_trials import (
    FLOATS,
    NUMBER,
    Trial,
    args_of,
    functions_of_floats,
    functions_of_two_operands,
    integers_and_bools,
    layouts_and_broadcasting,
    loops,
    results_over_operands,
    rows,
    rows_of_several_dimensions,
    rows_that_hold_no_number,
    run_all,
)
from tests.kernels.native import compiled, specs_of
from tests.kernels.native import function_of as native_function_of

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="NOT TESTED: there is no gcc")


def function_of(trial: Trial, outs: Sequence[Tensor]) -> NativeFunction:
    function = native_function_of("loop", args_of(trial), outs, ())
    assert function is not None
    return function


def check(trials: Sequence[Trial]) -> None:
    """Run all of them, compiled as one library."""
    run_all(trials, function_of, lambda functions: compiled(*dict.fromkeys(functions)))


def test_functions_of_floats() -> None:
    check(functions_of_floats())


def test_functions_of_two_operands() -> None:
    check(functions_of_two_operands())


def test_integers_and_bools() -> None:
    check(integers_and_bools())


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows(dtype: torch.dtype) -> None:
    check(rows(dtype))


def test_rows_that_hold_no_number() -> None:
    check(rows_that_hold_no_number())


def test_rows_of_several_dimensions() -> None:
    check(rows_of_several_dimensions())


def test_layouts_and_broadcasting() -> None:
    check(layouts_and_broadcasting())


def test_results_over_operands() -> None:
    check(results_over_operands())


def test_a_result_may_not_take_bytes_that_are_read_again() -> None:
    body = "y0 = x0 * 2.0; y1 = mean(silu(x0)); y2 = x0 - y1"
    x = NUMBER(4, 67)
    bound = bound_loop(
        {"x0": specs_of(x), "body": body, "row": 1}, [specs_of(t) for t in evaluated(body, 1, [x])]
    )
    assert not bound.may_overwrite(0, 0)
    assert bound.may_overwrite(0, 2)


def test_many_additions_stay_accurate() -> None:
    x = torch.full((2, 3_000_000), 0.1)
    found, wanted = torch.empty(2, 1), torch.full((2, 1), 300_000.0)
    trial = Trial("y0 = sum(x0)", (x,), row=1)
    function = function_of(trial, [found])
    getattr(compiled(function), function.symbol)(x, found)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "body",
    [
        *(
            "y0 = x0 +",
            "y0 = z",
            "y1 = x0",
            "y0 = x0; y0 = x0",
            "y0 = f(x0)",
            "y0 = exp(x0, x0)",
            "import os",
        ),
        *("y0 = __import__('os')", "x0 = x0; y0 = x0", "exp = x0; y0 = exp", "y0 = x0 if x0 else x0", ""),
        *(
            "y0 = x0.shape",
            "y0 = [x0]",
            "y0 = 'a'",
            "y0 = x0 < x0 < x0",
            "y0 = " + "(" * 500 + "x0" + ")" * 500,
        ),
        "y0 = " + "-" * 30_000 + "x0",
    ],
)
def test_what_is_no_loop_is_refused(body: str) -> None:
    with pytest.raises(InternalError, match="is not a loop"):
        parse(body)


@pytest.mark.parametrize(
    ("body", "dtypes"),
    [
        ("y0 = x0 + x1", (torch.float32, torch.int64)),
        ("y0 = exp(x0)", (torch.int64,)),
        ("y0 = 1.0", (torch.float32,)),
        ("y0 = x0 & x0", (torch.float32,)),
        ("y0 = x0 + 1.5", (torch.int64,)),
        ("y0 = where(x0, x0, x0)", (torch.float32,)),
        ("y0 = x1", (torch.float32,)),
        ("y0 = x0 > 0.0", (torch.float32,)),
    ],
)
def test_types_that_do_not_fit_are_refused(body: str, dtypes: tuple[torch.dtype, ...]) -> None:
    operands = tuple(torch.zeros(3, dtype=dtype) for dtype in dtypes)
    with pytest.raises(InternalError):
        function_of(Trial(body, operands), [torch.zeros(3, dtype=dtypes[0])])


# Any expression ------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(loops(), min_size=6, max_size=12))
def test_any_loop(trials: list[Trial]) -> None:
    check(trials)


@settings(max_examples=60, deadline=None)
@given(loops())
def test_text_of_a_loop_is_the_loop(trial: Trial) -> None:
    loop = parse(trial.body, trial.row)
    assert parse(loop.text, trial.row) == loop


@settings(max_examples=40, deadline=None)
@given(loops(), loops())
def test_two_loops_as_one(first: Trial, second: Trial) -> None:
    """The second reads, as its x0, the first result of the first."""
    operands = (*first.operands, *second.operands[1:])
    rank = max(operand.dim() for operand in operands)
    if first.row != second.row or {operand.dim() for operand in operands} != {rank}:
        return
    if any(
        a != b and 1 not in (a, b)
        for t in operands
        for a, b in zip(t.shape, first.operands[0].shape, strict=True)
    ):
        return
    count = len(first.operands)
    numbers = (list(range(count)), [None, *range(count, count + len(second.operands) - 1)])
    loop = merged(
        parse(first.body), parse(second.body), operands=numbers, links={0: 0}, kept={1}, row=first.row
    )
    one = evaluated(first.body, first.row, first.operands)
    two = evaluated(second.body, second.row, (one[0], *second.operands[1:]))
    found = evaluated(loop.text, first.row, operands)
    for result, wanted in zip(found, (one[1], *two), strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-6, atol=1e-6, equal_nan=True)
