"""Pooling in Triton: maxima and means over windows of one to three dimensions, without indices.

A window over everything is a row of a loop. How others are read is in `device/pooling.py`; the function of a
step fills in its constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

from occ.codegen.loops.bound import bind
from occ.codegen.loops.ir import parse
from occ.codegen.loops.triton import loop_function
from occ.codegen.native.pooling import Axis, adaptive_axes, window_axes
from occ.codegen.specs import Operand, Spec
from occ.codegen.triton.library import helpers_of
from occ.codegen.triton.places import PROGRAMS, WIDE, power, program_number, reach
from occ.codegen.triton.unit import Launch, TritonFunction, triton_function

BLOCK = 512
"""Results of a program."""

LEAST_BLOCK = 64
"""The same where there are few, at least."""


def max_pool(args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]) -> TritonFunction:
    """As `occ.codegen.native.pooling.max_pool`."""
    return _Pool(args, outs[0], window_axes(args, outs[0]), mean=False).function()


def avg_pool(args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]) -> TritonFunction:
    """As `occ.codegen.native.pooling.avg_pool`."""
    counted = bool(args["count_include_pad"])
    divisor = cast("int | None", args["divisor_override"]) or 0
    return _Pool(args, outs[0], window_axes(args, outs[0]), True, counted, divisor).function()


def adaptive_avg_pool(
    args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]
) -> TritonFunction:
    """As `occ.codegen.native.pooling.adaptive_avg_pool`."""
    return _adaptive(args, outs[0], mean=True)


def adaptive_max_pool(
    args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]
) -> TritonFunction:
    """As `occ.codegen.native.pooling.adaptive_max_pool`."""
    return _adaptive(args, outs[0], mean=False)


def _adaptive(args: Mapping[str, Operand], out: Spec, mean: bool) -> TritonFunction:
    x = cast(Spec, args["self"])
    if prod(out.shape[2:]) == 1:
        loop = parse("y0 = mean(x0)" if mean else "y0 = max(x0)", len(x.shape) - 2)
        return loop_function(bind(loop, [x], [out]))
    return _Pool(args, out, adaptive_axes(args, out), mean).function()


@dataclass(frozen=True, slots=True)
class _Pool:
    args: Mapping[str, Operand]
    out: Spec
    axes: Sequence[Axis]
    mean: bool
    padded: bool = False
    divisor: int = 0

    def function(self) -> TritonFunction:
        x, out = cast(Spec, self.args["self"]), self.out
        axes = [*[Axis(1, 1)] * (3 - len(self.axes)), *self.axes]
        count = prod(out.shape)
        block = min(max(power(-(-count // PROGRAMS)), LEAST_BLOCK), BLOCK)
        wide = max(reach(x), reach(out), count) >= WIDE
        lines = [f"i = {program_number(wide)} * {block} + tl.arange(0, {block})", f"lanes = i < {count}"]
        # The name of a place, how many there are, steps of the operand and the result.
        places = [("n", out.shape[0], x.strides[0], out.strides[0]), ("c", *self._channels(x))]
        places += [(f"o{n}", axis.out, 0, axis.out_step) for n, axis in enumerate(axes)]
        left = count
        for name, size, _, _ in sorted(places, key=lambda place: -place[3] if place[1] > 1 else 0):
            left //= size
            lines.append(f"{name} = i * 0" if size == 1 else f"{name} = {_divided('i', left, size, count)}")
        moved = " + ".join(f"{name} * {step}" for name, size, step, _ in places if size > 1 and step)
        at = " + ".join(f"{name} * {step}" for name, size, _, step in places if size > 1 and step)
        lines.append(f"planes = x + ({moved or 'i * 0'})")
        lines += ["found = pooled(", "    planes, lanes, o0, o1, o2,"]
        lines.append(f"    MEAN={self.mean}, PADDED={self.padded}, DIVISOR={self.divisor},")
        for n, axis in enumerate(axes):
            named = {
                **{"SIZE": axis.size, "OUT": axis.out, "WINDOW": axis.window, "STRIDE": axis.stride},
                **{"PADDING": axis.padding, "DILATION": axis.dilation, "STEP": axis.x_step},
                "MOST": _most(axis),
            }
            lines.append("    " + " ".join(f"{name}{n}={value}," for name, value in named.items()))
        lines += [")", f"tl.store(out + ({at or 'i * 0'}), found, mask=lanes)"]
        return triton_function(
            "mean_pool" if self.mean else "max_pool",
            ["x", "out"],
            "\n".join(lines),
            Launch((-(-count // block),), max(block // 128, 1)),
            helpers_of("pooling", ["pooled"]),
            f"Pooling of {list(x.shape)} to {list(out.shape[2:])}, {x.dtype}.",
        )

    def _channels(self, x: Spec) -> tuple[int, int, int]:
        return x.shape[1], x.strides[1], self.out.strides[1]


def _most(axis: Axis) -> int:
    """The elements of the largest window of an axis."""
    if axis.stride:
        return axis.window
    firsts = (o * axis.size // axis.out for o in range(axis.out))
    ends = (-(-(o + 1) * axis.size // axis.out) for o in range(axis.out))
    return max(end - first for first, end in zip(firsts, ends, strict=True))


def _divided(name: str, inner: int, size: int, count: int) -> str:
    text = name if inner == 1 else f"{name} // {inner}"
    return text if inner * size == count else f"{text} % {size}"
