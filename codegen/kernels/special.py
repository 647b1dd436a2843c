"""Element-wise operators that few models use, and activations that take two calls."""

from __future__ import annotations

from collections.abc import Mapping

from occ.codegen.kernels.rows import elementwise_rows
from occ.codegen.kernels.table import (
    Call,
    Kernel,
    Operand,
    Spec,
    operands_call,
    out_call,
    positional_call,
    template,
)

_BINARY = {
    "floor_divide": ("floor_divide.default", "floor_divide.Scalar"),
    "hypot": ("hypot.default",),
    "logaddexp": ("logaddexp.default",),
    "logaddexp2": ("logaddexp2.default",),
    "xlogy": ("xlogy.Tensor", "xlogy.Scalar_Other", "xlogy.Scalar_Self"),
    "fmin": ("fmin.default",),
    "fmax": ("fmax.default",),
    "copysign": ("copysign.Tensor", "copysign.Scalar"),
    "gcd": ("gcd.default",),
    "bitwise_left_shift": ("bitwise_left_shift.Tensor", "bitwise_left_shift.Tensor_Scalar"),
    "bitwise_right_shift": ("bitwise_right_shift.Tensor", "bitwise_right_shift.Tensor_Scalar"),
}

_UNARY = (
    "acosh",
    "asinh",
    "atanh",
    "deg2rad",
    "digamma",
    "erfinv",
    "frac",
    "i0",
    "lgamma",
    "logit",
    "nan_to_num",
    "rad2deg",
    "sgn",
    "signbit",
    "sinc",
    "square",
)


def _pointwise(name: str, call: Call, ops: tuple[str, ...], *overwrites: str) -> Kernel:
    return Kernel(name, call, ops, overwrites or ("self",), splits=elementwise_rows, pointwise=True)


def _like_result(args: Mapping[str, Operand], out: Spec) -> tuple[Spec, ...]:
    return (out,)


def _signs(args: Mapping[str, Operand], out: Spec) -> tuple[Spec, ...]:
    return (Spec("bool", out.shape, out.strides),)


KERNELS: tuple[Kernel, ...] = (
    *(_pointwise(name, out_call(f"torch.{name}"), ops, "self", "other") for name, ops in _BINARY.items()),
    *(_pointwise(name, out_call(f"torch.{name}"), (f"{name}.default",)) for name in _UNARY),
    _pointwise("round_decimals", out_call("torch.round"), ("round.decimals",)),
    _pointwise("isnan", template("torch.ne({self}, {self}, out={out})"), ("isnan.default",)),
    _pointwise("elu", positional_call("aten.elu.out"), ("elu.default",)),
    _pointwise("threshold", out_call("aten.threshold.out"), ("threshold.default",)),
    Kernel(
        "log_sigmoid",
        template("aten.log_sigmoid_forward.output({self}, output={out}, buffer={scratch})"),
        ("log_sigmoid.default",),
        overwrites=("self",),
        scratch=_like_result,
    ),
    Kernel("prelu", operands_call("kernels.prelu"), scratch=_signs),
    Kernel("glu", out_call("aten.glu.out"), ("glu.default",)),
    Kernel("complex", out_call("torch.complex"), ("complex.default",)),
    Kernel("polar", out_call("torch.polar"), ("polar.default",)),
)
