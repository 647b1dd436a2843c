"""One or more calls of every entry of the kernel table, each with what eager ATen gives for it.

`CASES` maps a readable name to a case. A case of an entry that computes an operator as it stands names the
overload, which gives the expected result; any other says itself what it should compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from occ.ir import Symbol
from occ.lower.recurrent import panels

aten = torch.ops.aten

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
TYPES = (*FLOATS, torch.float64, torch.int64, torch.int32, torch.bool)


@dataclass(frozen=True, eq=False)
class Case:
    """A call of `kernel`. `expected` computes the result from the operands, by name.

    Operands in `fixed` keep the strides they have. Where it says "out", the kernel takes no results but in
    the layout that `expected` gives for the operands' layouts.
    """

    kernel: str
    args: Mapping[str, Any]
    expected: Callable[..., Any]
    op: str = ""
    fixed: frozenset[str] = frozenset()
    label: str = ""

    @property
    def name(self) -> str:
        types = dict.fromkeys(str(operand.dtype).removeprefix("torch.") for operand in tensors(self.args))
        op = self.op.removesuffix(".default").removeprefix(self.kernel)
        return "-".join(filter(None, (self.kernel, op, self.label, *types)))


@dataclass
class Numbers:
    """Seeded random operands."""

    seed: int = 0
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def __call__(
        self, *shape: int, dtype: torch.dtype = torch.float32, low: float = -3.0, high: float = 3.0
    ) -> Tensor:
        if dtype is torch.bool:
            return torch.rand(shape, generator=self.generator) < 0.5
        if not dtype.is_floating_point:
            return torch.randint(int(low), int(high) + 1, shape, generator=self.generator).to(dtype)
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (low + uniform * (high - low)).to(dtype)

    def below(self, limit: int, *shape: int) -> Tensor:
        """Indices in [0, limit)."""
        return torch.randint(limit, shape, generator=self.generator)


def tensors(arg: object) -> Iterator[Tensor]:
    """Every tensor inside an operand or a mapping of operands."""
    if isinstance(arg, Tensor):
        yield arg
    elif isinstance(arg, Mapping):
        for item in arg.values():
            yield from tensors(item)
    elif isinstance(arg, (tuple, list)):
        for item in arg:
            yield from tensors(item)


def overload(name: str) -> Any:
    """The ATen overload called `add.Tensor`."""
    packet, which = name.split(".")
    return getattr(getattr(aten, packet), which)


def eager(name: str) -> Callable[..., Any]:
    """The overload as a function of operands by name."""

    def call(**args: Any) -> Any:
        literal = {
            key: getattr(torch, value.text.removeprefix("torch.")) if isinstance(value, Symbol) else value
            for key, value in args.items()
        }
        return overload(name)(**literal)

    return call


def as_is(kernel: str, op: str, *, label: str = "", fixed: tuple[str, ...] = (), **args: Any) -> Case:
    """A case of an entry that computes `op` as it stands; operands in the order of the schema."""
    order = [argument.name for argument in overload(op)._schema.arguments if argument.name in args]
    assert order == list(args), f"{op} takes {order}, not {list(args)}"
    return Case(kernel, args, eager(op), op, frozenset(fixed), label)


# Element-wise -------------------------------------------------------------------------------------------

POSITIVE = {"acosh", "log", "log10", "log2", "log1p", "rsqrt", "sqrt", "reciprocal"}
WITHIN_ONE = {"acos", "asin"}
UNARY = (
    *("abs", "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1", "floor"),
    *("isneginf", "isposinf", "log", "log10", "log1p", "log2", "neg", "reciprocal", "round", "rsqrt"),
    *("sigmoid", "sign", "sin", "sinh", "sqrt", "tan", "tanh", "trunc"),
)
INTEGER_UNARY = ("abs", "neg", "sign", "bitwise_not", "logical_not", "exp", "sqrt", "sigmoid")
ARITHMETIC = ("add", "sub", "mul", "minimum", "maximum")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
LOGICAL = ("logical_and", "logical_or", "logical_xor")
BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor")


def unary(number: Numbers) -> Iterator[Case]:
    for name in UNARY:
        low, high = (0.1, 3.0) if name in POSITIVE else (-0.9, 0.9) if name in WITHIN_ONE else (-3.0, 3.0)
        for dtype in FLOATS:
            yield as_is(name, f"{name}.default", self=number(5, 7, 3, dtype=dtype, low=low, high=high))
    for name in INTEGER_UNARY:
        yield as_is(name, f"{name}.default", self=number(5, 7, dtype=torch.int64, low=1))
    for name in ("bitwise_not", "logical_not"):
        yield as_is(name, f"{name}.default", self=number(5, 7, dtype=torch.bool))
    yield as_is("logical_not", "logical_not.default", self=number(5, 7))
    infinite = torch.tensor([[1.0, float("inf")], [float("-inf"), float("nan")]])
    for name in ("isneginf", "isposinf"):
        yield as_is(name, f"{name}.default", label="infinite", self=infinite)
        yield as_is(name, f"{name}.default", self=number(5, 7, dtype=torch.bool))


def activations(number: Numbers) -> Iterator[Case]:
    def x(dtype: torch.dtype) -> Tensor:
        return number(5, 7, 3, dtype=dtype, low=-8.0, high=8.0)

    for dtype in FLOATS:
        for name in ("elu", "hardsigmoid", "hardswish", "log_sigmoid", "mish", "silu", "relu", "relu6"):
            yield as_is(name, f"{name}.default", self=x(dtype))
        yield as_is("gelu", "gelu.default", fixed=("out",), self=x(dtype))
        yield as_is("gelu", "gelu.default", label="tanh", self=x(dtype), approximate="tanh")
        yield as_is("leaky_relu", "leaky_relu.default", self=x(dtype), negative_slope=0.2)
        yield as_is("hardtanh", "hardtanh.default", self=x(dtype), min_val=-2.0, max_val=2.5)
        yield as_is("softplus", "softplus.default", self=x(dtype), beta=2.0, threshold=10.0)
        yield as_is("hardshrink", "hardshrink.default", self=x(dtype), lambd=0.7)
        yield as_is("softshrink", "softshrink.default", self=x(dtype), lambd=0.7)
    yield as_is("relu", "relu.default", self=number(4, 5, dtype=torch.int64))
    yield as_is("relu6", "relu6.default", self=number(4, 5, dtype=torch.int64, high=9))


def binary(number: Numbers) -> Iterator[Case]:
    def pair(dtype: torch.dtype, low: float = -3.0) -> tuple[Tensor, Tensor]:
        return number(5, 7, 3, dtype=dtype, low=low), number(5, 7, 3, dtype=dtype, low=low)

    for name in ARITHMETIC:
        which = "default" if name in ("minimum", "maximum") else "Tensor"
        for dtype in (*FLOATS, torch.int64):
            x, y = pair(dtype)
            yield as_is(name, f"{name}.{which}", self=x, other=y)
        yield as_is(name, f"{name}.{which}", label="row", self=number(5, 7, 3), other=number(7, 1))
        yield as_is(name, f"{name}.{which}", label="wider", self=number(3), other=number(5, 7, 3))
    for name in ("add", "sub"):
        x, y = pair(torch.float32)
        yield as_is(name, f"{name}.Tensor", label="alpha", self=x, other=y, alpha=2.5)
        yield as_is(name, f"{name}.Scalar", self=x, other=1.5)
    yield as_is("mul", "mul.Scalar", self=number(5, 7), other=-2.5)
    yield as_is("mul", "mul.Tensor", label="number", self=number(5, 7), other=2)
    yield as_is("mul", "mul.Tensor", self=number(5, 7, dtype=torch.bool), other=number(5, 7))
    yield as_is("add", "add.Tensor", label="mixed", self=number(5, 7, dtype=torch.bfloat16), other=number(7))
    yield as_is("add", "add.Tensor", label="mixed", self=number(5, 7, dtype=torch.int64), other=number(5, 7))
    for dtype in FLOATS:
        x, y = pair(dtype, low=0.5)
        yield as_is("div", "div.Tensor", self=x, other=y)
        for mode in ("floor", "trunc"):
            yield as_is("div", "div.Tensor_mode", label=mode, self=x, other=y, rounding_mode=mode)
        yield as_is("fmod", "fmod.Tensor", self=x, other=y)
        yield as_is("remainder", "remainder.Tensor", self=x, other=y)
        yield as_is("pow", "pow.Tensor_Tensor", self=x, exponent=y)
        yield as_is("pow", "pow.Tensor_Scalar", self=x, exponent=2)
        yield as_is("pow", "pow.Scalar", self=2.0, exponent=x)
        yield as_is("atan2", "atan2.default", self=x, other=y)
    x, y = pair(torch.int64, low=1)
    yield as_is("div", "div.Tensor", self=x, other=y)
    yield as_is("div", "div.Tensor", self=x.int(), other=y.int())
    yield as_is("div", "div.Tensor_mode", self=x, other=y, rounding_mode="floor")
    yield as_is("div", "div.Scalar", self=number(5, 7), other=3.0)
    yield as_is("div", "div.Scalar_mode", self=x, other=2, rounding_mode="floor")
    yield as_is("fmod", "fmod.Scalar", self=number(5, 7), other=2)
    yield as_is("remainder", "remainder.Scalar", self=x, other=2)
    yield as_is("remainder", "remainder.Tensor", self=x, other=y)
    yield as_is("pow", "pow.Tensor_Scalar", self=x, exponent=3)
    for name in COMPARISONS:
        for dtype in (*FLOATS, torch.int64, torch.bool):
            x, y = pair(dtype)
            yield as_is(name, f"{name}.Tensor", self=x, other=y)
        yield as_is(name, f"{name}.Scalar", self=number(5, 7, dtype=torch.int64), other=1)
    for name in LOGICAL:
        for dtype in (torch.bool, torch.int64, torch.float32):
            x, y = pair(dtype)
            yield as_is(name, f"{name}.default", self=x, other=y)
    for name in BITWISE:
        x, y = pair(torch.int64)
        yield as_is(name, f"{name}.Tensor", self=x, other=y)
        yield as_is(name, f"{name}.Scalar", self=x, other=5)
        x, y = pair(torch.bool)
        yield as_is(name, f"{name}.Tensor", self=x, other=y)
    for sign, name in (("and", "bitwise_and"), ("or", "bitwise_or"), ("xor", "bitwise_xor")):
        x, y = pair(torch.bool)
        yield as_is(name, f"__{sign}__.Tensor", self=x, other=y)
        yield as_is(name, f"__{sign}__.Scalar", self=number(5, 7, dtype=torch.int64), other=6)


def ternary(number: Numbers) -> Iterator[Case]:
    for dtype in (*FLOATS, torch.int64):
        x = number(5, 7, dtype=dtype)
        yield as_is("clamp", "clamp.default", self=x, min=-1, max=2)
        yield as_is("clamp", "clamp.Tensor", self=x, min=number(7, dtype=dtype), max=None)
        for name in ("clamp_min", "clamp_max"):
            limit = "min" if name == "clamp_min" else "max"
            yield as_is(name, f"{name}.default", self=x, **{limit: 1})
            yield as_is(name, f"{name}.Tensor", self=x, **{limit: number(7, dtype=dtype)})
        mask = number(5, 7, dtype=torch.bool)
        yield as_is("where", "where.self", condition=mask, self=x, other=number(5, 7, dtype=dtype))
        yield as_is("masked_fill", "masked_fill.Scalar", self=x, mask=mask, value=7)
    yield as_is("clamp", "clamp.default", label="max", self=number(5, 7), min=None, max=1.5)
    one = number(dtype=torch.float32)
    yield as_is(
        "where", "where.self", label="0-d", condition=number(5, 7, dtype=torch.bool), self=one, other=x
    )
    yield as_is(
        "masked_fill", "masked_fill.Tensor", self=number(5, 7), mask=number(7, dtype=torch.bool), value=one
    )
    for dtype in FLOATS:
        x, y, z = (number(5, 7, dtype=dtype, low=0.5) for _ in range(3))
        yield as_is("addcmul", "addcmul.default", self=x, tensor1=y, tensor2=z, value=0.5)
        yield as_is("addcdiv", "addcdiv.default", self=x, tensor1=y, tensor2=z)
        yield as_is("lerp", "lerp.Tensor", self=x, end=y, weight=z)
        yield as_is("lerp", "lerp.Scalar", self=x, end=y, weight=0.25)
        picture = number(2, 5, 3, 7, dtype=dtype)
        scale, shift = number(1, 5, 1, 1, dtype=dtype), number(1, 5, 1, 1, dtype=dtype)
        yield Case("affine", {"x": picture, "scale": scale, "shift": shift}, affine)
    for dtype in TYPES:
        yield Case("copy", {"source": number(3, 5, 7, dtype=dtype)}, lambda source: source.clone())
    complex_numbers = torch.complex(number(3, 5), number(3, 5))
    yield Case("copy", {"source": complex_numbers}, lambda source: source.clone())
    yield Case("fill", {"value": 2.5}, lambda value: torch.full((3, 5), value))
    yield Case("fill", {"value": True}, lambda value: torch.full((3, 5), value), label="bool")


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, x, scale)


# Moving elements ----------------------------------------------------------------------------------------


def rows_of_blocks(pieces: tuple[Tensor, ...], starts: tuple[int, ...], indices: Tensor) -> Tensor:
    rows = [last - first for first, last in pairwise(starts)]
    tables = [piece.transpose(1, 2).reshape(-1, piece.shape[1]) for piece in pieces]
    return torch.cat([table[:count] for table, count in zip(tables, rows, strict=True)])[indices]


def shaping(number: Numbers) -> Iterator[Case]:
    rows = torch.tensor([4, 0, 2])
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        x = number(5, 7, 3, dtype=dtype)
        update = number(5, 3, 3, dtype=dtype)
        yield as_is("index_copy", "index_copy.default", self=x, dim=1, index=rows, source=update)
        yield as_is("index_select", "index_select.default", self=x, dim=1, index=rows)
        yield as_is("index", "index.Tensor", self=x, indices=(rows, None, torch.tensor([1, 0, 2])))
        yield as_is("index", "index.Tensor", label="last", self=x, indices=(None, number.below(7, 2, 2)))
        yield as_is("take_along_dim", "gather.default", self=x, dim=1, index=number.below(7, 5, 4, 3))
        indices = torch.tensor([[[0, 1, 2]]]).expand(5, 1, 3)
        yield as_is("scatter", "scatter.src", self=x, dim=1, index=indices.clone(), src=update)
        yield as_is("scatter", "scatter.value", self=x, dim=1, index=number.below(7, 5, 4, 3), value=1)
        mask = number(5, 7, 3, dtype=torch.bool)
        yield as_is("masked_scatter", "masked_scatter.default", self=x, mask=mask, source=x.clone())
        yield as_is(
            "index_put", "index_put.default", self=x, indices=(rows,), values=number(7, 3, dtype=dtype)
        )
        yield as_is(
            "index_put",
            "index_put.default",
            label="second",
            self=x,
            indices=(None, rows),
            values=update,
        )
        pair = (number(5, 2, 3, dtype=dtype), number(5, 4, 3, dtype=dtype))
        yield Case("cat", {"tensors": pair, "dim": 1}, torch.cat)
        yield Case(
            "cat", {"tensors": (*pair, number(5, 0, 3, dtype=dtype)), "dim": 1}, torch.cat, label="none"
        )
        yield Case("concatenate", {"tensors": pair, "dim": 1}, torch.cat)
        yield as_is("stack", "stack.default", tensors=(x, x.roll(1, 0)), dim=2)
        yield as_is("flip", "flip.default", self=x, dims=(1,))
        yield as_is("flip", "flip.default", label="all", self=x, dims=(0, 2, 1))
        yield as_is("repeat", "repeat.default", self=x, repeats=(2, 1, 3, 2))
        yield Case("roll", {"self": x, "shifts": (2,), "dims": (1,)}, eager("roll.default"))
        rolled = {"self": x, "shifts": (-2, 0, 4), "dims": (0, 1, 2)}
        yield Case("roll", rolled, eager("roll.default"), label="several")
        sliced = {"self": x, "src": number(5, 2, 3, dtype=dtype), "dim": 1, "start": 1, "end": 6, "step": 3}
        yield as_is("slice_scatter", "slice_scatter.default", **sliced)
        yield as_is(
            "select_scatter", "select_scatter.default", self=x, src=number(5, 3, dtype=dtype), dim=1, index=-2
        )
        padded = {"self": x, "pad": (1, 0, 2, 3), "value": 1}
        yield Case("constant_pad", padded, eager("constant_pad_nd.default"))
        table = number(9, 5, dtype=dtype)
        picked = {"weight": table, "indices": number.below(9, 2, 3)}
        kept = frozenset({*picked, "out"})
        yield Case("embedding", picked, lambda weight, indices: weight[indices], fixed=kept)
        blocks = (number(3, 5, 2, dtype=dtype), number(1, 5, 4, dtype=dtype))
        yield Case(
            "packed_embedding",
            {"pieces": blocks, "starts": (0, 5, 8), "indices": number.below(8, 2, 3)},
            rows_of_blocks,
            fixed=frozenset({"pieces", "indices", "out"}),
        )
    mixed = (number(5, 2, dtype=torch.int64), number(5, 3))
    yield Case("concatenate", {"tensors": mixed, "dim": 1}, torch.cat, label="mixed")
    for dtype in (torch.float32, torch.int64):
        x = number(5, 7, dtype=dtype)
        index = number.below(5, 3, 7)
        yield as_is(
            "index_add", "index_add.default", self=x, dim=0, index=rows, source=number(3, 7, dtype=dtype)
        )
        yield as_is(
            "scatter_add", "scatter_add.default", self=x, dim=0, index=index, src=number(3, 7, dtype=dtype)
        )
        for reduce in ("sum", "prod", "amax", "mean"):
            reduced = {
                "self": x,
                "dim": 0,
                "index": index,
                "src": number(3, 7, dtype=dtype),
                "reduce": reduce,
            }
            yield as_is("scatter_reduce", "scatter_reduce.two", label=reduce, **reduced, include_self=False)
    added = {"self": number(5, 7), "dim": 0, "index": rows, "source": number(3, 7), "alpha": 2}
    yield as_is("index_add", "index_add.default", label="alpha", **added)
    accumulated = {"self": number(5, 7), "indices": (torch.tensor([1, 1, 3]),), "values": number(3, 7)}
    yield as_is("index_put", "index_put.default", label="accumulate", **accumulated, accumulate=True)
    masked = {"self": number(5, 7), "indices": (number(5, 7, dtype=torch.bool),), "values": number()}
    yield as_is("index_put", "index_put.default", label="mask", **masked)


# Reductions, normalisation, pooling ---------------------------------------------------------------------


def reductions(number: Numbers) -> Iterator[Case]:
    for dtype in (*FLOATS, torch.int64):
        x = number(5, 7, 3, dtype=dtype)
        yield as_is("sum", "sum.dim_IntList", self=x, dim=(1,), keepdim=True)
        yield as_is("sum", "sum.dim_IntList", label="two", self=x, dim=(0, 2))
        yield as_is("prod", "prod.dim_int", self=x, dim=2)
        for name in ("amax", "amin"):
            yield as_is(name, f"{name}.default", self=x, dim=(0, 2), keepdim=True)
        for name in ("argmax", "argmin"):
            yield as_is(name, f"{name}.default", self=x, dim=1)
        yield as_is("cumsum", "cumsum.default", self=x, dim=1)
    for name in ("argmax", "argmin"):
        yield as_is(name, f"{name}.default", label="flat", self=number(5, 7), dim=None, keepdim=False)
    truths = number(5, 7, dtype=torch.bool)
    for name in ("any", "all"):
        reduced = {"self": truths, "dim": -1, "keepdim": True}
        yield Case(name, reduced, eager(f"{name}.dim"))
        yield Case(name, {"self": truths}, eager(f"{name}.default"), label="everything")
        yield Case(name, {"self": truths, "dim": (0, 1)}, eager(f"{name}.dims"), label="dims")
    yield as_is("cumsum", "cumsum.default", self=truths, dim=0)
    yield as_is("sum", "sum.dim_IntList", self=truths, dim=(0,))
    wide = Symbol("torch.float32")
    yield as_is(
        "sum", "sum.dim_IntList", label="to", self=number(5, 7, dtype=torch.bfloat16), dim=(0,), dtype=wide
    )
    yield as_is("mean", "mean.dim", label="to", self=number(5, 7, dtype=torch.int64), dim=(0,), dtype=wide)
    yield as_is("prod", "prod.dim_int", label="to", self=number(5, 7, dtype=torch.int64), dim=0, dtype=wide)
    yield as_is(
        "cumsum", "cumsum.default", label="to", self=number(5, 7, dtype=torch.int64), dim=0, dtype=wide
    )
    for dtype in FLOATS:
        x = number(5, 7, 3, dtype=dtype)
        yield as_is("mean", "mean.dim", self=x, dim=(0, -1), keepdim=True)
        yield as_is("vector_norm", "linalg_vector_norm.default", self=x, ord=2, dim=(1,), keepdim=True)
        yield as_is("vector_norm", "linalg_vector_norm.default", label="one", self=x, ord=1, dim=(0, 2))
        for dim in (0, 1, 2):
            for name in ("softmax", "log_softmax"):
                softmax = {"self": x, "dim": dim, "half_to_float": False}
                yield as_is(name, f"_{name}.default", label=f"dim{dim}", **softmax)
        yield from normalisation(number, dtype)
        yield from pooling(number, dtype)
        yield from native_pooling(number, dtype)
        yield from resampling(number, dtype)


def normalisation(number: Numbers, dtype: torch.dtype) -> Iterator[Case]:
    def layer_norm(
        input: Tensor, normalized_shape: Any, weight: Any, bias: Any, eps: float, rows: int
    ) -> Tensor:
        return F.layer_norm(input, normalized_shape, weight, bias, eps)

    def group_norm(input: Tensor, num_groups: int, weight: Any, bias: Any, eps: float) -> Tensor:
        return F.group_norm(input, num_groups, weight, bias, eps)

    x = number(5, 3, 7, dtype=dtype)
    for rows in (1, 4, 100):
        weight, bias = number(7, dtype=dtype), number(7, dtype=dtype)
        normed = {
            "input": x,
            "normalized_shape": (7,),
            "weight": weight,
            "bias": bias,
            "eps": 1e-3,
            "rows": rows,
        }
        yield Case("layer_norm", normed, layer_norm, label=f"rows{rows}")
    plain = {"input": x, "normalized_shape": (3, 7), "weight": None, "bias": None, "eps": 1e-5, "rows": 2}
    yield Case("layer_norm", plain, layer_norm, label="plain")
    picture = number(2, 6, 3, 5, dtype=dtype)
    weight, bias = number(6, dtype=dtype), number(6, dtype=dtype)
    for groups in (1, 3, 6):
        grouped = {"input": picture, "num_groups": groups, "weight": weight, "bias": bias, "eps": 1e-3}
        yield Case("group_norm", grouped, group_norm, label=f"groups{groups}")
    plain = {"input": picture, "num_groups": 2, "weight": None, "bias": None, "eps": 1e-3}
    yield Case("group_norm", plain, group_norm, label="plain")


def pooling(number: Numbers, dtype: torch.dtype) -> Iterator[Case]:
    def max_pool(
        self: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
    ) -> Tensor:
        pool = F.max_pool2d if self.dim() == 4 else F.max_pool3d
        return pool(self, kernel_size, stride or None, padding, dilation, ceil_mode)

    def adaptive_max_pool(self: Tensor, output_size: Any) -> Tensor:
        pool = F.adaptive_max_pool2d if self.dim() == 4 else F.adaptive_max_pool3d
        return pool(self, output_size)

    picture, volume = number(2, 5, 9, 8, dtype=dtype), number(2, 3, 5, 4, 6, dtype=dtype)
    window = {
        "kernel_size": (3, 2),
        "stride": (2, 2),
        "padding": (1, 1),
        "dilation": (1, 1),
        "ceil_mode": True,
    }
    yield Case("max_pool", {"self": picture, **window}, max_pool)
    window = {"kernel_size": (2,), "stride": (), "padding": (0,), "dilation": (2,), "ceil_mode": False}
    yield Case("max_pool", {"self": picture, **window}, max_pool, label="dilated")
    kept = frozenset({"out"})
    window = {**window, "kernel_size": (2, 3, 2), "padding": (0, 1, 0), "dilation": (1, 1, 1)}
    yield Case("max_pool", {"self": volume, **window}, max_pool, label="volume", fixed=kept)
    for x, size in ((picture, (4, 3)), (volume, (2, 3, 4))):
        adaptive = {"self": x, "output_size": size}
        yield Case("adaptive_max_pool", adaptive, adaptive_max_pool, label=f"{len(size)}d", fixed=kept)
    averaged = {"self": picture, "kernel_size": (3, 2), "stride": (2, 2), "padding": (1, 1)}
    yield as_is("avg_pool", "avg_pool2d.default", **averaged, ceil_mode=True, count_include_pad=False)
    if dtype is torch.float32:  # torch has no other on the CPU
        averaged = {"self": volume, "kernel_size": (3, 2, 2), "stride": (1, 2, 2), "padding": (1, 1, 0)}
        averaged |= {"ceil_mode": True, "count_include_pad": False, "divisor_override": None}
        yield Case("avg_pool3d", averaged, eager("avg_pool3d.default"), fixed=kept)
    for size in ((4, 3), (7, 9)):
        adaptive = {"self": picture, "output_size": size}
        label = f"to{size[0]}"
        yield Case("adaptive_avg_pool2d", adaptive, eager("_adaptive_avg_pool2d.default"), label=label)
    spaces = {"self": volume, "output_size": (2, 3, 4)}
    yield Case("adaptive_avg_pool3d", spaces, eager("_adaptive_avg_pool3d.default"), fixed=kept)


def native_pooling(number: Numbers, dtype: torch.dtype) -> Iterator[Case]:
    """Pooling in C; `tests/kernels/test_native_pooling.py` has the others."""
    x = number(2, 17, 5, 6, dtype=dtype)
    x[1, 2, 3] = float("nan")

    def max_pool(self: Tensor, **window: Any) -> Tensor:
        return F.max_pool2d(self, **window)

    def avg_pool(self: Tensor, **window: Any) -> Tensor:
        return F.avg_pool2d(self.float(), **window).to(dtype)

    window = {"kernel_size": (3, 2), "stride": (2, 2), "padding": (1, 1)}
    yield Case("native_max_pool", {"self": x, **window, "dilation": (1, 1)}, max_pool)
    means = {"count_include_pad": False, "divisor_override": None}
    yield Case("native_avg_pool", {"self": x, **window, **means}, avg_pool)

    def adaptive_avg_pool(self: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.float(), (2, 4)).to(dtype)

    def adaptive_max_pool(self: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(self, (2, 4))

    kept = frozenset({"out"})
    yield Case("native_adaptive_avg_pool", {"self": x}, adaptive_avg_pool, fixed=kept)
    yield Case("native_adaptive_max_pool", {"self": x}, adaptive_max_pool, fixed=kept)


def resampling(number: Numbers, dtype: torch.dtype) -> Iterator[Case]:
    def resampled(
        kernel: str,
        sizes: tuple[int, ...],
        outputs: tuple[int, ...],
        factor: float | None = None,
        align: bool | None = None,
    ) -> Case:
        scales = {f"scale_{axis}": factor for axis in range(len(sizes))}
        mode = {} if align is None else {"align_corners": align}
        args = {"self": number(2, 3, *sizes, dtype=dtype), "output_size": outputs, **mode, **scales}

        def expected(**operands: Any) -> Tensor:
            name = f"_{kernel}" if "exact" in kernel or "_aa" in kernel else kernel
            return overload(f"{name}.default")(*operands.values())

        label = f"{'' if align is None else 'aligned ' if align else 'centred '}{factor or 'sizes'}"
        return Case(kernel, args, expected, label=label)

    for rank, sizes, outputs in ((1, (5,), (8,)), (2, (5, 4), (8, 9)), (3, (3, 4, 5), (5, 4, 8))):
        yield resampled(f"upsample_nearest{rank}d", sizes, outputs)
        scaled = tuple(int(1.7 * size) for size in sizes)
        yield resampled(f"upsample_nearest{rank}d", sizes, scaled, factor=1.7)
        linear = {1: "linear1d", 2: "bilinear2d", 3: "trilinear3d"}[rank]
        for align in (False, True):
            yield resampled(f"upsample_{linear}", sizes, outputs, align=align)
        yield resampled(f"upsample_{linear}", sizes, scaled, factor=1.7, align=False)
        yield resampled(f"upsample_nearest_exact{rank}d", sizes, outputs)
        yield resampled(f"upsample_nearest_exact{rank}d", sizes, scaled, factor=1.7)
    if dtype is torch.float32:
        for name in ("upsample_bilinear2d_aa", "upsample_bicubic2d_aa"):
            yield resampled(name, (9, 8), (4, 5), align=False)
    yield resampled("upsample_bicubic2d", (5, 4), (8, 9), align=True)
    yield resampled("upsample_bicubic2d", (5, 4), (8, 6), factor=1.7, align=False)


# Products ------------------------------------------------------------------------------------------------


EXPERTS = torch.tensor([0, 0, 2, 3, 4])


def products_of_rows(input: Tensor, weight: Tensor, experts: Tensor) -> Tensor:
    known = torch.cat([weight, torch.zeros_like(weight[:1])])
    return torch.bmm(input[:, None], known[experts])[:, 0]


def products(number: Numbers) -> Iterator[Case]:
    for dtype in (*FLOATS, torch.float64):
        x, weight = number(5, 7, dtype=dtype), number(9, 7, dtype=dtype).t()
        bias = number(9, dtype=dtype)
        linear = {"input": x, "weight": weight, "bias": bias}
        yield Case("linear", linear, lambda input, weight, bias: F.linear(input, weight.t(), bias))
        positive = lambda input, weight, bias: F.linear(input, weight.t(), bias).relu()  # noqa: E731
        yield Case("linear_relu", linear, positive)
        yield Case("matmul", {"input": x, "weight": weight}, lambda input, weight: input @ weight)
        yield as_is("mm", "mm.default", self=x, mat2=weight)
        yield as_is("mv", "mv.default", self=x, vec=number(7, dtype=dtype))
        vectors = {"mat": x, "vec": number(7, dtype=dtype)}
        yield as_is("addmv", "addmv.default", self=number(5, dtype=dtype), **vectors, beta=0.5, alpha=2)
        left, right = number(7, dtype=dtype), number(7, dtype=dtype)
        yield as_is("dot", "dot.default", self=left, tensor=right)
        yield as_is("dot", "vdot.default", self=left, other=right)
        a, b = number(4, 5, 7, dtype=dtype), number(4, 7, 3, dtype=dtype)
        yield as_is("bmm", "bmm.default", self=a, mat2=b)
        # One of the rows is of a matrix that there is not.
        chosen = {"input": x, "weight": number(4, 9, 7, dtype=dtype).mT, "experts": EXPERTS}
        yield Case("grouped_product", chosen, products_of_rows)
        added = {"self": number(4, 5, 3, dtype=dtype), "batch1": a, "batch2": b}
        yield as_is("baddbmm", "baddbmm.default", **added)
        yield as_is("baddbmm", "baddbmm.default", label="scaled", **added, beta=0.5, alpha=2)
        added = {"self": number(5, 1, dtype=dtype), "mat1": x, "mat2": weight}
        yield as_is("addmm", "addmm.default", **added)
        yield as_is("addmm", "addmm.default", label="scaled", **added, beta=0.5, alpha=2)
    for name in ("mm", "bmm"):
        shape = (3,) if name == "bmm" else ()
        x, y = number(*shape, 4, 5, dtype=torch.int64), number(*shape, 5, 6, dtype=torch.int64)
        yield as_is(name, f"{name}.default", self=x, mat2=y)
    yield from convolutions(number)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        yield from attentions(number, dtype)
        yield from native_attentions(number, dtype)


def convolved(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    relu: bool,
    residual: Tensor | None,
) -> Tensor:
    convolve = F.conv2d if input.dim() == 4 else F.conv3d
    result = convolve(input, weight, bias, stride, padding, dilation, groups)
    result = result if residual is None else result + residual
    return torch.relu(result) if relu else result


def convolutions(number: Numbers) -> Iterator[Case]:
    kept = frozenset({"input", "weight", "bias", "residual", "out"})

    def picture(*shape: int, dtype: torch.dtype) -> Tensor:
        last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        return number(*shape, dtype=dtype).contiguous(memory_format=last)

    def case(
        label: str,
        dtype: torch.dtype,
        shape: tuple[int, ...],
        weight: tuple[int, ...],
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        relu: bool = False,
        residual: bool = False,
    ) -> Case:
        rank = len(shape) - 2
        numbers = {"stride": (stride,) * rank, "padding": (padding,) * rank, "dilation": (dilation,) * rank}
        args = {
            "input": picture(*shape, dtype=dtype),
            "weight": picture(*weight, dtype=dtype),
            "bias": number(weight[0], dtype=dtype) if bias else None,
            **numbers,
            "groups": groups,
            "relu": relu,
            "residual": None,
        }
        if residual:
            args["residual"] = picture(*convolved(**args).shape, dtype=dtype)
        return Case("convolution", args, convolved, fixed=kept, label=label)

    for dtype in (torch.float32, torch.bfloat16):
        shape = (2, 6, 9, 11)
        yield case("3x3", dtype, shape, (5, 6, 3, 3), padding=1)
        yield case("fused", dtype, shape, (5, 6, 3, 3), padding=1, relu=True, residual=True, bias=False)
        yield case("strided", dtype, shape, (5, 6, 3, 3), stride=2, dilation=2, padding=2, residual=True)
        yield case("depthwise", dtype, shape, (6, 1, 5, 5), padding=2, groups=6, relu=True)
        yield case("grouped", dtype, shape, (4, 3, 1, 1), groups=2, bias=False)
        yield case("volume", dtype, (1, 4, 5, 6, 7), (3, 4, 3, 3, 3), padding=1, relu=True, residual=True)

    def product(
        input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, residual: Tensor | None
    ) -> Tensor:
        return convolved(input, weight, bias, 1, 0, 1, 1, relu, residual)

    for dtype in (torch.float32, torch.bfloat16):
        for relu in (False, True):
            args = {
                "input": picture(1, 24, 7, 1, dtype=dtype),
                "weight": number(10, 24, 1, 1, dtype=dtype),
                "bias": number(10, dtype=dtype) if relu else None,
                "relu": relu,
                "residual": picture(1, 10, 7, 1, dtype=dtype) if relu else None,
            }
            yield Case("product", args, product, fixed=kept, label="fused" if relu else "")


def attentions(number: Numbers, dtype: torch.dtype) -> Iterator[Case]:
    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float | None,
        grouped: bool,
        heads: int,
    ) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=grouped
        )

    def case(
        label: str, heads: int, keys: int, at_once: int, mask: Tensor | None = None, **more: Any
    ) -> Case:
        args = {
            "query": number(2, heads, 5, 8, dtype=dtype),
            "key": number(2, keys, 6, 8, dtype=dtype),
            "value": number(2, keys, 6, 8, dtype=dtype),
            "mask": mask,
            "causal": more.get("causal", False),
            "scale": more.get("scale"),
            "grouped": heads != keys,
            "heads": at_once,
        }
        return Case("attention", args, attention, label=label)

    yield case("", 4, 4, 4)
    yield case("one_head", 5, 5, 1, scale=0.3)
    yield case("two_heads", 5, 5, 2, causal=True)
    yield case("bool_mask", 4, 4, 3, torch.ones(5, 6, dtype=torch.bool).tril(2))
    yield case("mask", 4, 4, 3, number(2, 1, 5, 6, dtype=dtype))
    yield case("mask_a_head", 4, 4, 3, number(2, 4, 5, 6, dtype=dtype))
    yield case("grouped", 6, 2, 3)
    yield case("grouped_all", 6, 3, 6, number(5, 6, dtype=dtype))


def native_attentions(number: Numbers, dtype: torch.dtype) -> Iterator[Case]:
    """Attention in C; `tests/kernels/test_native_attention.py` has the others."""

    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: Any) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=more["causal"], scale=more["scale"], enable_gqa=True
        )

    def case(label: str, heads: int, rows: int, mask: Tensor | None = None, **more: Any) -> Case:
        args = {
            "query": number(2, 4, rows, 24, dtype=dtype),
            "key": number(2, heads, 21, 24, dtype=dtype),
            "value": number(2, heads, 21, 24, dtype=dtype),
            "mask": mask,
            "causal": more.get("causal", False),
            "scale": more.get("scale"),
            "first": 0,
            "unseen": "zero",
        }
        return Case("native_attention", args, attention, label=label)

    yield case("grouped", 2, 19, causal=True)
    if dtype is torch.float32:
        yield case("masked", 4, 19, number(2, 1, 19, 21), scale=0.3)
    else:
        yield case("one_query", 2, 1, number(1, 1, 1, 21, dtype=torch.bool), causal=False)


# Seldom used operators -----------------------------------------------------------------------------------

RARE_UNARY = (
    *("acosh", "asinh", "atanh", "deg2rad", "digamma", "erfinv", "frac", "i0", "isnan", "lgamma"),
    *("rad2deg", "sgn", "signbit", "sinc", "square"),
)
RARE_BINARY = ("hypot", "logaddexp", "logaddexp2", "fmin", "fmax")


def rare(number: Numbers) -> Iterator[Case]:
    for dtype in (torch.float32, torch.float64):
        for name in RARE_UNARY:
            low, high = (1.1, 3.0) if name == "acosh" else (-0.9, 0.9)
            yield as_is(name, f"{name}.default", self=number(5, 7, 3, dtype=dtype, low=low, high=high))
        for name in RARE_BINARY:
            x, y = number(5, 7, 3, dtype=dtype), number(5, 7, 3, dtype=dtype)
            yield as_is(name, f"{name}.default", self=x, other=y)
        x, y = number(5, 7, dtype=dtype), number(5, 7, dtype=dtype, low=0.5)
        yield as_is("xlogy", "xlogy.Tensor", self=x, other=y)
        yield as_is("xlogy", "xlogy.Scalar_Other", self=x, other=2.5)
        yield as_is("xlogy", "xlogy.Scalar_Self", self=2.5, other=y)
        yield as_is("copysign", "copysign.Tensor", self=y, other=x)
        yield as_is("copysign", "copysign.Scalar", self=y, other=-2.0)
        yield as_is("floor_divide", "floor_divide.default", self=x, other=y)
        yield as_is("floor_divide", "floor_divide.Scalar", self=x, other=2)
        yield as_is("logit", "logit.default", self=number(5, 7, dtype=dtype, low=0.1, high=0.9), eps=0.2)
        yield as_is("round_decimals", "round.decimals", self=x, decimals=1)
        yield as_is("threshold", "threshold.default", self=x, threshold=0.5, value=-2.0)
        yield as_is("elu", "elu.default", label="scaled", self=x, alpha=1.5, scale=2.0, input_scale=0.5)
        yield Case("prelu", {"self": number(5, 7, 3, dtype=dtype), "weight": y[:1, :7, None]}, prelu)
        yield as_is("glu", "glu.default", self=number(5, 8, 3, dtype=dtype), dim=1)
        yield as_is("complex", "complex.default", real=x, imag=y)
        yield as_is("polar", "polar.default", abs=y, angle=x)
    infinite = torch.tensor([[1.0, float("inf")], [float("-inf"), float("nan")]])
    yield as_is("nan_to_num", "nan_to_num.default", self=infinite, nan=0.5, posinf=None, neginf=-9.0)
    yield as_is("isnan", "isnan.default", label="infinite", self=infinite)
    for name in ("isnan", "signbit"):
        yield as_is(name, f"{name}.default", self=number(5, 7, dtype=torch.bool))
    yield Case("prelu", {"self": infinite, "weight": torch.zeros(1)}, prelu, label="infinite")
    x, y = number(5, 7, dtype=torch.int64, low=1), number(5, 7, dtype=torch.int64, low=1)
    for name in ("bitwise_left_shift", "bitwise_right_shift"):
        yield as_is(name, f"{name}.Tensor", self=x, other=y)
        yield as_is(name, f"{name}.Tensor_Scalar", self=x, other=2)
    yield as_is("gcd", "gcd.default", self=x, other=y)
    yield as_is("floor_divide", "floor_divide.default", self=x, other=y)
    yield as_is("square", "square.default", self=x)


def prelu(self: Tensor, weight: Tensor) -> Tensor:
    return torch.where(self > 0, self, self * weight)


def orders(number: Numbers) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        # Distinct elements: which of several equal ones comes first is nobody's promise.
        x = torch.randperm(105, generator=number.generator).view(5, 7, 3).to(dtype)
        for name in ("max", "min"):
            yield Case(f"{name}_dim", {"self": x, "dim": 1, "keepdim": True}, eager(f"{name}.dim"))
        for descending in (False, True):
            options = {"stable": descending, "dim": 1, "descending": descending}
            label = "descending" if descending else ""
            yield Case("sort", {"self": x, **options}, eager("sort.stable"), label=label)
        yield as_is("topk", "topk.default", self=x, k=3, dim=1, largest=False, sorted=True)
        borders = torch.tensor([3, 20, 60]).to(dtype)
        yield as_is("bucketize", "bucketize.Tensor", self=x, boundaries=borders, out_int32=True, right=True)
        yield as_is("searchsorted", "searchsorted.Tensor", sorted_sequence=borders, self=x, side="left")
        small = number(5, 7, 3, dtype=dtype, low=-1, high=1)
        yield as_is("cumprod", "cumprod.default", self=small, dim=1)
        yield as_is("cummax", "cummax.default", self=x, dim=1)
        yield as_is("cummin", "cummin.default", self=x, dim=1)
    for dtype in (torch.float32, torch.float64):
        x = number(5, 7, 3, dtype=dtype)
        yield as_is("logcumsumexp", "logcumsumexp.default", self=x, dim=1)
        yield as_is("histc", "histc.default", self=x, bins=4, min=-1, max=1)
        for name in ("var", "std", "var_mean", "std_mean"):
            for dim, correction in ((None, 1), ((0, 2), 0)):
                options = {"dim": dim, "correction": correction, "keepdim": bool(dim)}
                label = "all" if dim is None else "two"
                yield Case(name, {"self": x, **options}, eager(f"{name}.correction"), label=label)


def moved(number: Numbers) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        x = number(5, 7, 6, dtype=dtype)
        yield as_is("take", "take.default", self=x, index=number.below(100, 4, 9))
        yield as_is("triu", "triu.default", self=x, diagonal=-1)
        yield as_is("tril", "tril.default", self=x, diagonal=1)
        fill = {"self": x, "dim": 1, "index": torch.tensor([4, 0])}
        yield as_is("index_fill", "index_fill.int_Scalar", **fill, value=2)
        yield as_is("index_fill", "index_fill.int_Tensor", **fill, value=number(dtype=dtype))
        picture = number(2, 3, 7, 6, dtype=dtype)
        for mode in ("reflect", "replicate", "circular"):
            padded = {"self": picture, "pad": (2, 3, 1, 0), "mode": mode}
            yield Case("edge_pad", padded, lambda self, pad, mode: F.pad(self, pad, mode), label=mode)
    one_hot = {"self": number.below(9, 5, 7), "num_classes": 9}
    yield as_is("one_hot", "one_hot.default", **one_hot)
    for dtype in (torch.float32, torch.bfloat16):
        unfolded = {"kernel_size": (3, 2), "dilation": (1, 2), "padding": (1, 0), "stride": (2, 1)}
        yield as_is("im2col", "im2col.default", self=number(2, 3, 7, 6, dtype=dtype), **unfolded)


# Recurrent layers ----------------------------------------------------------------------------------------


def recurrent(number: Numbers) -> Iterator[Case]:
    """The oracle is torch's layer with an identity as its input weight, so that its input is the gates."""
    time, batch = 5, 6

    def layer(kind: str, x: Tensor, states: Any, weights: list[Tensor], reverse: bool) -> list[Tensor]:
        x = x.flip(0) if reverse else x
        biased = len(weights) == 4
        out, *last = getattr(torch, kind)(x, states, weights, biased, 1, 0.0, False, False, False)
        return [out.flip(0) if reverse else out, *(state[0] for state in last)]

    def start(state: Tensor | None, width: int, like: Tensor) -> Tensor:
        return like.new_zeros(1, batch, width) if state is None else state[None]

    def lstm(
        gates: Tensor, weight: Tensor, projection: Any, hidden: Any, cell: Any, reverse: bool
    ) -> list[Tensor]:
        size = len(weight) // 4
        states = (start(hidden, weight.shape[1], gates), start(cell, size, gates))
        projections = [] if projection is None else [projection]
        weights = [torch.eye(4 * size, dtype=gates.dtype), weight, *projections]
        return layer("lstm", gates, states, weights, reverse)

    def gru(gates: Tensor, weight: Tensor, bias: Any, hidden: Any, reverse: bool) -> list[Tensor]:
        size = len(weight) // 3
        zeros = gates.new_zeros(3 * size)
        left = zeros.clone()
        left[2 * size :] = 0 if bias is None else bias
        weights = [torch.eye(3 * size, dtype=gates.dtype), weight, zeros, left]
        return layer("gru", gates, start(hidden, size, gates), weights, reverse)

    def rnn(gates: Tensor, weight: Tensor, hidden: Any, relu: bool, reverse: bool) -> list[Tensor]:
        size = len(weight)
        weights = [torch.eye(size, dtype=gates.dtype), weight]
        return layer("rnn_relu" if relu else "rnn_tanh", gates, start(hidden, size, gates), weights, reverse)

    def plain(dtype: torch.dtype, size: int) -> Iterator[Case]:
        def x(*shape: int) -> Tensor:
            return number(*shape, dtype=dtype, low=-1, high=1)

        def gates(count: int) -> dict[str, Any]:
            return {"gates": x(time, batch, count * size), "weight": x(count * size, size)}

        for reverse in (False, True):
            label = f"{'reverse_' if reverse else ''}of_{size}"
            states = {"hidden": x(batch, size), "cell": x(batch, size), "reverse": reverse}
            yield Case("lstm", {**gates(4), "projection": None, **states}, lstm, label=label)
            state = {"hidden": states["hidden"], "reverse": reverse}
            yield Case("gru", {**gates(3), "bias": x(size), **state}, gru, label=label)
            state = {"hidden": states["hidden"], "relu": reverse, "reverse": reverse}
            yield Case("rnn", {**gates(1), **state}, rnn, label=label)
        label = f"zero_of_{size}"
        zero = {"hidden": None, "cell": None, "reverse": False}
        yield Case("lstm", {**gates(4), "projection": None, **zero}, lstm, label=label)
        zero = {"hidden": None, "reverse": False}
        yield Case("gru", {**gates(3), "bias": None, **zero}, gru, label=label)
        zero = {"hidden": None, "relu": False, "reverse": False}
        yield Case("rnn", {**gates(1), **zero}, rnn, label=label)

    def native(case: Case) -> Case:
        args = {name: arg for name, arg in case.args.items() if name != "projection"}
        weight = args["weight"]

        def expected(**given: Any) -> Any:
            more = {"projection": None} if case.kernel == "lstm" else {}
            return case.expected(**{**given, **more, "weight": weight})

        args["weight"] = panels(case.kernel, weight)
        return Case(f"native_{case.kernel}", args, expected, fixed=frozenset({"weight"}), label=case.label)

    size = 7
    for dtype in (torch.float32, torch.float64):
        yield from plain(dtype, size)
        given = {"gates": number(time, batch, 4 * size, dtype=dtype)}
        given["weight"] = number(4 * size, 4, dtype=dtype, low=-1, high=1)
        given["projection"] = number(4, size, dtype=dtype, low=-1, high=1)
        yield Case("lstm", {**given, "hidden": None, "cell": None, "reverse": False}, lstm, label="projected")
    for size in (7, 37):
        yield from map(native, plain(torch.float32, size))


# Loops ---------------------------------------------------------------------------------------------------


def loops(number: Numbers) -> Iterator[Case]:
    """The language and its layouts have a module of tests of their own; these are what the entry says."""

    def loop(
        body: str, expected: Callable[..., Any], *operands: Tensor, row: int = 0, label: str = ""
    ) -> Case:
        def call(body: str, row: int, **args: Tensor) -> Any:
            return expected(*args.values())

        named = {f"x{index}": operand for index, operand in enumerate(operands)}
        return Case("loop", {**named, "body": body, "row": row}, call, label=label)

    x, y = number(5, 7, 3), number(5, 7, 3)
    yield loop("y0 = silu(x0) * x1", lambda x, y: F.silu(x) * y, x, y, label="gate")
    yield loop(
        "d = x0 - mean(x0); y0 = d * rsqrt(mean(d * d) + 1e-5) * x1",
        lambda x, w: F.layer_norm(x, (3,), w[0, 0]),
        *(x, number(1, 1, 3)),
        row=1,
        label="norm",
    )
    yield loop(
        "e = exp(x0 + x1 - max(x0 + x1)); y0 = e / sum(e)",
        lambda x, y: torch.softmax(x.float() + y.float(), -1).to(x.dtype),
        *(x.bfloat16(), y.bfloat16()),
        row=1,
        label="softmax",
    )


def _named(cases: Iterator[Case]) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for case in cases:
        assert case.name not in found, f"two cases are called {case.name}"
        found[case.name] = case
    return found


def all_cases() -> Iterator[Case]:
    for make in (
        unary,
        activations,
        binary,
        ternary,
        shaping,
        reductions,
        products,
        rare,
        orders,
        moved,
        recurrent,
        loops,
    ):
        yield from make(Numbers())


CASES = _named(all_cases())
