"""Element-wise operators with out overloads that write where they are told to and allocate nothing."""

from __future__ import annotations

from occ.codegen.kernels.rows import elementwise_rows
from occ.codegen.kernels.table import Call, Kernel, out_call, template, updated_call

# torch function: ATen overloads it computes. Either tensor operand may be overwritten.
_BINARY = {
    "add": ("add.Tensor", "add.Scalar"),
    "sub": ("sub.Tensor", "sub.Scalar"),
    "mul": ("mul.Tensor", "mul.Scalar"),
    "div": ("div.Tensor", "div.Scalar", "div.Tensor_mode", "div.Scalar_mode"),
    "pow": ("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar"),
    "atan2": ("atan2.default",),
    "minimum": ("minimum.default",),
    "maximum": ("maximum.default",),
    "fmod": ("fmod.Tensor", "fmod.Scalar"),
    "remainder": ("remainder.Tensor", "remainder.Scalar"),
    "eq": ("eq.Tensor", "eq.Scalar"),
    "ne": ("ne.Tensor", "ne.Scalar"),
    "lt": ("lt.Tensor", "lt.Scalar"),
    "le": ("le.Tensor", "le.Scalar"),
    "gt": ("gt.Tensor", "gt.Scalar"),
    "ge": ("ge.Tensor", "ge.Scalar"),
    "logical_and": ("logical_and.default",),
    "logical_or": ("logical_or.default",),
    "logical_xor": ("logical_xor.default",),
    "bitwise_and": ("bitwise_and.Tensor", "bitwise_and.Scalar", "__and__.Tensor", "__and__.Scalar"),
    "bitwise_or": ("bitwise_or.Tensor", "bitwise_or.Scalar", "__or__.Tensor", "__or__.Scalar"),
    "bitwise_xor": ("bitwise_xor.Tensor", "bitwise_xor.Scalar", "__xor__.Tensor", "__xor__.Scalar"),
}

_UNARY = (
    "abs",
    "acos",
    "asin",
    "atan",
    "bitwise_not",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "isneginf",
    "isposinf",
    "log",
    "log10",
    "log1p",
    "log2",
    "logical_not",
    "neg",
    "reciprocal",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
)

_ACTIVATIONS = (
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "mish",
    "silu",
    "softplus",
    "hardshrink",
    "softshrink",
)


def _pointwise(name: str, call: Call, ops: tuple[str, ...] = (), *overwrites: str) -> Kernel:
    return Kernel(name, call, ops, overwrites or ("self",), splits=elementwise_rows, pointwise=True)


KERNELS: tuple[Kernel, ...] = (
    *(
        _pointwise(name, out_call(f"torch.{name}"), ops, "self", "other", "exponent")
        for name, ops in _BINARY.items()
    ),
    *(_pointwise(name, out_call(f"torch.{name}"), (f"{name}.default",)) for name in _UNARY),
    *(_pointwise(name, out_call(f"aten.{name}.out"), (f"{name}.default",)) for name in _ACTIVATIONS),
    _pointwise("relu", template("torch.clamp_min({self}, 0, out={out})"), ("relu.default",)),
    _pointwise("relu6", template("torch.clamp({self}, 0, 6, out={out})"), ("relu6.default",)),
    _pointwise("clamp", out_call("torch.clamp"), ("clamp.default", "clamp.Tensor")),
    _pointwise("clamp_min", out_call("torch.clamp_min"), ("clamp_min.default", "clamp_min.Tensor")),
    _pointwise("clamp_max", out_call("torch.clamp_max"), ("clamp_max.default", "clamp_max.Tensor")),
    _pointwise("where", out_call("torch.where"), ("where.self",), "self", "other"),
    _pointwise("addcmul", out_call("torch.addcmul"), ("addcmul.default",), "self", "tensor1", "tensor2"),
    _pointwise("addcdiv", out_call("torch.addcdiv"), ("addcdiv.default",), "self", "tensor1", "tensor2"),
    _pointwise("lerp", out_call("torch.lerp"), ("lerp.Tensor", "lerp.Scalar"), "self", "end"),
    # Scale and shift by constants: a batch norm that no convolution took up.
    _pointwise("affine", template("torch.addcmul({shift}, {x}, {scale}, out={out})"), (), "x"),
    Kernel("copy", template("{out}.copy_({source})"), splits=elementwise_rows),
    Kernel("fill", template("{out}.fill_({value})"), splits=elementwise_rows),
    Kernel(
        "masked_fill",
        updated_call("torch.Tensor.masked_fill_"),
        ("masked_fill.Scalar", "masked_fill.Tensor"),
        overwrites=("self",),
        splits=elementwise_rows,
    ),
)
