"""Matrix products, convolutions and attention."""

from __future__ import annotations

from collections.abc import Mapping

from occ.codegen.kernels.table import Kernel, Operand, Spec, template
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
    """Along output channels. A channel slice of a channels_last result is strided, so it is staged."""
    weight = args["weight"]
    if args["groups"] != 1 or (isinstance(weight, Spec) and weight.dtype == "uint8"):
        return ()
    sliced = [("weight", 0)]
    if args["bias"] is not None:
        sliced.append(("bias", 0))
    if args["residual"] is not None:
        sliced.append(("residual", 1))
    return (SplitAxis("output_channels", out.shape[1], 1, tuple(sliced), (1,), staged=True),)


def _attention_splits(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
    mask = args["mask"]
    if args["grouped"] or (isinstance(mask, Spec) and len(mask.shape) == 4 and mask.shape[1] != 1):
        return ()
    return (SplitAxis("heads", out.shape[1], 1, (("query", 1), ("key", 1), ("value", 1)), (1,)),)


KERNELS: tuple[Kernel, ...] = (
    Kernel("linear", template("torch.addmm({bias}, {input}, {weight}, out={out})"), splits=_linear_splits),
    Kernel("matmul", template("torch.mm({input}, {weight}, out={out})"), splits=_linear_splits),
    Kernel("bmm", template("torch.bmm({self}, {mat2}, out={out})"), ("bmm.default",), splits=_bmm_splits),
    Kernel(
        "baddbmm",
        lambda args, outs, scratch: (
            f"torch.baddbmm({args['self']}, {args['batch1']}, {args['batch2']},"
            f" beta={args.get('beta', '1')}, alpha={args.get('alpha', '1')}, out={outs[0]})"
        ),
        ("baddbmm.default",),
    ),
    Kernel(
        "addmm",
        lambda args, outs, scratch: (
            f"torch.addmm({args['self']}, {args['mat1']}, {args['mat2']},"
            f" beta={args.get('beta', '1')}, alpha={args.get('alpha', '1')}, out={outs[0]})"
        ),
        ("addmm.default",),
    ),
    Kernel("mm", template("torch.mm({self}, {mat2}, out={out})"), ("mm.default",)),
    Kernel("mv", template("torch.mv({self}, {vec}, out={out})"), ("mv.default",)),
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
        "product",
        template("kernels.product({input}, {weight}, {bias}, {relu}, {residual}, {out})"),
        overwrites=("residual",),
    ),
    Kernel(
        "attention",
        template(
            "kernels.attention({query}, {key}, {value}, {mask}, {causal}, {scale}, {grouped}, {heads}, {out})"
        ),
        splits=_attention_splits,
    ),
)
