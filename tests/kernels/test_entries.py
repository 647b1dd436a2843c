"""Every entry of the kernel table writes what eager ATen computes, into memory it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from occ.codegen import kernels as table
from occ.codegen.kernels.table import Kernel
from occ.lower.draft import dense_strides
from occ.runtime_stub.tensors import view_of
from tests.kernels.cases import CASES, tensors
from tests.kernels.layouts import (
    LAYOUTS,
    close,
    columns_first,
    contiguous,
    placed,
    placements,
    results_of,
    scratch_of,
    spec_of,
)
from tests.kernels.memory import Memory, run

ELSEWHERE = {"gather", "stored_product", "fallback", "cudnn_convolution"}
"""`gather` and `stored_product` are calls of the loader, tested with it; the fallback has a test module of
its own; cuDNN needs a GPU (`tests/lower/test_lower_cuda.py` has what stands in for it)."""


def entries() -> Mapping[str, Kernel]:
    return {name: table.kernel_named(name) for name in table.kernel_names()}


def test_every_entry_and_every_operator_of_it_has_a_case() -> None:
    assert {case.kernel for case in CASES.values()} == entries().keys() - ELSEWHERE
    covered = {(case.kernel, case.op) for case in CASES.values()}
    assert {(name, op) for name, entry in entries().items() for op in entry.ops} <= covered


@pytest.mark.parametrize("name", CASES)
def test_writes_its_result_where_it_is_told_to(name: str) -> None:
    """Operands dense in three orders and with gaps, results dense in three orders; see `placements`."""
    case = CASES[name]
    wanted = results_of(case)
    for order, layouts in placements(case, wanted):
        memory = Memory()
        args = placed(case, memory, order)
        outs = [memory.new(w.dtype, w.shape, s) for w, s in zip(wanted, layouts, strict=True)]
        run(memory, case.kernel, args, outs, scratch_of(case, args, outs[0], memory))
        for out, one in zip(outs, wanted, strict=True):
            close(out, one)


def overwriting() -> list[tuple[str, str]]:
    """(case, operand) for each operand whose bytes the result may take."""
    found = []
    for name, case in CASES.items():
        wanted = case.expected(**case.args)
        for operand in table.kernel_named(case.kernel).overwrites:
            arg = case.args.get(operand)
            if not isinstance(arg, Tensor) or arg.shape != wanted.shape:
                continue
            if arg.element_size() == wanted.element_size():
                found.append((name, operand))
    return found


@pytest.mark.parametrize(("name", "operand"), overwriting())
def test_result_over_an_operand(name: str, operand: str) -> None:
    case = CASES[name]
    wanted = case.expected(**case.args)
    for layout in LAYOUTS:
        memory = Memory()
        args = placed(case, memory, layout)
        over = args[operand]
        begin = over.storage_offset() * over.element_size()
        out = view_of(memory.bytes, wanted.dtype, wanted.shape, over.stride(), begin)
        run(memory, case.kernel, args, [out], scratch_of(case, args, out, memory))
        close(out, wanted)


def repeated() -> list[str]:
    """Cases of pointwise entries with two operands that could be one tensor."""
    found = []
    for name, case in CASES.items():
        kinds = [(t.shape, t.dtype) for t in tensors(case.args)]
        result = case.expected(**case.args)
        if table.kernel_named(case.kernel).pointwise and kinds.count((result.shape, result.dtype)) > 1:
            found.append(name)
    return found


@pytest.mark.parametrize("name", repeated())
def test_pointwise_entries_may_read_twice_what_they_overwrite(name: str) -> None:
    case = CASES[name]
    kinds = [(t.shape, t.dtype) for t in tensors(case.args)]
    shape, dtype = max(kinds, key=kinds.count)
    first = next(t for t in tensors(case.args) if (t.shape, t.dtype) == (shape, dtype))
    memory = Memory()
    one = memory.holding(first, columns_first(first))
    args = {
        key: one if isinstance(arg, Tensor) and (arg.shape, arg.dtype) == (shape, dtype) else arg
        for key, arg in case.args.items()
    }
    wanted = case.expected(**{key: arg.clone() if arg is one else arg for key, arg in args.items()})
    if wanted.dtype.itemsize != one.dtype.itemsize:
        pytest.skip("the result takes other bytes")
    run(memory, case.kernel, args, [one.view(wanted.dtype)])
    close(one.view(wanted.dtype), wanted)


def test_every_overwritten_operand_has_a_case() -> None:
    covered = {(CASES[name].kernel, operand) for name, operand in overwriting()}
    taken = {(case.kernel, operand) for case in CASES.values() for operand in case.args}
    listed = {(name, operand) for name, entry in entries().items() for operand in entry.overwrites}
    assert listed & taken <= covered


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if table.kernel_named(c.kernel).splits])
def test_parts_along_every_axis_make_the_whole(name: str) -> None:
    """A part's operands are slices of the whole's, its results are slices, or dense where that is staged, or
    whole; some operands are what the part before left. Axes whose parts read windows are for bands, where the
    rows beside a part are known."""
    case = CASES[name]
    memory = Memory()
    args = placed(case, memory, contiguous)
    wanted = results_of(case)
    like = results_of(case, args)
    outs = [
        memory.new(one.dtype, one.shape, dense_strides(one.shape, other.stride()))
        for one, other in zip(wanted, like, strict=True)
    ]
    splits = table.kernel_named(case.kernel).splits
    assert splits is not None
    scratch = scratch_of(case, args, outs[0], memory)
    for axis in splits({key: spec_of(arg) for key, arg in args.items()}, spec_of(outs[0])):
        if axis.windows:
            continue
        half = axis.extent // 2
        parts = [(0, half), (half, axis.extent - half)]
        for number, (first, count) in enumerate(reversed(parts) if axis.descending else parts):
            part = dict(args)
            for operand, dim in axis.operands:
                part[operand] = narrowed(args[operand], dim, first, count)
            if axis.position:
                part[axis.position] += first
            if number:
                part |= {operand: outs[result] for operand, result in axis.carries}
            pieces = [
                each.narrow(dim, first, count) for each, dim in zip(scratch, axis.scratch, strict=False)
            ]
            sliced = [out.narrow(dim, first, count) for out, dim in zip(outs, axis.outputs, strict=False)]
            results = sliced
            if axis.staged:
                results = [memory.new(t.dtype, t.shape, dense_strides(t.shape, t.stride())) for t in sliced]
            run(memory, case.kernel, part, [*results, *outs[len(sliced) :]], pieces or scratch)
            if axis.staged:
                for target, result in zip(sliced, results, strict=True):
                    target.copy_(result)
        for out, one in zip(outs, wanted, strict=True):
            close(out, one)
            out.fill_(0)


def narrowed(operand: Any, dim: int, first: int, count: int) -> Any:
    """The slice of a tensor, or of each in a tuple of them."""
    if isinstance(operand, tuple):
        return tuple(narrowed(item, dim, first, count) for item in operand)
    return operand.narrow(dim, first, count)


def test_cases_cover_several_types() -> None:
    types = {tensor.dtype for case in CASES.values() for tensor in tensors(case.args)}
    assert {torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool} <= types
