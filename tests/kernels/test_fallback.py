"""The route of operators without an entry: a functional operator, its results copied into place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from occ.ir import Symbol
from tests.kernels.layouts import columns_first, contiguous, gapped
from tests.kernels.memory import Layout, Memory, run

NUMBERS = torch.linspace(-2.0, 3.0, 60).view(3, 4, 5).sin()


def called(op: str, results: Sequence[int] | None, wanted: Sequence[Tensor], **args: Any) -> None:
    """Run the fallback for `op` over operands and results in several layouts; compare with `wanted`."""
    for layout in (contiguous, columns_first, gapped):
        memory = Memory()
        placed = {
            name: memory.holding(arg, layout(arg)) if isinstance(arg, Tensor) else arg
            for name, arg in args.items()
        }
        outs = [memory.new(result.dtype, result.shape, layout(result)) for result in wanted]
        chosen = None if results is None else tuple(results)
        run(memory, "fallback", {"op": Symbol(op), **placed, "results": chosen}, outs)
        for out, result in zip(outs, wanted, strict=True):
            torch.testing.assert_close(out, result, rtol=1e-5, atol=1e-6)


def test_one_result() -> None:
    called("aten.logcumsumexp.default", None, [torch.logcumsumexp(NUMBERS, 1)], self=NUMBERS, dim=1)


def test_arguments_that_are_taken_by_keyword_only() -> None:
    """Their names end in `=` among the operands."""
    values = NUMBERS[:, 0, 0].clone()
    called(
        "aten.diff.default",
        None,
        [torch.diff(NUMBERS, prepend=NUMBERS)],
        **{"self": NUMBERS, "n": 1, "dim": -1, "prepend": NUMBERS},
    )
    called(
        "aten.nansum.default",
        None,
        [torch.nansum(values, 0, dtype=torch.float64)],
        **{"self": values, "dim": 0, "keepdim": False, "dtype=": Symbol("torch.float64")},
    )


@pytest.mark.parametrize("results", [(0, 1), (0,), (1,), (1, 0)])
def test_some_of_several_results(results: tuple[int, ...]) -> None:
    both = torch.sort(NUMBERS, 1)
    called("aten.sort.default", results, [both[index] for index in results], self=NUMBERS, dim=1)


def test_a_list_of_results() -> None:
    parts = torch.tensor_split(NUMBERS, 3, 1)
    sections = {"self": NUMBERS, "sections": 3, "dim": 1}
    called("aten.tensor_split.sections", (2, 0), [parts[2], parts[0]], **sections)


def test_operators_beside_aten() -> None:
    called("torch.ops.prims.sin.default", None, [NUMBERS.sin()], self=NUMBERS)


def test_a_result_of_no_dimensions_and_one_of_no_elements() -> None:
    called("aten.median.default", None, [NUMBERS.median()], self=NUMBERS)
    empty = torch.empty(0, 4)
    layout: Layout = (4, 1)
    memory = Memory()
    out = memory.new(torch.float32, (0, 4), layout)
    run(memory, "fallback", {"op": Symbol("aten.cos.default"), "self": empty, "results": None}, [out])


def test_a_result_of_another_type_is_converted() -> None:
    called("aten.bincount.default", None, [torch.tensor([1, 0, 2])], self=torch.tensor([2, 0, 2]))
