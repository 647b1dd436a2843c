"""Operators that torch itself defines by others (einsum, tensordot, tile, ..), as those others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

MOST_NODES = 64
"""A longer definition is a loop that torch has a kernel for."""


def constituents(node: Node, has_route: Callable[[Node], bool]) -> Graph | None:
    """The graph that a node stands for, its placeholders in the order of `node.all_input_nodes`.

    None where torch does not define the operator by others (CompositeImplicitAutograd), or where one of those
    lacks a route of its own, so that nothing would be gained.
    """
    target, inputs = node.target, node.all_input_nodes
    if not isinstance(target, torch._ops.OpOverload) or not target._can_decompose():
        return None

    def call(*tensors: torch.Tensor) -> Any:
        given = dict(zip(inputs, tensors, strict=True))
        args, kwargs = map_arg((node.args, node.kwargs), given.__getitem__)
        return target.decompose(*args, **kwargs)

    try:
        functional = torch.func.functionalize(call, remove="mutations")
        graph = make_fx(functional)(*(given.meta["val"] for given in inputs)).graph
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None
    inner = [n for n in graph.nodes if n.op not in ("placeholder", "output")]
    if len(inner) > MOST_NODES or not all(_is_plain(n) and n.target is not target for n in inner):
        return None
    graph.eliminate_dead_code()
    if not all(has_route(n) for n in graph.nodes if n.op == "call_function"):
        return None
    for n in inner:
        n.name = f"{node.name}_{n.name}"
        n.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    return graph


def _is_plain(node: Node) -> bool:
    """Whether a node is a call with known results that changes nothing."""
    if node.op != "call_function" or "val" not in node.meta:
        return False
    return not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable)
