"""Interpolation, in the overloads that write where they are told to."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from occ.lower.draft import Traced, dense_strides
from occ.lower.lowering import Lowering, Rule, op_name


def upsample(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """The `.vec` overloads by the ones that write where they are told to: sizes and scales spelled out.

    Nearest neighbours of pixels whose channels lie together are one copy where a pixel becomes a whole number
    of them; torch's operator stages such a picture where it has few channels.
    """
    name = op_name(node.target).split(".")[0]
    x = low.tensor(operands["input"])
    result = node.meta["val"]
    rank = x.meta.dim() - 2
    out = low.new(node.name, result.shape, result.dtype, dense_strides(result.shape, x.meta.stride()))
    factors = operands.get("scale_factors") or (None,) * rank
    whole = [n // m for n, m in zip(result.shape[2:], x.meta.shape[2:], strict=True)]
    is_whole = all(m * k == n for m, k, n in zip(x.meta.shape[2:], whole, result.shape[2:], strict=True))
    as_stated = all(factor in (None, k) for factor, k in zip(factors, whole, strict=True))
    if "nearest" in name and is_whole and as_stated and x.meta.stride(1) == 1:
        source, target = x.meta, out.meta
        for dim in range(rank + 1, 1, -1):
            source = source.unsqueeze(dim + 1)
            target = target.unflatten(dim, (x.meta.shape[dim], whole[dim - 2]))
        repeated = Traced(x.name, x.buffer, source.expand(target.shape))
        low.emit(node, "copy", {"source": repeated}, Traced(out.name, out.buffer, target))
        return out
    args: dict[str, Any] = {"self": x, "output_size": tuple(result.shape[2:])}
    if "nearest" not in name:
        args["align_corners"] = bool(operands["align_corners"])
    for axis, factor in enumerate(factors):
        args[f"scale_{axis}"] = factor
    low.emit(node, name.lstrip("_"), args, out)
    return out


RULES: dict[str, Rule] = dict.fromkeys(
    (
        *(f"upsample_nearest{rank}d.vec" for rank in (1, 2, 3)),
        *(f"_upsample_nearest_exact{rank}d.vec" for rank in (1, 2, 3)),
        "upsample_linear1d.vec",
        "upsample_bilinear2d.vec",
        "upsample_bicubic2d.vec",
        "upsample_trilinear3d.vec",
        "_upsample_bilinear2d_aa.vec",
        "_upsample_bicubic2d_aa.vec",
    ),
    upsample,
)
