"""Feed-forward layers in pieces: the wide tensor between two linear layers never exists as a whole.

    w2 @ f(w1 @ x)  =  sum over i of  w2[:, i] @ f(w1[i] @ x),    f element-wise, i a range of features

where several products may meet in f, as in f(a, b) = silu(a) * b. Each piece of w1 is read, used and
forgotten together with its piece of w2, whose product adds onto the sum in place. So one piece of the wide
tensor is live at a time, and products over long rows, for which oneDNN wants accumulators of its own, become
several over short ones. Sums of 16-bit types would be rounded once for each piece; they are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from occ.lower.following import RESHAPES, added_next, passed_on
from occ.lower.lowering import DROPPED, op_name_or_none
from occ.lower.products import FEW_ROWS, piece_rows
from occ.lower.tied import TURNS

aten = torch.ops.aten

MATRIX: Mapping[str, tuple[int, int, int | None]] = {
    "linear.default": (1, 0, 2),
    "matmul.default": (1, 1, None),
    "mm.default": (1, 1, None),
    "addmm.default": (2, 1, 0),
}
"""Operators that multiply rows by a matrix: the matrix's place among the arguments, right behind the rows;
its dimension of output features; the place of the bias."""


@dataclass(frozen=True, slots=True)
class _Product:
    """A product of rows and a matrix that nothing else reads; `wide` is the matrix's dimension along the
    features of the wide tensor."""

    node: Node
    matrix_at: int
    wide: int
    bias_at: int | None

    @property
    def matrix(self) -> Node:
        return self.node.args[self.matrix_at]  # type: ignore[return-value]

    @property
    def rows(self) -> Node:
        return self.node.args[self.matrix_at - 1]  # type: ignore[return-value]

    @property
    def bias(self) -> Node | None:
        present = self.bias_at is not None and self.bias_at < len(self.node.args)
        return self.node.args[self.bias_at] if present else None  # type: ignore[index, return-value]

    @property
    def feature_nbytes(self) -> int:
        """Bytes of the matrix for each feature of the wide tensor."""
        matrix = self.matrix.meta["val"]
        return int(matrix.nbytes // matrix.shape[self.wide])


@dataclass(frozen=True, slots=True)
class _FeedForward:
    """Products `first`, whose results meet by way of the element-wise nodes `between` in the rows, `width`
    wide, of the product `second`."""

    first: tuple[_Product, ...]
    between: tuple[Node, ...]
    second: _Product
    width: int


def in_pieces(graph: Graph, constants: frozenset[str]) -> Graph:
    """A copy of an exported graph with its feed-forward layers in pieces; nodes that it keeps keep their
    names. `constants` are the placeholders of tensors that never change and that no other one shows."""
    copy = Graph()
    copied: dict[Node, Node] = {}
    copy.output(copy.graph_copy(graph, copied))
    for original, node in copied.items():
        node.name = original.name
    matrices = frozenset(copied[node] for node in graph.nodes if node.name in constants)
    for node in list(copy.nodes):
        layer = _ending_with(node, matrices)
        if layer is not None:
            _cut(copy, layer)
    copy.lint()
    return copy


def _ending_with(node: Node, constants: frozenset[Node]) -> _FeedForward | None:
    """The feed-forward layer whose last product a node is, if it is one's."""
    second = _product(node, constants, last=True)
    if second is None:
        return None
    width = _extent(second.rows)
    if second.rows.meta["val"].numel() < FEW_ROWS * width:
        return None
    first: dict[Node, _Product] = {}
    between: set[Node] = set()
    waiting = [second.rows]
    while waiting:
        each = waiting.pop()
        if each in first or each in between:
            continue
        product = _product(each, constants, last=False)
        if product is not None:
            first[each] = product
        elif _keeps_features_apart(each, width):
            between.add(each)
            waiting += [source for source in each.all_input_nodes if _extent(source) == width]
        else:
            return None
    layer = {node, *first, *between}
    if not layer.issuperset(user for each in layer - {node} for user in each.users):
        return None
    in_order = tuple(each for each in node.graph.nodes if each in between)
    return _FeedForward(tuple(first.values()), in_order, second, width)


def _product(node: Node, constants: frozenset[Node], last: bool) -> _Product | None:
    """A node as the last product of a feed-forward layer, or as one of its first."""
    places = MATRIX.get(op_name_or_none(node) or "")
    if places is None or node.kwargs:
        return None
    matrix_at, out_features, bias_at = places
    found = _Product(node, matrix_at, 1 - out_features if last else out_features, bias_at)
    weight: Any = found.matrix
    if not isinstance(weight, Node) or weight.meta["val"].dim() != 2:
        return None
    while op_name_or_none(weight) in TURNS and len(weight.users) == 1:
        weight = weight.args[0]
    alone = weight in constants and len(weight.users) == 1
    single = node.meta["val"].dtype is weight.meta["val"].dtype is torch.float32
    row = found.bias is None or (found.bias in constants and found.bias.meta["val"].dim() == 1)
    return found if alone and single and row else None


def _keeps_features_apart(node: Node, width: int) -> bool:
    """Whether each of the `width` elements along a result's last dimension depends on those at its place
    alone."""
    if _extent(node) != width:
        return False
    name = op_name_or_none(node)
    if name in RESHAPES or name in DROPPED:
        return _extent(node.all_input_nodes[0]) == width
    if name is None or torch.Tag.pointwise not in node.target.tags:  # type: ignore[union-attr]
        return False
    return all(_extent(source) in (1, width) for source in node.all_input_nodes)


def _extent(node: Node) -> int:
    """The size of a tensor's last dimension, 1 where it has none, 0 for anything else."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return 0
    return int(value.shape[-1]) if value.dim() else 1


def _cut(graph: Graph, layer: _FeedForward) -> None:
    """Replace a feed-forward layer by the sum of its pieces. A tensor that is added to it next is the first
    term."""
    products = (*layer.first, layer.second)
    pieces = piece_rows(layer.width, max(product.feature_nbytes for product in products))
    if len(pieces) == 1:
        return
    end = passed_on(layer.second.node, RESHAPES)
    total = None
    added = added_next(end)
    if added is not None and _are_alike(added[1], end):
        end, total = added
    pen = _Pen(graph, end)
    for first, last in pieces:
        made = {product.node: _first_piece(pen, product, first, last) for product in layer.first}
        for node in layer.between:
            made[node] = _piece_between(pen, node, made, last - first)
        bias = layer.second.bias if first == 0 else None
        term = _second_piece(pen, layer.second, made[layer.second.rows], bias, first, last)
        term = pen.write(end, aten.view.default, (term, list(end.meta["val"].shape)))
        total = term if total is None else pen.write(end, aten.add.Tensor, (total, term))
    assert total is not None
    end.replace_all_uses_with(total)
    _erase(graph, layer, end)
    total.name = end.name


def _erase(graph: Graph, layer: _FeedForward, end: Node) -> None:
    """Take a layer out of the graph, with all from its last product to `end`."""
    gone = {end, *layer.between, *(product.node for product in layer.first)}
    node = layer.second.node
    while node is not end:
        gone.add(node)
        [node] = node.users
    for node in [node for node in reversed(graph.nodes) if node in gone]:
        graph.erase_node(node)


def _are_alike(one: Node, other: Node) -> bool:
    """Whether two tensors have the same shape and type."""
    first, second = one.meta["val"], other.meta["val"]
    return bool(first.shape == second.shape and first.dtype is second.dtype)


@dataclass(frozen=True, slots=True)
class _Pen:
    """Writes nodes into a graph, before a certain one."""

    graph: Graph
    before: Node

    def write(self, like: Node, target: Any, args: tuple[Any, ...], kwargs: Any = None) -> Node:
        """A call that is named after another node, and of its module."""
        kwargs = {} if kwargs is None else kwargs
        with self.graph.inserting_before(self.before):
            node = self.graph.create_node("call_function", target, args, kwargs, name=like.name)
        given, named = map_arg((args, kwargs), lambda source: source.meta["val"])
        with torch.no_grad():
            node.meta = {**like.meta, "val": target(*given, **named)}
        return node

    def features(self, constant: Node, dim: int, first: int, last: int) -> Node:
        """Indices [first, last) along a dimension."""
        return self.write(constant, aten.slice.Tensor, (constant, dim, first, last))


def _first_piece(pen: _Pen, product: _Product, first: int, last: int) -> Node:
    """Features [first, last) of a product's result."""
    args = list(product.node.args)
    args[product.matrix_at] = pen.features(product.matrix, product.wide, first, last)
    if product.bias is not None:
        args[product.bias_at] = pen.features(product.bias, 0, first, last)  # type: ignore[index]
    return pen.write(product.node, product.node.target, tuple(args))


def _piece_between(pen: _Pen, node: Node, made: Mapping[Node, Node], width: int) -> Node:
    """An element-wise node over pieces of its operands, `width` features wide."""
    args, kwargs = map_arg((node.args, node.kwargs), lambda source: made.get(source, source))
    if op_name_or_none(node) in RESHAPES:
        args = (args[0], [*node.meta["val"].shape[:-1], width])
    return pen.write(node, node.target, args, kwargs)


def _second_piece(pen: _Pen, product: _Product, rows: Node, bias: Node | None, first: int, last: int) -> Node:
    """What features [first, last) of the wide tensor, `rows`, give to a product's result."""
    args = list(product.node.args)
    args[product.matrix_at - 1] = rows
    args[product.matrix_at] = pen.features(product.matrix, product.wide, first, last)
    if bias is not None or product.bias_at is None:
        return pen.write(product.node, product.node.target, tuple(args))
    if product.bias_at == 0:
        return pen.write(product.node, aten.mm.default, tuple(args[1:]))
    return pen.write(product.node, product.node.target, tuple(args[: product.bias_at]))
