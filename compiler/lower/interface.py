"""What the caller sees: placeholders become inputs, states and constants; results become outputs.

A result that covers its buffer in the layout eager gives becomes an output buffer itself, so that the step
that computes it writes where the caller reads. Any other is copied once. Results that share bytes in eager
share them here, and only those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from occ.capture import Captured
from occ.errors import UsageError
from occ.ir import BufferKind
from occ.lower.assemble import Interface
from occ.lower.constants import Constant
from occ.lower.draft import Traced, is_dense, same_layout
from occ.lower.lowering import Lowering, dense_of, is_view


def bind_interface(lowering: Lowering, captured: Captured, name: str) -> Interface:
    """Bind the placeholders, walk the graph, bind the results."""
    exported = captured.exported
    graph = exported.graph_module.graph
    nodes = {node.name: node for node in graph.nodes}
    signature = exported.graph_signature
    mutated = set(signature.buffers_to_mutate.values())

    inputs: list[tuple[str, Traced]] = []
    states: list[tuple[str, Traced, torch.Tensor]] = []
    by_target: dict[str, Traced] = {}
    for spec in signature.input_specs:
        node = nodes.get(spec.arg.name)
        if node is None or "val" not in node.meta or not isinstance(node.meta["val"], torch.Tensor):
            if node is not None:
                lowering.results[node] = node.meta.get("val")
            continue
        if spec.kind is InputKind.USER_INPUT:
            traced = _external(lowering, node)
            inputs.append((captured.input_names[node.name], traced))
            by_target[node.name] = traced
        elif spec.kind is InputKind.BUFFER and spec.target in mutated:
            initial = _tensor_of(exported, spec.target)
            traced = lowering.new(
                str(spec.target), initial.shape, initial.dtype, dense_of(initial), BufferKind.STATE
            )
            states.append((str(spec.target), traced, initial.as_strided(initial.shape, dense_of(initial))))
            by_target[str(spec.target)] = traced
        else:
            traced_or_constant = Constant(str(spec.target), _tensor_of(exported, spec.target))
            lowering.results[node] = traced_or_constant
            continue
        lowering.results[node] = traced

    lowering.run(list(graph.nodes))
    outputs = _bind_results(lowering, signature.output_specs, nodes, by_target, captured)
    return Interface(
        name=name,
        inputs=inputs,
        outputs=outputs,
        states=states,
        input_tree=captured.input_tree,
        output_tree=captured.output_tree,
        activation_peak=captured.activation_peak,
    )


def _external(lowering: Lowering, node: Node) -> Traced:
    """An input: read where the caller has it, in the layout of the example."""
    example = node.meta["val"]
    strides = tuple(example.stride())
    if not is_dense(example):
        strides = dense_of(example)
    return lowering.new(node.name, example.shape, example.dtype, strides, BufferKind.INPUT)


def _tensor_of(exported: Any, target: Any) -> torch.Tensor:
    found = exported.state_dict.get(target)
    if found is None:
        found = exported.constants[target]
    if not isinstance(found, torch.Tensor):
        raise UsageError(f"{target} is a {type(found).__name__}; only tensors can be compiled into a program")
    return found.detach()


def _bind_results(
    lowering: Lowering,
    specs: Any,
    nodes: dict[str, Node],
    by_target: dict[str, Traced],
    captured: Captured,
) -> list[tuple[str, Traced]]:
    """Write mutated buffers and inputs back, then settle each output."""
    results: list[Node] = []
    updates: list[tuple[Node, Traced]] = []
    for spec in specs:
        node = nodes.get(getattr(spec.arg, "name", ""))
        if spec.kind is OutputKind.USER_OUTPUT:
            if node is not None and isinstance(lowering.results.get(node), (Traced, Constant)):
                results.append(node)
        elif spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION):
            assert node is not None
            updates.append((node, by_target[spec.target]))
        else:
            raise UsageError(f"results of kind {spec.kind.name} cannot be compiled; only inference is")

    outputs: dict[Node, Traced] = {}
    distinct = list(dict.fromkeys(results))
    # Whole buffers first, so that views of them find them to be outputs already.
    for node in distinct:
        traced = lowering.results[node]
        if isinstance(traced, Traced) and _can_be_output(lowering, node, traced, outputs):
            lowering.draft.buffers[traced.buffer].kind = BufferKind.OUTPUT
            outputs[node] = traced
    for node in distinct:
        if node not in outputs:
            outputs[node] = _view_or_copy(lowering, node, outputs)
    for node, target in updates:
        lowering.emit(node, "copy", {"source": lowering.results[node]}, target)
    return [(f"output_{i}" if len(results) > 1 else "output", outputs[n]) for i, n in enumerate(results)]


def _can_be_output(lowering: Lowering, node: Node, traced: Traced, outputs: dict[Node, Traced]) -> bool:
    buffer = lowering.draft.buffers[traced.buffer]
    return (
        buffer.kind is BufferKind.ACTIVATION
        and traced.is_whole(buffer)
        and same_layout(traced.meta, node.meta["val"].stride())
    )


def _view_or_copy(lowering: Lowering, node: Node, outputs: dict[Node, Traced]) -> Traced:
    """An output that shares bytes with an input or another output in eager is a view of it; any other gets
    bytes of its own."""
    traced = lowering.tensor(lowering.results[node])
    kind = lowering.draft.buffers[traced.buffer].kind
    base = _base(node)
    shared = kind is BufferKind.INPUT and base.op == "placeholder"
    shared = shared or (
        kind is BufferKind.OUTPUT
        and any(_base(o) is base and v.buffer == traced.buffer for o, v in outputs.items())
    )
    if shared:
        return traced
    example = node.meta["val"]
    copy = lowering.new(
        f"{node.name}_result", example.shape, example.dtype, dense_of(example), BufferKind.OUTPUT
    )
    lowering.emit(node, "copy", {"source": traced}, copy)
    return copy


def _base(node: Node) -> Node:
    """The node whose bytes a chain of views shows."""
    while (
        node.op == "call_function"
        and (not isinstance(node.target, torch._ops.OpOverload) or is_view(node.target))
        and node.args
        and isinstance(node.args[0], Node)
    ):
        node = node.args[0]
    return node
