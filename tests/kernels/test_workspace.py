"""What entries allocate besides the memory they are given: nothing, or what is measured at compile time."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from occ.codegen import kernels as table
from occ.counter import counter_settings
from occ.host import cpu_model, isa
from occ.ir import Arg, Buffer, BufferKind, Program, Ref, Step, Value
from occ.measure import measure
from occ.target import Target
from occ.units import WORKSPACE_GRAIN
from tests.kernels.cases import CASES, Case
from tests.kernels.large_calls import large_cases
from tests.kernels.layouts import plain_layouts, results_of, spec_of

NOTHING = 64 << 10
"""Bytes: strides, lists of sizes, and what oneDNN and MKL keep for a call."""

ALLOCATING = {
    "attention": "the results of some heads",
    "convolution": "oneDNN's reordered weight",
    "grouped_product": "a list of the rows' matrices",
    "group_norm": "one group of channels, contiguous, and its result",
    "layer_norm": "the results of some rows",
    "mean": "operands in the type they are summed in",
    "product": "oneDNN's reordered weight",
    "upsample_bicubic2d_aa": "the picture after one of two passes",
    "upsample_bilinear2d": "pictures of few channels, channels last",
    "upsample_bilinear2d_aa": "the picture after one of two passes",
    "upsample_nearest2d": "pictures of few channels, channels last",
    "upsample_nearest_exact2d": "pictures of few channels, channels last",
}
WITHOUT_OPERANDS = {"fill"}
ELSEWHERE = {"fallback", "gather", "stored_product", "cudnn_convolution"}
"""The last one is of programs for CUDA alone."""


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    """Case -> bytes allocated at once by a large call, counted in a process of its own."""
    counted = counter_settings()
    if not counted:
        pytest.skip("NOT TESTED: there is no C compiler, so allocations cannot be counted")
    environment = {**os.environ, **{key: value for key, value in counted.items() if value is not None}}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.large_calls"],
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_every_entry_has_a_large_case(peaks: dict[str, int]) -> None:
    assert {CASES[name].kernel for name in peaks} == {*table.kernel_names()} - WITHOUT_OPERANDS - ELSEWHERE


def test_entries_allocate_nothing(peaks: dict[str, int]) -> None:
    own = {name: peak for name, peak in peaks.items() if CASES[name].kernel not in ALLOCATING}
    assert {name: peak for name, peak in own.items() if peak > NOTHING} == {}


def test_what_entries_allocate_is_measured(
    peaks: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCC_CACHE_DIR", str(tmp_path))
    cases = {name: case for name, case in large_cases() if case.kernel in ALLOCATING}
    costs, _ = measure(program_of(list(cases.values())), target())
    for name, cost in zip(cases, costs, strict=True):
        slack = 2 * WORKSPACE_GRAIN
        assert peaks[name] <= cost.workspace + slack, name
        assert cost.workspace <= peaks[name] + slack, name


def target() -> Target:
    return Target(
        name="here",
        cpu=cpu_model(),
        arch=platform.machine(),
        isa=isa(),
        torch="any",
        threads=1,
        bandwidth=1e9,
        overhead=1e-4,
        slowdown=1.0,
        interruption=0.0,
        lag=0.0,
        response=0.0,
        product_rate=1e11,
        memory_rate=1e10,
        spin="default",
    )


def program_of(cases: list[Case]) -> Program:
    """One step for each case, every operand in a buffer of its own."""
    buffers: list[Buffer] = []
    values: list[Value] = []

    def value(tensor: Tensor, strides: tuple[int, ...]) -> int:
        spec = spec_of(tensor)
        identity = len(values)
        buffers.append(
            Buffer(identity, f"b{identity}", BufferKind.ACTIVATION, prod(spec.shape) * tensor.itemsize)
        )
        values.append(Value(identity, f"v{identity}", identity, 0, spec.dtype, spec.shape, strides))
        return identity

    def operand(arg: Any) -> Arg:
        if isinstance(arg, Tensor):
            return Ref(value(arg, arg.stride()))
        return tuple(map(operand, arg)) if isinstance(arg, tuple) else arg

    steps = []
    for case in cases:
        wanted = results_of(case)
        layouts = plain_layouts(case, case.args, wanted)
        args = tuple((name, operand(arg)) for name, arg in case.args.items())
        outs = tuple(value(w, s) for w, s in zip(wanted, layouts, strict=True))
        steps.append(Step("s", "", case.kernel, args, outs))
    return Program(
        name="large",
        buffers=tuple(buffers),
        values=tuple(values),
        steps=tuple(steps),
        inputs=(),
        outputs=(),
        states=(),
        grains=(),
        input_tree=None,
        output_tree=None,
        weights_nbytes=0,
        file_nbytes=0,
        activation_peak=0,
    )
