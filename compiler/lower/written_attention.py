"""Attention that a model writes out (product, scale, mask, softmax, product), as one step of the kernel in C.

It is found at its last product, by walking back. The steps of the others have been emitted by then; as nobody
else reads their results, they are dropped with all dead steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from occ.lower.attention import Attention, as_four, emit_native
from occ.lower.constants import Constant
from occ.lower.draft import Traced
from occ.lower.lowering import DROPPED, IGNORED, Lowering, Rule, op_name, op_name_or_none

PASSED = DROPPED | {"_to_copy.default", "type_as.default", "expand.default", "view.default"}
"""What may stand between the parts, where it keeps the shape."""

PRODUCTS = frozenset({"matmul.default", "bmm.default", "baddbmm.default"})


@dataclass(frozen=True, slots=True)
class Scores:
    """query @ turned_key * scale + mask, as nodes."""

    query: Node
    turned_key: Node
    scale: float
    mask: Node | None


def product(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A product that ends an attention, or any other."""
    found = _attention(low, node)
    if found is None or not found.is_native or found.query.meta.dtype != node.meta["val"].dtype:
        return low.plainly(node, operands)
    return emit_native(low, node, found, unseen="nan")


def _attention(low: Lowering, node: Node) -> Attention | None:
    weights, value = node.args[:2]
    if not isinstance(weights, Node) or not isinstance(value, Node) or _rank(node) not in (3, 4):
        return None
    softmax = _source(weights)
    if softmax is None or op_name_or_none(softmax) not in ("softmax.int", "_softmax.default"):
        return None
    if softmax.args[1] not in (-1, _rank(softmax) - 1):
        return None
    scores = _scores(low, softmax.args[0])
    if scores is None or _leading(scores.query) != _leading(node) or _leading(value) != _leading(node):
        return None
    tensors = [low.tensor(low.results[each]) for each in (scores.query, scores.turned_key, value)]
    query, turned_key, value_tensor = (as_four(low, tensor) for tensor in tensors)
    key = Traced(turned_key.name, turned_key.buffer, turned_key.meta.transpose(-1, -2))
    mask = None if scores.mask is None else as_four(low, low.results[scores.mask])
    return Attention(query, key, value_tensor, mask, False, scores.scale)


def _scores(low: Lowering, end: Any) -> Scores | None:
    """What a softmax is taken of, from its end to its product."""
    node, mask, scale = _source(end), None, 1.0
    while node is not None and op_name_or_none(node) not in PRODUCTS:
        name = op_name_or_none(node)
        if name == "add.Tensor" and mask is None and scale == 1.0 and node.kwargs.get("alpha", 1) == 1:
            node, mask = _added(node)
            continue
        factor = _number(low, node.args[1]) if name in ("mul.Tensor", "div.Tensor", "mul.Scalar") else None
        if not factor:
            return None
        scale = scale / factor if name == "div.Tensor" else scale * factor
        node = _source(node.args[0])
    if node is None or any(not isinstance(arg, Node) for arg in node.args[:2]):
        return None
    operands = list(node.args)
    if op_name(node.target) == "baddbmm.default":
        if mask is not None or scale != 1.0 or node.kwargs.get("beta", 1) != 1:
            return None
        scale, mask = float(node.kwargs.get("alpha", 1)), operands.pop(0)  # type: ignore[arg-type]
    query, turned_key = operands
    if _leading(turned_key) != _leading(node):
        return None
    return Scores(query, turned_key, scale, mask)


def _added(node: Node) -> tuple[Node | None, Node | None]:
    """The scores and the mask of an addition: the scores are what comes from a product and has no other
    reader."""
    for scores, mask in (node.args[:2], node.args[1::-1]):
        source = _source(scores)
        if source is None or not isinstance(mask, Node) or _rank(mask) > 4:
            continue
        if source.meta["val"].shape == node.meta["val"].shape and _ends_in_product(source):
            return source, mask
    return None, None


def _ends_in_product(node: Node) -> bool:
    return any(op_name_or_none(each) in PRODUCTS for each in _chain(node))


def _chain(node: Node | None) -> Iterator[Node]:
    """A node and what its first operand comes from, while each has one reader."""
    while node is not None:
        yield node
        node = _source(node.args[0]) if node.args else None


def _source(arg: Any) -> Node | None:
    """The node that computes an operand with one reader, before what keeps its values and shape."""
    while isinstance(arg, Node) and len(_readers(arg)) == 1:
        if op_name_or_none(arg) not in PASSED:
            return arg
        before = arg.args[0]
        if not isinstance(before, Node) or before.meta["val"].shape != arg.meta["val"].shape:
            return None
        arg = before
    return None


def _readers(node: Node) -> list[Node]:
    """The nodes that read a node's values, not its type alone."""
    names = ((user, op_name_or_none(user)) for user in node.users)
    return [
        user
        for user, name in names
        if name not in IGNORED and not (name == "type_as.default" and user.args[0] is not node)
    ]


def _number(low: Lowering, arg: Any) -> float | None:
    """A number, also where it is a constant of one element."""
    if isinstance(arg, Node):
        constant = low.results.get(arg)
        if not isinstance(constant, Constant) or constant.tensor.numel() != 1:
            return None
        return float(constant.tensor)
    return float(arg) if isinstance(arg, (int, float)) else None


def _rank(node: Node) -> int:
    return len(node.meta["val"].shape)


def _leading(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape[:-2])


NATIVE_RULES: dict[str, Rule] = {"matmul.default": product, "bmm.default": product}
