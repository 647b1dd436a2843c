"""Loops in Triton against torch, on memory full of NaN, run by the interpreter: the trials of the loops in C,
and rows and layouts that are blocked in ways of their own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from occ.codegen.triton import TritonFunction
from tests.kernels.loop_reference import evaluated
from tests.kernels.loop_trials import (
    FLOATS,
    NORMS,
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
from tests.kernels.triton_modules import loaded, triton_of

pytest.importorskip("triton", reason="NOT TESTED: there is no Triton")

SHORT = 65536
"""Elements; the interpreter is slow."""


def function_of(trial: Trial, outs: Sequence[Tensor]) -> TritonFunction:
    function = triton_of("loop", args_of(trial), outs)
    assert function is not None
    return function


def check(trials: Sequence[Trial]) -> list[str]:
    """Run all of them, as one module; the texts of their functions."""
    short = [trial for trial in trials if max(t.numel() for t in trial.operands) <= SHORT]
    return [function.source for function in run_all(short, function_of, loaded)]


def test_functions_of_floats() -> None:
    check(functions_of_floats())


def test_functions_of_two_operands() -> None:
    check(functions_of_two_operands())


def test_integers_and_bools() -> None:
    check(integers_and_bools())


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows(dtype: torch.dtype) -> None:
    """Rows of one element to more than registers hold."""
    sources = check(rows(dtype))
    assert any("for first in range" in source for source in sources) == (dtype is torch.float32)


def test_rows_that_hold_no_number() -> None:
    check(rows_that_hold_no_number())


def test_rows_of_several_dimensions() -> None:
    check(rows_of_several_dimensions())


def test_rows_side_by_side() -> None:
    """Rows that lie across memory: a maximum over channels, a mean over the pixels of a picture whose
    channels are last, and columns too long for registers."""
    trials = []
    for body, count in NORMS:
        for shape in ((2, 40, 12), (1, 20, 1500)):
            if count > 1 or (shape[2] > 1000 and "y1" in body):
                continue
            across = NUMBER(shape[0], shape[2], shape[1]).transpose(1, 2)
            results = evaluated(body, 1, (across,))
            strides = across.stride() if len(results) == 1 else None
            trials.append(Trial(body, (across,), row=1, layout=strides))
    sources = check(trials)
    assert any("tl.arange(0, 16)[:, None]" in source for source in sources)
    assert any("for first in range" in source for source in sources)


def test_long_rows_over_their_operands() -> None:
    """What an earlier pass stored may have been an operand that a later one would read again."""
    trials = []
    for body in (
        "y0 = x0 + x1; d = y0 - mean(y0); y1 = d * rsqrt(mean(d * d) + 1e-5)",
        "e = exp(x0 - max(x0)); y0 = e / sum(e)",
    ):
        for dtype in (torch.float32, torch.bfloat16):
            operands = (NUMBER(2, 20000, dtype=dtype), NUMBER(2, 20000, dtype=dtype))
            results = evaluated(body, 1, operands)
            trials.append(Trial(body, operands, row=1, dtypes=(dtype,) * len(results), over=0))
    assert all("for first in range" in source for source in check(trials))


def test_layouts_and_broadcasting() -> None:
    sources = check(layouts_and_broadcasting())
    assert any("[None, :]" in source for source in sources)
    assert any("[None, :]" not in source for source in sources)


def test_results_over_operands() -> None:
    check(results_over_operands())


def test_places_beyond_31_bits() -> None:
    """The text alone: the memory would not fit."""
    one = torch.empty(1, dtype=torch.bfloat16)
    vast = torch.empty_strided((3, 2), (1 << 31, 1), dtype=torch.bfloat16, device="meta")
    trial = Trial("y0 = x0 * 2.0", (vast,))
    assert ".to(tl.int64)" in function_of(trial, [vast]).source
    assert ".to(tl.int64)" not in function_of(Trial("y0 = x0 * 2.0", (one,)), [one]).source


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(loops(), min_size=4, max_size=8))
def test_any_loop(trials: list[Trial]) -> None:
    check(trials)
