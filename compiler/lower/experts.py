"""Grouped products: rows times matrices that data chooses, of which mixtures of experts are made."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from occ.gathers import GROUPED_PRODUCT
from occ.lower.constants import Constant
from occ.lower.lowering import Lowering, Rule


def grouped(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Rows [rows, k] in groups that follow each other, each group multiplied with a matrix of its own, of
    [count, k, n]. The operator has where groups end; the kernel is given each row's group."""
    result = node.meta["val"]
    rows, matrices, ends, *others = operands.values()
    if ends is None or any(other is not None for other in others):
        return low.functional(node, operands)
    rows, matrices, ends = (low.tensor(each) for each in (rows, matrices, ends))
    ranks = tuple(each.meta.dim() for each in (rows, matrices, ends))
    types = {rows.meta.dtype, matrices.meta.dtype, result.dtype}
    if ranks != (2, 3, 1) or len(types) > 1:
        return low.functional(node, operands)
    count = rows.meta.shape[0]
    numbers = Constant(f"{count}_rows", torch.arange(count, dtype=ends.meta.dtype))
    experts = low.new(f"{node.name}_experts", (count,), torch.int64)
    low.emit(node, "searchsorted", {"sorted_sequence": ends, "self": numbers, "right": True}, experts)
    out = low.new(node.name, result.shape, result.dtype)
    args = {"input": low.contiguous(node, rows), "weight": matrices, "experts": experts}
    low.emit(node, GROUPED_PRODUCT, args, out)
    return out


RULES: dict[str, Rule] = {
    "_grouped_mm.default": grouped,
    # The same as a library's own operator, where torch's does not take the type.
    "grouped_mm_fallback.default": grouped,
}
