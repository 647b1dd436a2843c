"""What loops can call: types, functions with their signatures, reductions, functions defined by others."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

COMPUTED = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f32",
    "bfloat16": "f32",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
    "bool": "b8",
}
"""The type in which elements of each torch type are computed with: 16-bit floats in 32 bits."""

TYPES = tuple(dict.fromkeys(COMPUTED.values()))
FLOATS = ("f64", "f32")
INTEGERS = ("i64", "i32", "i16", "i8", "u8")

ROUNDED = ("bf16", "f16")
"""Casts that round to a 16-bit type and stay an f32."""


class Takes(Enum):
    """What a function does to types. Its operands are of one type, but for the condition of `where`."""

    NUMBERS = "numbers of one type, gives the same"
    FLOATS = "floats of one type, gives the same"
    INTEGERS = "integers or bools of one type, gives the same"
    COMPARED = "anything of one type, gives a bool"
    FLOAT_TESTED = "a float, gives a bool"
    BOOLS = "bools, gives a bool"
    CHOICE = "a bool and two of one type, gives that"


@dataclass(frozen=True, slots=True)
class Function:
    """`cost` is its time relative to an addition."""

    arity: int
    takes: Takes
    cost: int = 1


FUNCTIONS: dict[str, Function] = {
    **{name: Function(2, Takes.NUMBERS) for name in ("add", "sub", "mul", "minimum", "maximum")},
    **{name: Function(1, Takes.NUMBERS) for name in ("neg", "abs", "sign")},
    **{name: Function(2, Takes.NUMBERS, 30) for name in ("floordiv", "remainder")},
    **{name: Function(2, Takes.FLOATS, 30) for name in ("atan2", "fmod", "pow")},
    "div": Function(2, Takes.FLOATS, 4),
    **{name: Function(1, Takes.FLOATS, 1) for name in ("ceil", "floor", "round", "trunc")},
    **{name: Function(1, Takes.FLOATS, 6) for name in ("sqrt", "rsqrt", "reciprocal")},
    **{name: Function(1, Takes.FLOATS, 12) for name in ("exp", "expm1", "log", "log1p", "sigmoid", "tanh")},
    "erf": Function(1, Takes.FLOATS, 16),
    **{
        name: Function(1, Takes.FLOATS, 40)
        for name in (
            "acos",
            "asin",
            "atan",
            "cos",
            "cosh",
            "erfc",
            "exp2",
            "log10",
            "log2",
            "sin",
            "sinh",
            "tan",
        )
    },
    **{name: Function(2, Takes.COMPARED) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: Function(1, Takes.FLOAT_TESTED) for name in ("isnan", "isinf")},
    **{name: Function(2, Takes.INTEGERS) for name in ("bitand", "bitor", "bitxor")},
    "bitnot": Function(1, Takes.INTEGERS),
    "where": Function(3, Takes.CHOICE),
    **{name: Function(1, Takes.FLOATS) for name in ROUNDED},
    **{name: Function(1, Takes.NUMBERS) for name in TYPES},
}
"""By name; the names of types are casts, from any type."""

REDUCTIONS = ("sum", "mean", "max", "min")
"""Over the elements of a row. `max` and `min` are NaN where an element is."""

OPERATORS = {
    **{"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "remainder": "%"},
    **{"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="},
    **{"bitand": "&", "bitor": "|", "bitxor": "^"},
}
"""Functions of two operands that are written between them."""

DEFINITIONS: dict[str, tuple[str, str]] = {
    "relu": ("x", "maximum(x, 0)"),
    "silu": ("x", "x * sigmoid(x)"),
    "gelu": ("x", "0.5 * x * (1 + erf(x * 0.7071067811865476))"),
    "gelu_tanh": ("x", "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))"),
    "mish": ("x", "x * tanh(log1p(exp(x)))"),
    "elu": ("x, alpha, scale", "where(x <= 0, expm1(x) * alpha, x) * scale"),
    "leaky_relu": ("x, slope", "where(x > 0, x, x * slope)"),
    "softplus": ("x, beta, most", "where(x * beta > most, x, log1p(exp(x * beta)) / beta)"),
    "log_sigmoid": ("x", "minimum(x, 0) - log1p(exp(-abs(x)))"),
    "clamp": ("x, least, most", "minimum(maximum(x, least), most)"),
    "hardsigmoid": ("x", "clamp(x + 3, 0, 6) * 0.16666666666666666"),
    "hardswish": ("x", "x * hardsigmoid(x)"),
    "square": ("x", "x * x"),
}
"""Functions written in the language itself: names of the parameters, and the text."""
