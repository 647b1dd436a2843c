"""What a loop computes, evaluated by torch one function after another on whole tensors."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TYPES = {
    **{"f64": torch.float64, "f32": torch.float32, "i64": torch.int64, "i32": torch.int32},
    **{"i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "b8": torch.bool},
}
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{
        name: getattr(torch, name)
        for name in (
            *("abs", "acos", "asin", "atan", "atan2", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp2"),
            *(
                "expm1",
                "floor",
                "fmod",
                "isinf",
                "isnan",
                "log",
                "log10",
                "log1p",
                "log2",
                "pow",
                "reciprocal",
            ),
            *("round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh", "trunc"),
        )
    },
    "minimum": lambda a, b: torch.minimum(*_both(a, b)),
    "maximum": lambda a, b: torch.maximum(*_both(a, b)),
    "where": torch.where,
    "relu": torch.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
    "elu": lambda x, alpha, scale: F.elu(x, alpha) * scale,
    "leaky_relu": F.leaky_relu,
    "softplus": F.softplus,
    "log_sigmoid": F.logsigmoid,
    "clamp": torch.clamp,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "bf16": lambda x: x.bfloat16().to(x.dtype),
    "f16": lambda x: x.half().to(x.dtype),
}
INFIX: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.BitAnd: lambda a, b: a & b,
    ast.BitOr: lambda a, b: a | b,
    ast.BitXor: lambda a, b: a ^ b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


def evaluated(body: str, row: int, operands: Sequence[Tensor]) -> list[Tensor]:
    """The results of a loop, in the type that it computes with: 16-bit operands are read as float32."""
    short = (torch.bfloat16, torch.float16)
    names: dict[str, Any] = {
        f"x{i}": operand.float() if operand.dtype in short else operand for i, operand in enumerate(operands)
    }
    rank = max(operand.dim() for operand in operands)
    dims = list(range(rank - row, rank))

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return float(node.id) if node.id in ("inf", "nan") else names[node.id]
        if isinstance(node, ast.UnaryOp):
            operand = value(node.operand)
            return -operand if isinstance(node.op, ast.USub) else torch.bitwise_not(operand)
        if isinstance(node, ast.BinOp):
            return INFIX[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Compare):
            return INFIX[type(node.ops[0])](value(node.left), value(node.comparators[0]))
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        args = [value(arg) for arg in node.args]
        return _called(node.func.id, args, dims)

    results = {}
    for statement in ast.parse(body).body:
        assert isinstance(statement, ast.Assign)
        [target] = statement.targets
        assert isinstance(target, ast.Name)
        names[target.id] = value(statement.value)
        if target.id[0] == "y":
            results[int(target.id[1:])] = names[target.id]
    return [results[index] for index in range(len(results))]


def _called(name: str, args: list[Any], dims: list[int]) -> Any:
    if name in ("sum", "mean"):
        return getattr(torch, name)(args[0], dims, keepdim=True)
    if name in ("max", "min"):
        return getattr(torch, f"a{name}")(args[0], dims, keepdim=True)
    if name in TYPES:
        return torch.as_tensor(args[0]).to(TYPES[name])
    return FUNCTIONS[name](*args)


def _both(one: Any, other: Any) -> tuple[Tensor, Tensor]:
    """Two operands, one of which may be a number, as tensors of one type."""
    like = one if isinstance(one, Tensor) else other
    first, second = (torch.as_tensor(operand, dtype=like.dtype) for operand in (one, other))
    return first, second
