"""The entry of fused loops: its operands are `x0`, `x1`, ..., the loop's text (`body`) and its `row`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from occ.codegen.kernels.rows import ROWS, outermost
from occ.codegen.kernels.table import Kernel, Operand, Spec
from occ.codegen.loops.bound import BoundLoop, bind
from occ.codegen.loops.c import loop_function
from occ.codegen.loops.ir import Loop, parse
from occ.codegen.loops.triton import loop_function as triton_loop_function
from occ.codegen.native import NativeFunction
from occ.codegen.triton import TritonFunction
from occ.errors import InternalError
from occ.ir import SplitAxis


def loop_of(args: Mapping[str, Operand]) -> Loop:
    """The loop of a step's operands. Raises InternalError where they describe none."""
    body, row = args.get("body"), args.get("row")
    if not isinstance(body, str) or not isinstance(row, int) or row < 0:
        raise InternalError(f"a loop has the body {body!r} and the row {row!r}")
    return parse(body, row)


def operands_of(args: Mapping[str, Operand]) -> tuple[Spec, ...]:
    """The tensors of a step's operands, in order. Raises InternalError where they are not x0, x1, ..."""
    specs = {name: arg for name, arg in args.items() if isinstance(arg, Spec)}
    if list(specs) != [f"x{index}" for index in range(len(specs))]:
        raise InternalError(f"a loop has the operands {', '.join(specs)}")
    return tuple(specs.values())


def bound_loop(args: Mapping[str, Operand], outs: Sequence[Spec]) -> BoundLoop:
    """The loop of a step over its tensors. Raises InternalError where it does not fit them."""
    return bind(loop_of(args), operands_of(args), outs)


def _native(args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]) -> NativeFunction:
    return loop_function(bound_loop(args, outs))


def _triton(args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]) -> TritonFunction:
    return triton_loop_function(bound_loop(args, outs))


def _splits(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
    """Along the outermost dimension in memory, where no row of the loop runs along it."""
    loop, operands = loop_of(args), operands_of(args)
    dim = outermost(out)
    if dim is None or dim >= len(out.shape) - loop.row:
        return ()
    if any(len(spec.shape) != len(out.shape) for spec in operands):
        return ()
    extent = out.shape[dim]
    sliced = tuple((f"x{i}", dim) for i, spec in enumerate(operands) if spec.shape[dim] == extent)
    return (SplitAxis(ROWS, extent, 1, sliced, (dim,) * loop.results),)


def _overwritable(args: Mapping[str, Operand], outs: Sequence[Spec]) -> tuple[tuple[str, ...], ...]:
    bound = bound_loop(args, outs)
    return tuple(
        tuple(f"x{i}" for i in range(len(bound.operands)) if bound.may_overwrite(i, number))
        for number in range(len(outs))
    )


KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "loop",
        native=_native,
        triton=_triton,
        splits=_splits,
        overwritable=_overwritable,
        pointwise=True,
    ),
)
