"""What the caller sees: placeholders become inputs, states and constants; results become outputs.

A result that covers its buffer in the layout eager gives becomes an output buffer itself, so that the step
that computes it writes where the caller reads. Any other is copied once. Results that share bytes in eager
share them here, and only those.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import torch
from torch.fx import Node

from occ.capture import Captured
from occ.ir import BufferKind
from occ.lower.assemble import Interface
from occ.lower.constants import Constant
from occ.lower.draft import Traced, is_dense, same_layout
from occ.lower.feedforward import in_pieces
from occ.lower.lowering import Lowering, dense_of, is_view
from occ.lower.tied import is_looked_up, is_product, use_packed_tables


def bind_interface(lowering: Lowering, captured: Captured, name: str) -> Interface:
    """Bind the placeholders, walk the graph, bind the results."""
    graph = captured.exported.graph_module.graph
    if lowering.pack:
        graph = in_pieces(graph, _own_constants(captured))
    nodes = {node.name: node for node in graph.nodes}
    inputs = [(taken.name, _external(lowering, nodes[taken.node])) for taken in captured.inputs]
    bound = {taken.node: traced for taken, (_, traced) in zip(captured.inputs, inputs, strict=True)}
    states: list[tuple[str, Traced, torch.Tensor]] = []
    for spec in captured.exported.graph_signature.input_specs:
        placeholder = spec.arg.name
        if placeholder in captured.mutated_buffers:
            initial = _dense(captured.tensors[placeholder])
            bound[placeholder] = lowering.new(
                str(spec.target), initial.shape, initial.dtype, initial.stride(), BufferKind.STATE
            )
            states.append((str(spec.target), bound[placeholder], initial))
        elif placeholder in captured.tensors:
            constant = Constant(str(spec.target), captured.tensors[placeholder])
            lowering.results[nodes[placeholder]] = constant
        elif placeholder in nodes and placeholder not in bound:
            lowering.results[nodes[placeholder]] = nodes[placeholder].meta.get("val")
    for placeholder, traced in bound.items():
        lowering.results[nodes[placeholder]] = traced

    users: defaultdict[int, list[Node]] = defaultdict(list)
    for placeholder, tensor in captured.tensors.items():
        users[tensor.data_ptr()] += nodes[placeholder].users
    lowering.shared = frozenset(weight for weight in users if not all(map(is_product, users[weight])))
    lowering.looked_up = frozenset(weight for weight in users if is_looked_up(users[weight]))
    lowering.run(list(graph.nodes))
    use_packed_tables(lowering)
    outputs = _bind_outputs(lowering, [nodes[output] for output in captured.outputs])
    changed = {**captured.mutated_buffers, **captured.mutated_inputs}
    _emit_updates(lowering, [(nodes[result], bound[name]) for name, result in changed.items()])
    return Interface(
        name=name,
        inputs=inputs,
        outputs=outputs,
        states=states,
        input_tree=captured.input_tree,
        output_tree=captured.output_tree,
        activation_peak=captured.activation_peak,
    )


def _own_constants(captured: Captured) -> frozenset[str]:
    """Placeholders of tensors that never change, and that no other placeholder shows."""
    shown = Counter(tensor.data_ptr() for tensor in captured.tensors.values())
    return frozenset(
        name
        for name, tensor in captured.tensors.items()
        if shown[tensor.data_ptr()] == 1 and name not in captured.mutated_buffers
    )


def _emit_updates(lowering: Lowering, updates: list[tuple[Node, Traced]]) -> None:
    """Copy results onto the inputs and states that the model changes. A result that shows another of these
    (two states that change places) is read before anything is written."""
    written = {target.buffer for _, target in updates}
    sources = {node: lowering.tensor(lowering.results[node]) for node, _ in updates}
    for node, source in sources.items():
        if source.buffer in written:
            staged = lowering.new(
                f"{node.name}_before", source.meta.shape, source.meta.dtype, dense_of(source.meta)
            )
            lowering.emit(node, "copy", {"source": source}, staged)
            sources[node] = staged
    for node, target in updates:
        lowering.emit(node, "copy", {"source": sources[node]}, target)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if is_dense(tensor) else tensor.contiguous()


def _external(lowering: Lowering, node: Node) -> Traced:
    """An input: read where the caller has it, in the layout of the example."""
    example = node.meta["val"]
    strides = tuple(example.stride())
    if not is_dense(example):
        strides = dense_of(example)
    return lowering.new(node.name, example.shape, example.dtype, strides, BufferKind.INPUT)


def _bind_outputs(lowering: Lowering, results: list[Node]) -> list[tuple[str, Traced]]:
    outputs: dict[Node, Traced] = {}
    distinct = list(dict.fromkeys(results))
    # Whole buffers first, so that views of them find them to be outputs already.
    for node in distinct:
        traced = lowering.results[node]
        if isinstance(traced, Traced) and _can_be_output(lowering, node, traced):
            lowering.draft.buffers[traced.buffer].kind = BufferKind.OUTPUT
            outputs[node] = traced
    for node in distinct:
        if node not in outputs:
            outputs[node] = _view_or_copy(lowering, node, outputs)
    return [(f"output_{i}" if len(results) > 1 else "output", outputs[n]) for i, n in enumerate(results)]


def _can_be_output(lowering: Lowering, node: Node, traced: Traced) -> bool:
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
