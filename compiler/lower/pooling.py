"""Pooling of one to three dimensions: maxima and means over windows, adaptive or not.

Every rule brings its operand to [batch, channels, ..]. Torch's routes know pictures and volumes; a row is a
picture of one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.fx import Node

from occ.codegen.native.pooling import DTYPES
from occ.lower.convolutions import per_axis
from occ.lower.draft import Traced, dense_strides, dtype_name
from occ.lower.lowering import Lowering, Rule, op_name

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Pool:
    """A node: `kind` is `max_pool`, `avg_pool`, `adaptive_max_pool` or `adaptive_avg_pool`, over `rank`
    dimensions of x [batch, channels, ..], with its result's shape and type."""

    kind: str
    rank: int
    x: Traced
    shape: tuple[int, ...]
    dtype: torch.dtype
    unbatched: bool
    with_indices: bool

    def windows(self, operands: dict[str, Any]) -> dict[str, Any]:
        """The numbers of ordinary windows, one for each dimension."""
        kernel = per_axis(operands["kernel_size"], self.rank)
        return {
            "kernel_size": kernel,
            "stride": per_axis(operands.get("stride") or kernel, self.rank),
            "padding": per_axis(operands.get("padding", 0), self.rank),
        }

    def finish(self, low: Lowering, out: Traced) -> Any:
        """The node's result, from that over [batch, channels, ..]."""
        if self.unbatched:
            out = low.view(aten.squeeze.dim, {"self": out, "dim": 0})
        return (out, None) if self.with_indices else out


def native_pool(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Pooling by a kernel of our own, which needs no indices."""
    pool = _pool(low, node, operands)
    if pool is None or dtype_name(pool.dtype) not in DTYPES or 0 in (*pool.shape, *pool.x.meta.shape):
        return low.plainly(node, operands)
    args: dict[str, Any] = {"self": pool.x}
    if not pool.kind.startswith("adaptive"):
        args |= pool.windows(operands)
    if pool.kind == "max_pool":
        args["dilation"] = per_axis(operands.get("dilation", 1), pool.rank)
    if pool.kind == "avg_pool":
        args["count_include_pad"] = bool(operands.get("count_include_pad", True))
        args["divisor_override"] = operands.get("divisor_override")
    out = _result(low, node, pool, pool.x, pool.shape)
    low.emit(node, f"native_{pool.kind}", args, out)
    return pool.finish(low, out)


def max_pool(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    pool = _pool(low, node, operands)
    if pool is None:
        return low.fallback(node, operands)
    line = pool.rank == 1
    numbers = pool.windows(operands)
    numbers["dilation"] = per_axis(operands.get("dilation", 1), pool.rank)
    if line:
        first = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
        numbers = {name: (first[name], *each) for name, each in numbers.items()}
    args = {"self": _picture(low, pool), **numbers, "ceil_mode": bool(operands.get("ceil_mode", False))}
    return _emitted(low, node, pool, "max_pool", args)


def avg_pool(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Means of rows, and of volumes."""
    pool = _pool(low, node, operands)
    if pool is None:
        return low.fallback(node, operands)
    numbers = pool.windows(operands)
    if pool.rank == 1:
        first = {"kernel_size": 1, "stride": 1, "padding": 0}
        numbers = {name: (first[name], *each) for name, each in numbers.items()}
    args = {
        "self": _picture(low, pool),
        **numbers,
        "ceil_mode": bool(operands.get("ceil_mode", False)),
        "count_include_pad": bool(operands.get("count_include_pad", True)),
        "divisor_override": operands.get("divisor_override"),
    }
    return _emitted(low, node, pool, "avg_pool3d" if pool.rank == 3 else "avg_pool", args)


def adaptive_pool(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Adaptive pooling; the mean to one element is a plain one."""
    pool = _pool(low, node, operands)
    if pool is None:
        return low.fallback(node, operands)
    size = pool.shape[2:]
    if pool.kind == "adaptive_avg_pool" and prod(size) == 1:
        out = _result(low, node, pool, pool.x, pool.shape)
        dims = tuple(range(2, pool.rank + 2))
        low.emit(node, "mean", {"self": pool.x, "dim": dims, "keepdim": True}, out)
        return pool.finish(low, out)
    rank = max(pool.rank, 2)
    kernel = f"adaptive_avg_pool{rank}d" if pool.kind == "adaptive_avg_pool" else pool.kind
    args = {"self": _picture(low, pool), "output_size": (1, *size) if pool.rank == 1 else size}
    return _emitted(low, node, pool, kernel, args)


def _pool(low: Lowering, node: Node, operands: dict[str, Any]) -> Pool | None:
    """What a node computes; None where someone reads the indices of its maxima."""
    name = op_name(node.target).split(".")[0].removeprefix("_").removesuffix("_with_indices")
    kind, rank = name[:-2], int(name[-2])
    result = node.meta["val"]
    with_indices = isinstance(result, (tuple, list))
    values = result[0] if with_indices else result
    if with_indices and any(user.args[1] != 0 for user in node.users):
        return None
    x = low.tensor(operands["self"])
    unbatched = x.meta.dim() == rank + 1
    shape = tuple(values.shape)
    if unbatched:
        x = low.view(aten.unsqueeze.default, {"self": x, "dim": 0})
        shape = (1, *shape)
    return Pool(kind, rank, x, shape, values.dtype, unbatched, with_indices)


def _picture(low: Lowering, pool: Pool) -> Traced:
    """x, a row as a picture of one line."""
    if pool.rank > 1:
        return pool.x
    picture: Traced = low.view(aten.unsqueeze.default, {"self": pool.x, "dim": 2})
    return picture


def _result(low: Lowering, node: Node, pool: Pool, x: Traced, shape: Sequence[int]) -> Traced:
    """A fresh result in the layout of x."""
    return low.new(node.name, shape, pool.dtype, dense_strides(shape, x.meta.stride()))


def _emitted(low: Lowering, node: Node, pool: Pool, kernel: str, args: dict[str, Any]) -> Any:
    """A step of torch's, on pictures or volumes."""
    shape = (*pool.shape[:2], 1, *pool.shape[2:]) if pool.rank == 1 else pool.shape
    if pool.rank == 3:
        # Torch's kernels for volumes write row-major, whatever the strides of their result.
        out = low.new(node.name, shape, pool.dtype)
    else:
        out = _result(low, node, pool, args["self"], shape)
    low.emit(node, kernel, args, out)
    if pool.rank == 1:
        out = low.view(aten.squeeze.dim, {"self": out, "dim": 2})
    return pool.finish(low, out)


MAXIMA = (
    "max_pool1d.default",
    "max_pool1d_with_indices.default",
    "max_pool2d.default",
    "max_pool2d_with_indices.default",
    "max_pool3d.default",
    "max_pool3d_with_indices.default",
)
MEANS = ("avg_pool1d.default", "avg_pool3d.default")
ADAPTIVE = (
    "adaptive_avg_pool1d.default",
    "adaptive_avg_pool2d.default",
    "adaptive_avg_pool3d.default",
    "_adaptive_avg_pool2d.default",
    "_adaptive_avg_pool3d.default",
    "adaptive_max_pool1d.default",
    "adaptive_max_pool2d.default",
    "adaptive_max_pool3d.default",
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(MAXIMA, max_pool),
    **dict.fromkeys(MEANS, avg_pool),
    **dict.fromkeys(ADAPTIVE, adaptive_pool),
}
NATIVE_RULES: dict[str, Rule] = dict.fromkeys((*MAXIMA, *MEANS, "avg_pool2d.default", *ADAPTIVE), native_pool)
