"""Pooling in C: maxima and means over windows of one to three dimensions, without indices.

How windows are read is in `pooling.h`; the function of a step fills in its constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from math import prod
from typing import cast

from occ.codegen.native.unit import NativeFunction, Parameter, native_function
from occ.codegen.native.vectors import TYPES, header, row
from occ.codegen.specs import Operand, Spec

DTYPES = ("float32", "bfloat16", "float16")
"""Types of operands and results; means are summed in float32."""

FLAT = 4096
"""Elements of a picture that are pooled to one as a single row."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension: `size` elements pooled to `out`; stride 0 stands for adaptive windows. Steps are strides
    in elements. The order of the fields is that of `axis_t`."""

    size: int
    out: int
    window: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    x_step: int = 0
    out_step: int = 0


def max_pool(args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]) -> NativeFunction:
    """Maxima of `self` [batch, channels, ..] over windows; NaN where a window has one.

    `kernel_size`, `stride`, `padding` and `dilation` have one number for each dimension after the first two.
    """
    return _pool("MAXIMUM", args, outs[0], window_axes(args, outs[0]))


def avg_pool(args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]) -> NativeFunction:
    """Means of `self` over windows, as `max_pool` takes them without dilation. Padding counts as zeros, or
    not at all without `count_include_pad`; `divisor_override` (or None) is divided by instead."""
    counted = bool(args["count_include_pad"])
    divisor = cast(int | None, args["divisor_override"]) or 0
    return _pool("MEAN", args, outs[0], window_axes(args, outs[0]), int(counted), divisor)


def adaptive_avg_pool(
    args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]
) -> NativeFunction:
    """Means of `self` over windows that divide each dimension into as many as the result has."""
    return _pool("MEAN", args, outs[0], adaptive_axes(args, outs[0]))


def adaptive_max_pool(
    args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]
) -> NativeFunction:
    """Maxima of `self` over the windows of `adaptive_avg_pool`."""
    return _pool("MAXIMUM", args, outs[0], adaptive_axes(args, outs[0]))


def window_axes(args: Mapping[str, Operand], out: Spec) -> list[Axis]:
    """Ordinary windows, an axis for each dimension after the first two."""
    x = cast(Spec, args["self"])
    rank = len(x.shape) - 2
    numbers = [cast(tuple[int, ...], args[key]) for key in ("kernel_size", "stride", "padding")]
    numbers.append(cast(tuple[int, ...], args.get("dilation", (1,) * rank)))
    axes = (x.shape[2:], out.shape[2:], *numbers, x.strides[2:], out.strides[2:])
    return [Axis(*each) for each in zip(*axes, strict=True)]


def adaptive_axes(args: Mapping[str, Operand], out: Spec) -> list[Axis]:
    """Adaptive windows; those of equal size are ordinary ones, and a small picture is one row."""
    x = cast(Spec, args["self"])
    axes = []
    for size, count, *steps in zip(x.shape[2:], out.shape[2:], x.strides[2:], out.strides[2:], strict=True):
        even = size // count if count > 1 and size % count == 0 else 0
        axes.append(Axis(size, count, even, even, 0, 1, *steps))
    dense = all(a.x_step == b.x_step * b.size for a, b in pairwise(axes))
    if dense and prod(out.shape[2:]) == 1 and prod(x.shape[2:]) <= FLAT:
        return [Axis(prod(x.shape[2:]), 1, stride=0, x_step=axes[-1].x_step, out_step=1)]
    return axes


def _pool(
    kind: str,
    args: Mapping[str, Operand],
    out: Spec,
    axes: Sequence[Axis],
    count_padding: int = 0,
    divisor: int = 0,
) -> NativeFunction:
    x = cast(Spec, args["self"])
    parameters = [Parameter("x", x.dtype), Parameter("out", out.dtype, written=True)]
    axes = [*[Axis(1, 1)] * (3 - len(axes)), *axes]
    lines = [
        "const pool_t p = {",
        "    .x = x, .out = out,",
        f"    .batches = {x.shape[0]}, .channels = {x.shape[1]},",
        f"    .x_batch = {x.strides[0]}, .x_channel = {x.strides[1]},",
        f"    .out_batch = {out.strides[0]}, .out_channel = {out.strides[1]},",
        f"    .count_padding = {count_padding}, .divisor = {divisor},",
        "    .axes = {",
        *(f"        {row(astuple(axis))}," for axis in axes),
        "    },",
        "};",
        f"pool_{kind}_{TYPES[out.dtype]}(&p);",
    ]
    note = f"Pooling of {' x '.join(map(str, x.shape))} to {' x '.join(map(str, out.shape[2:]))}."
    body = "".join(f"    {line}\n" for line in lines)
    helpers = (header("vectors.h"), header("pooling.h"), f"POOL({kind}, {TYPES[out.dtype]})")
    return native_function("pool", parameters, body, helpers, note)
