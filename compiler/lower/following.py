"""What comes after a node: the operators that its step can take up, and what they are then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from occ.lower.draft import Traced, same_layout
from occ.lower.lowering import DROPPED, Lowering, op_name, op_name_or_none

RESHAPES = frozenset({"view.default", "_unsafe_view.default", "reshape.default"})


def only_user(node: Node, name: str) -> Node | None:
    """The one node that uses `node`, if it is this operator."""
    if len(node.users) != 1:
        return None
    user = next(iter(node.users))
    if user.op == "call_function" and isinstance(user.target, torch._ops.OpOverload):
        return user if op_name(user.target) == name and node in user.args else None
    return None


def passed_on(node: Node, through: frozenset[str] = frozenset()) -> Node:
    """The last node of a chain of single users that drop out in the lowering, or are operators `through`."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        name = op_name_or_none(user)
        if (name not in DROPPED and name not in through) or user.args[0] is not node:
            break
        node = user
    return node


def first_result(node: Node) -> Node:
    """The getitem of result 0 (batch norm returns three)."""
    return next((u for u in node.users if u.args[1] == 0), node)


def added_next(node: Node) -> tuple[Node, Node] | None:
    """The addition that is all that uses a node, and the other node that it adds."""
    add = only_user(node, "add.Tensor")
    if add is None or add.kwargs.get("alpha", 1) != 1:
        return None
    others = [arg for arg in add.args if arg is not node]
    return (add, others[0]) if len(others) == 1 and isinstance(others[0], Node) else None


def following_addition(
    low: Lowering,
    tail: Node,
    shape: Sequence[int],
    dtype: torch.dtype,
    layout: Callable[[Sequence[int]], tuple[int, ...]],
) -> tuple[Traced | None, Node]:
    """The tensor that the next step adds, if it exists already in the result's layout."""
    found = added_next(tail)
    if found is None:
        return None, tail
    add, source = found
    other = low.results.get(source)
    if (
        not isinstance(other, Traced)
        or tuple(other.meta.shape) != tuple(shape)
        or other.meta.dtype != dtype
        or not same_layout(other.meta, layout(shape))
    ):
        return None, tail
    return other, add


def settle(low: Lowering, first: Node, tail: Node, traced: Traced) -> None:
    """Every node from `first` to the fused `tail` is done; only the tail is read by anyone. Those on the way
    may show the result in another shape."""
    node = first
    while node is not tail:
        following = next(iter(node.users))
        if op_name_or_none(following) == "_native_batch_norm_legit_no_training.default":
            low.results[following] = (traced, None, None)
            following = first_result(following)
        shape = following.meta["val"].shape
        shaped = traced
        if shape != traced.meta.shape:
            shaped = Traced(traced.name, traced.buffer, traced.meta.view(shape))
        low.results[following] = shaped
        node = following
