"""Axes along the outermost rows of a result: what bands cut, so that activations pass through in parts.

A result's rows run along its outermost dimension in memory: the rows of a matrix, the lines of a picture in
channels_last, the heads of a stack of score matrices. A slice of them is contiguous, and a part's operands
and results look to a kernel like smaller tensors of the same layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf

from occ.codegen.kernels.table import Operand, Spec
from occ.ir import Arg, SplitAxis, Window

ROWS = "rows"
"""The name of these axes."""

Splits = Callable[[Mapping[str, Operand], Spec], tuple[SplitAxis, ...]]


def outermost(spec: Spec) -> int | None:
    """The outermost dimension in memory among those of more than one element; None where there is none or
    where another one is interleaved with it."""
    sized = [dim for dim, size in enumerate(spec.shape) if size > 1]
    if not sized or 0 in spec.shape:
        return None
    found = max(sized, key=lambda dim: spec.strides[dim])
    inner = sum((spec.shape[dim] - 1) * spec.strides[dim] for dim in sized if dim != found)
    return found if inner < spec.strides[found] else None


def elementwise_rows(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
    """For kernels that compute an element of the result from the elements that broadcasting puts at its
    place."""
    dim = outermost(out)
    if dim is None:
        return ()
    operands = []
    for name, arg in args.items():
        specs = _specs(arg)
        dims = {_own(spec, out, dim) for spec in specs}
        if len(dims) > 1:
            return ()
        if specs and (own := dims.pop()) is not None:
            operands.append((name, own))
    return (SplitAxis(ROWS, out.shape[dim], 1, tuple(operands), (dim,)),)


def _own(spec: Spec, out: Spec, dim: int) -> int | None:
    """The operand's dimension that runs along dimension `dim` of the result; None where it is broadcast."""
    own = dim - len(out.shape) + len(spec.shape)
    return own if own >= 0 and spec.shape[own] == out.shape[dim] else None


def _specs(arg: Operand) -> list[Spec]:
    if isinstance(arg, Spec):
        return [arg]
    if isinstance(arg, tuple):
        return [spec for item in arg for spec in _specs(item)]
    return []


Dimensions = Callable[[Mapping[str, Operand], Spec], Sequence[int]]
"""Operands and result -> dimensions of the result."""


def same_rows(*names: str, fixed: Dimensions | None = None) -> Splits:
    """For kernels that compute a row of the result from the same row of the operands named, along the same
    dimension, and from the whole of the others; `fixed` gives the dimensions of the result that they need in
    full."""

    def rows(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
        dim = outermost(out)
        needed = () if fixed is None else fixed(args, out)
        if dim is None or dim in {each % len(out.shape) for each in needed}:
            return ()
        operands = []
        for name in names:
            specs = _specs(args.get(name))
            if not all(len(s.shape) == len(out.shape) and s.shape[dim] == out.shape[dim] for s in specs):
                return ()
            if specs:
                operands.append((name, dim))
        return (SplitAxis(ROWS, out.shape[dim], 1, tuple(operands), (dim,)),)

    return rows


def trailing(name: str) -> Dimensions:
    """The last dimensions, as many as the tuple `name` has entries."""

    def dims(args: Mapping[str, Operand], out: Spec) -> Sequence[int]:
        shape = args[name]
        assert isinstance(shape, tuple)
        return range(len(out.shape) - len(shape), len(out.shape))

    return dims


def listed(name: str) -> Dimensions:
    """The dimension, or the dimensions, that operand `name` gives."""

    def dims(args: Mapping[str, Operand], out: Spec) -> Sequence[int]:
        given = args.get(name)
        if given is None:
            return range(len(out.shape))
        found = given if isinstance(given, tuple) else (given,)
        return [each for each in found if isinstance(each, int)]

    return dims


def reduced_rows(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
    """For reductions of `self` along `dim`, with `keepdim` or without."""
    source = args["self"]
    dim = outermost(out)
    if dim is None or not isinstance(source, Spec):
        return ()
    rank = len(source.shape)
    reduced = {each % rank for each in listed("dim")(args, source)}
    kept = list(range(rank)) if args.get("keepdim") else [d for d in range(rank) if d not in reduced]
    own = kept[dim]
    if own in reduced:
        return ()
    return (SplitAxis(ROWS, out.shape[dim], 1, (("self", own),), (dim,)),)


Extents = Callable[[Mapping[str, Operand], Spec], Sequence[int] | None]
"""Operands and result -> the extents of a window over space; None where it is none by lines."""


def window_rows(
    operand: str,
    kernel: Extents,
    *,
    others: Sequence[str] = (),
    fill: float = 0.0,
    scratch: bool = False,
) -> Splits:
    """For kernels that move a window over space: convolutions and pooling, by the lines of a picture.

    Operand and result are [1, channels, lines, ...]; `kernel` gives the window's extents, and the operands
    `stride`, `padding` and `dilation` the rest. A stack of several pictures is cut into pictures.
    """

    def rows(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
        source, extents = args[operand], kernel(args, out)
        dim = outermost(out)
        if not isinstance(source, Spec) or extents is None or dim not in (0, 2):
            return ()
        named = (operand, *(name for name in others if isinstance(args.get(name), Spec)))
        operands = tuple((name, dim) for name in named)
        scratches = (dim,) if scratch else ()
        if dim == 0:
            return (SplitAxis(ROWS, out.shape[0], 1, operands, (0,), scratch=scratches),)
        stride, padding = _numbers(args["stride"]), _numbers(args.get("padding", (0,) * len(extents)))
        dilation = _numbers(args.get("dilation", (1,) * len(extents)))
        extent = dilation[0] * (extents[0] - 1) + 1
        if (extent, stride[0], padding[0]) == (1, 1, 0):
            return (SplitAxis(ROWS, out.shape[2], 1, operands, (2,), scratch=scratches),)
        part_args: tuple[tuple[str, Arg], ...] = ()
        if padding[0]:
            part_args = (("padding", (0, *padding[1:])),)
        window = Window(operand, extent, stride[0], padding[0], fill=fill)
        axis = SplitAxis(ROWS, out.shape[2], 1, operands, (2,), windows=(window,), part_args=part_args)
        return (replace(axis, scratch=scratches),)

    return rows


def _numbers(arg: Operand) -> tuple[int, ...]:
    assert isinstance(arg, tuple)
    return tuple(number for number in arg if isinstance(number, int))


def weight_extents(args: Mapping[str, Operand], out: Spec) -> Sequence[int] | None:
    """The window of a convolution."""
    weight = args["weight"]
    return (weight.packed or weight.shape)[2:] if isinstance(weight, Spec) else None


def pool_extents(args: Mapping[str, Operand], out: Spec) -> Sequence[int] | None:
    """The window of a maximum."""
    return _numbers(args["kernel_size"])


def mean_extents(args: Mapping[str, Operand], out: Spec) -> Sequence[int] | None:
    """The window of a mean, where every line of means is one over full windows of lines."""
    source, size, stride = args["self"], args.get("kernel_size"), args.get("stride")
    padding = args.get("padding", 0)
    if not isinstance(source, Spec) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        return None
    around = _numbers(padding)[0] if isinstance(padding, tuple) else 0
    extents, steps = _numbers(size), _numbers(stride)
    reached = (out.shape[2] - 1) * steps[0] + extents[0]
    if reached > source.shape[2] + 2 * around or (around and not args.get("count_include_pad", True)):
        return None
    return extents


LOWEST = -inf
"""What is no maximum."""


def enlarged_rows(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
    """For resampling that shows every line of `self` [1, channels, lines, ...] a whole number of times."""
    source = args["self"]
    if not isinstance(source, Spec) or outermost(out) != 2 or out.shape[2] % source.shape[2]:
        return ()
    rate = out.shape[2] // source.shape[2]
    scale = args.get("scale_0")
    if scale is not None and scale != rate:
        return ()
    window = Window("self", 1, rate=rate)
    return (SplitAxis(ROWS, out.shape[2], rate, (("self", 2),), (2,), windows=(window,)),)


def linear_rows(operand: str) -> Splits:
    """For matrix products by the rows of the result."""

    def rows(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
        named = [name for name in (operand, "residual") if isinstance(args.get(name), Spec)]
        dim = outermost(out)
        if dim != len(out.shape) - 2 and dim != 2:
            return ()
        return (SplitAxis(ROWS, out.shape[dim], 1, tuple((name, dim) for name in named), (dim,)),)

    return rows
