"""Matrix products, convolutions and attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from occ.codegen.kernels.rows import linear_rows, weight_extents, window_rows
from occ.codegen.kernels.table import Kernel, Operand, Spec, out_call, template
from occ.codegen.native import attention as native_attention
from occ.codegen.triton import attention as triton_attention
from occ.ir import SplitAxis


def _linear_splits(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
    """Along the weight's rows (output features; the operand is the transposed view) and along x's rows."""
    features = (("weight", 1),) if args.get("bias") is None else (("weight", 1), ("bias", 0))
    return (
        SplitAxis("weight_rows", out.shape[1], 1, features, (1,)),
        SplitAxis("rows", out.shape[0], 1, (("input", 0),), (0,)),
    )


def _bmm_splits(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
    return (SplitAxis("heads", out.shape[0], 1, (("self", 0), ("mat2", 0)), (0,)),)


def _convolution_splits(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
    """Along output channels where the weight is plain, and along lines. A channel slice of a channels_last
    result is strided, so it is staged."""
    weight = args["weight"]
    lines = _convolution_lines(args, out)
    if args["groups"] != 1 or (isinstance(weight, Spec) and weight.dtype == "uint8"):
        return lines
    sliced = [("weight", 0)]
    if args["bias"] is not None:
        sliced.append(("bias", 0))
    if args["residual"] is not None:
        sliced.append(("residual", 1))
    return (SplitAxis("output_channels", out.shape[1], 1, tuple(sliced), (1,), staged=True), *lines)


def _cudnn_splits(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
    """Along output channels, staged as above, and along lines."""
    lines = _cudnn_lines(args, out)
    if args["groups"] != 1:
        return lines
    channels = SplitAxis("output_channels", out.shape[1], 1, (("weight", 0),), (1,), staged=True)
    return (channels, *lines)


_cudnn_lines = window_rows("input", weight_extents)
_convolution_lines = window_rows("input", weight_extents, others=("residual",))


def _attention_splits(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
    """Along the heads, where each has keys of its own, and along the queries: where what one sees depends on
    its number, a part is told the number of its first."""
    axes = []
    if all(_extent(args[name], 3) == out.shape[1] for name in ("query", "key", "value")):
        sliced = (("query", 1), ("key", 1), ("value", 1), *_sliced_mask(args["mask"], 3))
        axes.append(SplitAxis("heads", out.shape[1], 1, sliced, (1,)))
    if not args["causal"] or "first" in args:
        sliced = (("query", 2), *_sliced_mask(args["mask"], 2))
        position = "first" if args["causal"] else ""
        axes.append(SplitAxis("rows", out.shape[2], 1, sliced, (2,), position=position))
    return tuple(axes)


def _extent(operand: Operand, from_last: int) -> int:
    """The size of a tensor's dimension, 1 where it has none."""
    shape = operand.shape if isinstance(operand, Spec) else ()
    return shape[-from_last] if len(shape) >= from_last else 1


def _sliced_mask(mask: Operand, from_last: int) -> tuple[tuple[str, int], ...]:
    """The mask and its dimension, unless it is broadcast along it."""
    if not isinstance(mask, Spec) or _extent(mask, from_last) == 1:
        return ()
    return (("mask", len(mask.shape) - from_last),)


def _scaled_sum(function: str, args: Mapping[str, str], outs: Sequence[str], scratch: Sequence[str]) -> str:
    """beta * self + alpha * product of the two other operands."""
    self, left, right = list(args.values())[:3]
    scales = f"beta={args.get('beta', '1')}, alpha={args.get('alpha', '1')}"
    return f"{function}({self}, {left}, {right}, {scales}, out={outs[0]})"


KERNELS: tuple[Kernel, ...] = (
    Kernel("linear", template("torch.addmm({bias}, {input}, {weight}, out={out})"), splits=_linear_splits),
    # cuBLAS adds the bias and takes the positive part in the product's own epilogue.
    Kernel(
        "linear_relu",
        template("aten._addmm_activation.out({bias}, {input}, {weight}, out={out})"),
        splits=_linear_splits,
    ),
    Kernel("matmul", template("torch.mm({input}, {weight}, out={out})"), splits=_linear_splits),
    Kernel("bmm", template("torch.bmm({self}, {mat2}, out={out})"), ("bmm.default",), splits=_bmm_splits),
    *(
        Kernel(name, partial(_scaled_sum, f"torch.{name}"), (f"{name}.default",))
        for name in ("addmm", "addmv", "baddbmm")
    ),
    Kernel("dot", out_call("torch.dot"), ("dot.default", "vdot.default")),
    Kernel("mm", template("torch.mm({self}, {mat2}, out={out})"), ("mm.default",)),
    Kernel("mv", template("torch.mv({self}, {vec}, out={out})"), ("mv.default",)),
    Kernel("grouped_product", template("kernels.grouped_product({input}, {weight}, {experts}, {out})")),
    Kernel(
        "stored_product",
        template("multiply({weight}, {input}, {experts}, {matrix}, {strides}, {scratch}, {out})"),
    ),
    Kernel(
        "convolution",
        template(
            "kernels.convolution({input}, {weight}, {bias}, {stride}, {padding}, {dilation}, {groups},"
            " {relu}, {residual}, {out})"
        ),
        overwrites=("residual",),
        splits=_convolution_splits,
    ),
    Kernel(
        "cudnn_convolution",
        template(
            "kernels.cudnn_convolution({input}, {weight}, {stride}, {padding}, {dilation}, {groups}, {out})"
        ),
        splits=_cudnn_splits,
    ),
    Kernel(
        "product",
        template("kernels.product({input}, {weight}, {bias}, {relu}, {residual}, {out})"),
        overwrites=("residual",),
        splits=linear_rows("input"),
    ),
    Kernel(
        "attention",
        template(
            "kernels.attention({query}, {key}, {value}, {mask}, {causal}, {scale}, {grouped}, {heads}, {out})"
        ),
        overwrites=("query",),
        splits=_attention_splits,
    ),
    Kernel(
        "native_attention",
        native=native_attention.attention,
        triton=triton_attention.attention,
        overwrites=("query",),
        splits=_attention_splits,
    ),
)
