"""How much memory the exported graph takes when it runs in its own order: the yardstick of every budget."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map_only

Stores = Any
"""What a node holds: the id of a store of bytes, None for no bytes of its own, or a tuple of these."""


def activation_peak(exported: ExportedProgram, outputs: bool = True) -> int:
    """The largest sum of live non-weight bytes when the graph runs in its own order; without `outputs`, not
    counting what the graph returns.

    - A value lives from the node that computes it to its last use; while a node runs, what it reads and what
      it computes are both alive. Results that nobody uses live while their node runs.
    - Views take no bytes and keep alive what they show. Which `reshape` is a view follows from its strides.
    - Inputs live from the beginning to the end, because the caller holds them; outputs to the end.
    - Buffers that the graph changes live throughout. Their new contents, and those of changed inputs, take
      no bytes of their own: eager execution writes them in place.
    - What kernels allocate inside and give back is not counted; parameters, buffers that are only read, and
      constants are weights.

    The graph must have fixed sizes.
    """
    graph = exported.graph_module.graph
    nodes = list(graph.nodes)
    in_place = _updates(exported)
    weights = _weights(exported)
    stores: dict[Node, Stores] = {}
    nbytes: list[int] = []
    first: list[int] = []
    last: list[int] = []

    def new(tensor: Tensor, begin: int, end: int) -> int:
        nbytes.append(tensor.numel() * tensor.element_size())
        first.append(begin)
        last.append(end)
        return len(nbytes) - 1

    def touch(held: Stores, position: int) -> None:
        for store in tree_leaves(held):
            if store is not None:
                last[store] = max(last[store], position)

    end = len(nodes) - 1
    for position, node in enumerate(nodes):
        for source in node.all_input_nodes:
            touch(stores[source], position)
        value = node.meta.get("val")
        if node.op == "placeholder":
            held = isinstance(value, Tensor) and node.name not in weights
            stores[node] = new(value, 0, end) if held else None
        elif node.name in in_place:
            stores[node] = None
        elif node.target is operator.getitem:
            source, index = node.args
            held = stores[source]  # type: ignore[index]
            stores[node] = held[index] if isinstance(held, tuple) else held
        elif node.op == "call_function" and _is_view(node):
            stores[node] = stores[next(iter(node.all_input_nodes))]
        elif node.op == "call_function":
            stores[node] = tree_map_only(Tensor, lambda t, at=position: new(t, at, at), _fixed(value))
        else:
            stores[node] = None
    if not outputs:
        for source in graph.output_node().all_input_nodes:
            for store in tree_leaves(stores[source]):
                if store is not None:
                    nbytes[store] = 0
    return _peak(nbytes, first, last, len(nodes))


def _peak(nbytes: Iterable[int], first: Iterable[int], last: Iterable[int], count: int) -> int:
    """Largest sum of `nbytes` over closed intervals [first, last] of `count` positions."""
    change = [0] * (count + 1)
    for size, begin, end in zip(nbytes, first, last, strict=True):
        change[begin] += size
        change[end + 1] -= size
    return max(accumulate(change))


def _weights(exported: ExportedProgram) -> set[str]:
    """Placeholders of parameters, constants and buffers that the graph leaves as they are."""
    signature = exported.graph_signature
    return {
        spec.arg.name
        for spec in signature.input_specs
        if spec.kind is not InputKind.USER_INPUT and spec.target not in signature.buffers_to_mutate.values()
    }


def _updates(exported: ExportedProgram) -> set[str]:
    """Nodes that compute the new contents of a buffer or an input."""
    kinds = (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION)
    placeholders = {spec.arg.name for spec in exported.graph_signature.input_specs}
    return {
        spec.arg.name for spec in exported.graph_signature.output_specs if spec.kind in kinds
    } - placeholders


def _fixed(value: Any) -> Any:
    """`value` with lists as tuples and everything that is no tensor as None."""
    if isinstance(value, (tuple, list)):
        return tuple(_fixed(item) for item in value)
    return value if isinstance(value, Tensor) else None


def _is_view(node: Node) -> bool:
    """Whether the node's result shows bytes of its operand."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target is torch.ops.aten._unsafe_view.default:
        return True
    returns = target._schema.returns
    if not returns or any(r.alias_info is None or r.alias_info.is_write for r in returns):
        return False
    # `reshape`, `contiguous`, `to` and the like are views or copies, depending on the layout they meet.
    bases: list[Tensor] = []

    def meta(source: Node) -> Any:
        value = source.meta.get("val")
        if not isinstance(value, Tensor):
            return value
        bases.append(torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta"))
        return bases[-1]

    args, kwargs = torch.fx.map_arg((node.args, _without_device(node.kwargs)), meta)
    results = tree_leaves(target(*args, **kwargs))
    storage = results[0].untyped_storage()._cdata
    return any(base.untyped_storage()._cdata == storage for base in bases)


def _without_device(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory")}
