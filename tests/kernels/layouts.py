"""Operands and results of a case in memory, in the layouts that an entry takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from occ.codegen import kernels as table
from occ.codegen.kernels.table import Spec
from occ.lower.draft import dense_strides
from tests.kernels.cases import Case
from tests.kernels.memory import Layout, Memory

Order = Callable[[Tensor], Layout]
"""From a tensor to strides for its shape."""


def contiguous(tensor: Tensor) -> Layout:
    return dense_strides(tensor.shape, [0] * tensor.dim())


def columns_first(tensor: Tensor) -> Layout:
    return dense_strides(tensor.shape, range(tensor.dim()))


def channels_last(tensor: Tensor) -> Layout:
    """Channels innermost, where there are any."""
    if tensor.dim() < 3:
        return contiguous(tensor)
    order = [tensor.dim() - dim for dim in range(tensor.dim())]
    return dense_strides(tensor.shape, [tensor.dim() + 1, 0, *order[2:]])


def gapped(tensor: Tensor) -> Layout:
    """Columns first, every other element unused: what a slice of a larger tensor looks like."""
    return tuple(2 * stride for stride in columns_first(tensor))


LAYOUTS = (contiguous, columns_first, channels_last)


def placed(case: Case, memory: Memory, layout: Order) -> dict[str, Any]:
    """The case's operands in `memory`, in a layout that the entry takes."""
    dense = table.kernel_named(case.kernel).dense

    def place(name: str, arg: Any) -> Any:
        if isinstance(arg, Tensor):
            if name in case.fixed:
                return memory.holding(arg, arg.stride())
            return memory.holding(arg, contiguous(arg) if name in dense else layout(arg))
        return tuple(place(name, item) for item in arg) if isinstance(arg, tuple) else arg

    return {name: place(name, arg) for name, arg in case.args.items()}


def results_of(case: Case, args: Mapping[str, Any] | None = None) -> tuple[Tensor, ...]:
    """What the case should compute (for placed operands), as one or more results."""
    found = case.expected(**(case.args if args is None else args))
    return (found,) if isinstance(found, Tensor) else tuple(found)


def result_layouts(case: Case, args: Mapping[str, Any], wanted: Sequence[Tensor]) -> set[tuple[Layout, ...]]:
    """Strides of the results that the entry writes, for placed operands."""
    if table.kernel_named(case.kernel).dense:
        return {tuple(map(contiguous, wanted))}
    if "out" in case.fixed:
        found = results_of(case, args)
        return {tuple(dense_strides(w.shape, f.stride()) for w, f in zip(wanted, found, strict=True))}
    return {tuple(map(layout, wanted)) for layout in LAYOUTS}


def placements(case: Case, wanted: Sequence[Tensor]) -> Iterator[tuple[Order, tuple[Layout, ...]]]:
    """Orders of a case's operands, each with strides for its results: all there are, but for entries in C,
    which are compiled for each, only the operands' own order, or rows first for operands with gaps."""
    compiled = table.kernel_named(case.kernel).native is not None
    for order in (*LAYOUTS, gapped):
        found = result_layouts(case, placed(case, Memory(), order), wanted)
        own = tuple(map(order, wanted))
        for layouts in ({own} & found or {max(found)}) if compiled else found:
            yield order, layouts


def plain_layouts(case: Case, args: Mapping[str, Any], wanted: Sequence[Tensor]) -> tuple[Layout, ...]:
    """Strides of the results, contiguous where the entry writes that."""
    layouts = result_layouts(case, args, wanted)
    rows_first = tuple(map(contiguous, wanted))
    return rows_first if rows_first in layouts else layouts.pop()


def spec_of(arg: Any) -> Any:
    """An operand as the table's functions take it."""
    if isinstance(arg, Tensor):
        return Spec(str(arg.dtype).removeprefix("torch."), tuple(arg.shape), arg.stride())
    return tuple(map(spec_of, arg)) if isinstance(arg, tuple) else arg


def scratch_of(case: Case, args: Mapping[str, Any], out: Tensor, memory: Memory) -> list[Tensor]:
    wanted = table.kernel_named(case.kernel).scratch
    if wanted is None:
        return []
    specs = wanted({name: spec_of(arg) for name, arg in args.items()}, spec_of(out))
    return [memory.new(getattr(torch, s.dtype), s.shape, s.strides) for s in specs]


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal up to the rounding of the type, relative to the element or to the largest one: 1e-5, or 2 units
    in the last place of a 16-bit type."""
    relative = {torch.bfloat16: 1.6e-2, torch.float16: 2e-3}.get(found.dtype, 1e-5)
    finite = wanted[wanted.isfinite()]
    largest = max([1.0, *finite.to(torch.complex128).abs().tolist()])
    torch.testing.assert_close(
        found, wanted, rtol=relative, atol=relative * largest, equal_nan=True, check_stride=False
    )
