"""Walking the exported graph in its own order, one step (or view, or constant) for each node.

Layout is free: every kernel takes strided tensors, so convolutions produce channels_last, element-wise
kernels keep what they get, and a copy is made only where a view or a kernel needs another layout. Clones and
`contiguous` are therefore dropped.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from occ.codegen.kernels import Kernel, kernel_for_op, kernel_named
from occ.errors import UsageError
from occ.ir import BufferKind, Packing, Symbol
from occ.lower.composed import constituents
from occ.lower.constants import Constant, WeightStore, constant_meta, worth_folding
from occ.lower.draft import (
    Draft,
    PackedTable,
    StepDraft,
    Traced,
    dense_strides,
    map_tensors,
    same_layout,
)

Rule = Callable[["Lowering", Node, dict[str, Any]], Any]
"""Takes the node and its operands by name (Traced, Constant or literal), emits steps, returns the result."""

# What inference drops: results equal to the first operand, whatever the layout.
DROPPED = frozenset(
    {
        "alias.default",
        "clone.default",
        "contiguous.default",
        "detach.default",
        "detach_.default",
        "dropout.default",
        "lift_fresh_copy.default",
        "lift.default",
        "native_dropout.default",
    }
)
# Views that torch marks instead of computing them; a program's tensors carry no marks.
LAZY = frozenset({"_conj.default", "_neg_view.default"})
IGNORED = frozenset({"_assert_tensor_metadata.default", "_assert_async.msg", "_assert_scalar.default"})


OWN_NAMESPACES = frozenset({"aten", "prims", "quantized", "quantized_decomposed"})
"""Operators that come with torch; a fallback to any other would need its library on the device."""


@dataclass(slots=True)
class Lowering:
    """The state of one walk: the draft, the constants, and what each node became."""

    rules: dict[str, Rule]
    pack: bool
    native_rules: dict[str, Rule] = field(default_factory=dict)
    """Rules that come first, and that go on with `plainly` where they do not apply; empty where the program
    is to have no native kernels."""
    device: str = "cpu"
    """What the program runs on: "cpu" or "cuda"."""
    draft: Draft = field(default_factory=Draft)
    results: dict[Node, Any] = field(default_factory=dict)
    store: WeightStore = field(init=False)
    packings: dict[int, Packing] = field(default_factory=dict)
    shared: frozenset[int] = frozenset()
    """Addresses of weights that something else than products reads."""
    looked_up: frozenset[int] = frozenset()
    """Addresses of those of which a product reads the whole and lookups a few rows."""
    packed_tables: dict[int, PackedTable] = field(default_factory=dict)
    """Those that a product has in a packed copy, by the buffer of the plain one."""
    _folded: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """Results of operators on constants, which `results` keeps alive, by operator and operands: what every
    layer computes again is stored once."""
    _numbers: dict[tuple[Any, ...], Constant] = field(default_factory=dict)
    _module: str = ""

    def __post_init__(self) -> None:
        self.store = WeightStore(self.draft)

    def run(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if node.op == "call_function" and node not in self.results:
                self._module = module_path(node)
                self.results[node] = self._lower(node)

    def _lower(self, node: Node) -> Any:
        if node.target is operator.getitem:
            source, index = node.args
            return self.results[source][index]  # type: ignore[index]
        if not isinstance(node.target, torch._ops.OpOverload):
            raise UsageError(
                f"{node.name} ({module_path(node) or 'the model'}) uses {node.target}, which is control"
                " flow or not a tensor operation; export a model whose graph is fixed"
            )
        name = op_name(node.target)
        if name in IGNORED:
            return None
        operands = self.bind(node)
        if name in DROPPED:
            first = self._dropped(node, operands)
            return (first, None) if name.startswith("native_") else first
        if (folded := self._fold(node, operands)) is not None:
            return folded
        if (rule := self.native_rules.get(name)) is not None:
            return rule(self, node, operands)
        return self.plainly(node, operands)

    def plainly(self, node: Node, operands: dict[str, Any]) -> Any:
        """What a node becomes where no native kernel computes it."""
        name = op_name(node.target)
        if (rule := self.rules.get(name)) is not None:
            return rule(self, node, operands)
        if is_view(node.target):
            return self.view(node.target, operands)
        if (kernel := kernel_for_op(name)) is not None:
            return self.direct(node, kernel, operands)
        return self.fallback(node, operands)

    def _dropped(self, node: Node, operands: dict[str, Any]) -> Any:
        """The first operand of a node that changes nothing but its layout. Constants keep the exported
        layout, because views of them are folded as they were exported."""
        first = next(iter(operands.values()))
        if not isinstance(first, Constant):
            return first
        result = next(_leaves(node.meta["val"]))
        if same_layout(first.tensor, result.stride()):
            return first
        folded = self._fold(node, operands)
        return self.tensor(first) if folded is None else folded

    def is_shared(self, weight: Constant) -> bool:
        """Whether something else than products reads a weight, so that it has to keep its layout."""
        return weight.tensor.data_ptr() in self.shared

    # Operands

    def bind(self, node: Node) -> dict[str, Any]:
        """The node's operands by schema name, in schema order, those that equal their default left out
        unless a positional one follows."""
        schema = node.target._schema  # type: ignore[union-attr]
        given = list(node.args)
        bound: dict[str, Any] = {}
        positional = [a for a in schema.arguments if not a.kwarg_only]
        last = -1
        for i, argument in enumerate(positional):
            if i < len(given):
                bound[argument.name] = self._resolve(given[i])
            elif argument.name in node.kwargs:
                bound[argument.name] = self._resolve(node.kwargs[argument.name])
            else:
                bound[argument.name] = (
                    _literal(argument.default_value) if argument.has_default_value() else None
                )
                continue
            last = i
        for argument in positional[last + 1 :]:
            del bound[argument.name]
        for argument in schema.arguments:
            if argument.kwarg_only and argument.name in node.kwargs:
                value = self._resolve(node.kwargs[argument.name])
                if not argument.has_default_value() or value != _literal(argument.default_value):
                    bound[argument.name] = value
        return bound

    def _resolve(self, arg: Any) -> Any:
        if isinstance(arg, Node):
            return self.results[arg]
        if isinstance(arg, (tuple, list)):
            return tuple(self._resolve(item) for item in arg)
        if isinstance(arg, slice):
            raise UsageError("slices with dynamic bounds cannot be planned ahead of time")
        return _literal(arg)

    def tensor(self, operand: Any) -> Traced:
        """An operand as a tensor of the program; a constant becomes a weight."""
        return self.store.traced(operand) if isinstance(operand, Constant) else operand

    def _as_steps_take_it(self, operand: Any) -> Any:
        if isinstance(operand, Constant):
            return self.store.traced(operand)
        if isinstance(operand, (tuple, list)):
            return tuple(self._as_steps_take_it(item) for item in operand)
        return operand

    def _fold(self, node: Node, operands: dict[str, Any]) -> Any:
        """The node's value if it depends on constants alone and is worth storing."""
        leaves = list(_leaves(tuple(operands.values())))
        if any(isinstance(leaf, Traced) for leaf in leaves):
            return None
        constants = [leaf for leaf in leaves if isinstance(leaf, Constant)]
        expected = node.meta.get("val")
        produced = [t for t in _leaves(expected) if isinstance(t, torch.Tensor)]
        nbytes = sum(t.numel() * t.element_size() for t in produced)
        if torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
            return None
        if not worth_folding(nbytes, constants) and not is_view(node.target):
            return None
        key = (node.target, _identity(tuple(operands.items())))
        if key in self._folded:
            return self._folded[key]
        args = [self._real(self.results[a] if isinstance(a, Node) else a) for a in node.args]
        kwargs = {
            k: self._real(self.results[v] if isinstance(v, Node) else v) for k, v in node.kwargs.items()
        }
        with torch.no_grad():
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        name = (
            _name_of_view(constants[0], node) if len(constants) == 1 and is_view(node.target) else node.name
        )
        self._folded[key] = _map_tensors(result, lambda t: Constant(name, t))
        return self._folded[key]

    def _real(self, operand: Any) -> Any:
        if isinstance(operand, Node):
            return self._real(self.results[operand])
        if isinstance(operand, Constant):
            return operand.tensor
        if isinstance(operand, (tuple, list)):
            return [self._real(item) for item in operand]
        return operand

    def number(self, value: bool | int | float, dtype: torch.dtype) -> Constant:
        """A tensor of no dimensions, stored once for each number and type."""
        key = (dtype, type(value), value)
        if key not in self._numbers:
            self._numbers[key] = Constant(f"number_{value}", torch.tensor(value, dtype=dtype))
        return self._numbers[key]

    # Emission

    def new(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        strides: Sequence[int] | None = None,
        kind: BufferKind = BufferKind.ACTIVATION,
    ) -> Traced:
        if strides is None:
            strides = meta_like_contiguous(shape)
        return self.draft.new(name, kind, shape, strides, dtype)

    def emit(self, node: Node, kernel: str, args: dict[str, Any], outs: Traced | Sequence[Traced]) -> None:
        """Append a step; its scratch comes from the table."""
        results = [outs] if isinstance(outs, Traced) else list(outs)
        operands = {name: self._as_steps_take_it(arg) for name, arg in args.items()}
        entry = kernel_named(kernel)
        scratch: list[Traced] = []
        if entry.scratch is not None:
            for spec in entry.scratch(specs_of(operands), results[0].spec):
                scratch.append(
                    self.new(
                        f"{node.name}_scratch",
                        spec.shape,
                        getattr(torch, spec.dtype),
                        spec.strides,
                        BufferKind.SCRATCH,
                    )
                )
        self.draft.steps.append(StepDraft(node.name, self._module, kernel, operands, results, scratch))

    def contiguous(self, node: Node, operand: Any, strides: Sequence[int] | None = None) -> Any:
        """The operand in row-major order (or with `strides`), copied where it is not."""
        if isinstance(operand, Constant):
            wanted = operand.tensor.contiguous() if strides is None else operand.tensor
            return (
                operand
                if wanted is operand.tensor
                else self.store.transformed(operand, "contiguous", torch.Tensor.contiguous)
            )
        meta = operand.meta
        wanted_strides = meta_like_contiguous(meta.shape) if strides is None else tuple(strides)
        if same_layout(meta, wanted_strides):
            return operand
        copy = self.new(f"{operand.name}_copy", meta.shape, meta.dtype, wanted_strides)
        self.emit(node, "copy", {"source": operand}, copy)
        return copy

    def view(self, target: Any, operands: dict[str, Any]) -> Any:
        """The result of a view operator; its base is copied first where the layout forbids the view."""
        base_name, base = next((k, v) for k, v in operands.items() if isinstance(v, (Traced, Constant)))
        traced = self.tensor(base)
        result = self._try_view(target, operands, base_name, traced)
        if result is None:
            copy = self.new(f"{traced.name}_copy", traced.meta.shape, traced.meta.dtype)
            step = StepDraft(copy.name, self._module, "copy", {"source": traced}, [copy])
            self.draft.steps.append(step)
            result = self._try_view(target, operands, base_name, copy)
        assert result is not None
        return result

    def _try_view(self, target: Any, operands: dict[str, Any], base_name: str, base: Traced) -> Any:
        arguments = {**_map_all(operands, _meta_of), base_name: base.meta}
        try:
            viewed = (
                target(*arguments.values()) if not _keyword_only(target, arguments) else target(**arguments)
            )
        except RuntimeError:
            return None
        storage = base.meta.untyped_storage()._cdata
        if any(t.untyped_storage()._cdata != storage for t in _leaves(viewed) if isinstance(t, torch.Tensor)):
            return None
        return _map_tensors(viewed, lambda t: Traced(base.name, base.buffer, t))

    def direct(self, node: Node, kernel: Kernel, operands: dict[str, Any]) -> Any:
        """A step for an operator that an entry of the table computes as it stands."""
        for name in kernel.dense:
            operands[name] = self.contiguous(node, operands[name])
        results = self.results_of(node, operands)
        outs = list(results) if isinstance(results, tuple) else [results]
        self.emit(node, kernel.name, operands, outs)
        return results

    def results_of(self, node: Node, operands: dict[str, Any]) -> Any:
        """Fresh tensors for the node's results, with the strides its meta kernel gives for our layouts."""
        expected = node.meta["val"]
        metas = _map_all(operands, _meta_of)
        try:
            result = node.target(**metas)  # type: ignore[operator]
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            result = expected
        if _shapes(result) != _shapes(expected):
            result = expected
        return _map_tensors(
            result, lambda t: self.new(node.name, t.shape, t.dtype, dense_strides(t.shape, t.stride()))
        )

    def fallback(self, node: Node, operands: dict[str, Any]) -> Any:
        """The operators that torch defines this one by, where each has a route; else `functional`."""
        graph = constituents(node, self._has_route)
        if graph is None:
            return self.functional(node, operands)
        inner = list(graph.nodes)
        for placeholder, given in zip(inner, node.all_input_nodes, strict=False):
            self.results[placeholder] = self.results[given]
        self.run(inner)
        return map_arg(graph.output_node().args[0], self.results.__getitem__)

    def _has_route(self, node: Node) -> bool:
        """Whether a node becomes something else than a step of the fallback, as far as its name tells."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return node.target is operator.getitem
        name = op_name(node.target)
        known = name in DROPPED or name in IGNORED or name in self.rules or is_view(node.target)
        return known or kernel_for_op(name) is not None

    def functional(self, node: Node, operands: dict[str, Any]) -> Any:
        """The functional operator, its results copied in; results nobody reads are left out."""
        expected = node.meta["val"]
        namespace = node.target.namespace  # type: ignore[union-attr]
        if namespace not in OWN_NAMESPACES:
            raise UsageError(
                f"{node.name} ({module_path(node) or 'the model'}) uses the operator {node.target}, which"
                " torch itself does not have; a device with torch alone could not run it"
            )
        name = f"aten.{op_name(node.target)}"
        if namespace != "aten":
            name = f"torch.ops.{namespace}.{op_name(node.target)}"
        args: dict[str, Any] = {"op": Symbol(name)}
        schema = node.target._schema  # type: ignore[union-attr]
        keywords = {a.name for a in schema.arguments if a.kwarg_only}
        for key, operand in operands.items():
            args[f"{key}=" if key in keywords else key] = operand
        if isinstance(expected, torch.Tensor):
            out = self.new(node.name, expected.shape, expected.dtype, dense_of(expected))
            self.emit(node, "fallback", {**args, "results": None}, out)
            return out
        used = sorted({user.args[1] for user in node.users if user.target is operator.getitem})
        results: list[Traced | None] = [None] * len(expected)
        for index in used:
            t = expected[index]
            results[index] = self.new(f"{node.name}_{index}", t.shape, t.dtype, dense_of(t))
        if used:
            outs = [r for r in results if r is not None]
            self.emit(node, "fallback", {**args, "results": tuple(used)}, outs)
        return tuple(results)


def module_path(node: Node) -> str:
    """The dotted path of the module a node comes from."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    return str(path).removeprefix("L['self'].").removeprefix("L['self']")


def op_name(target: Any) -> str:
    """`add.Tensor` for aten.add.Tensor."""
    return str(target._schema.name.split("::")[1]) + "." + str(target._overloadname)


def op_name_or_none(node: Node) -> str | None:
    return op_name(node.target) if isinstance(node.target, torch._ops.OpOverload) else None


def _name_of_view(constant: Constant, node: Node) -> str:
    """What a view of a constant is called: as the constant, with the rows or columns that are cut out."""
    if op_name(node.target) != "slice.Tensor" or len(node.args) != 4:
        return constant.name
    _, dim, first, last = node.args
    return f"{constant.name}[{':, ' * int(dim)}{first}:{last}]"  # type: ignore[call-overload]


def is_view(target: Any) -> bool:
    """Whether the operator's results are views of its operand (or may be: reshape)."""
    returns = target._schema.returns
    if op_name(target) == "_unsafe_view.default":
        return True
    if op_name(target) in LAZY:
        return False
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def meta_like_contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides, in elements."""
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * max(shape[dim + 1], 1)
    return tuple(strides)


def dense_of(tensor: torch.Tensor) -> tuple[int, ...]:
    return dense_strides(tensor.shape, tensor.stride())


def specs_of(operands: dict[str, Any]) -> dict[str, Any]:
    return {name: map_tensors(arg, lambda t: t.spec) for name, arg in operands.items()}


def _literal(arg: Any) -> Any:
    """Literals that a plan can hold; types, layouts and devices become the text that names them."""
    if isinstance(arg, (torch.dtype, torch.layout, torch.memory_format)):
        return Symbol(str(arg))
    if isinstance(arg, torch.device):
        return None
    if isinstance(arg, (tuple, list)):
        return tuple(_literal(item) for item in arg)
    if isinstance(arg, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        raise UsageError("the graph has symbolic sizes; export with fixed shapes")
    return arg


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _leaves(item)
    else:
        yield tree


def _map_tensors(tree: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, (tuple, list)):
        return tuple(_map_tensors(item, function) for item in tree)
    return tree


def _map_all(operands: dict[str, Any], function: Callable[[Any], Any]) -> dict[str, Any]:
    def walk(arg: Any) -> Any:
        if isinstance(arg, (tuple, list)):
            return [walk(item) for item in arg]
        return function(arg)

    return {name: walk(arg) for name, arg in operands.items()}


def _identity(operand: Any) -> Any:
    """A key that operands have in common only if they are the same bytes in the same view, or equal."""
    if isinstance(operand, Constant):
        tensor = operand.tensor
        view = (tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg())
        return (tensor.data_ptr(), *view)
    if isinstance(operand, (tuple, list)):
        return tuple(_identity(item) for item in operand)
    return type(operand), operand


def _meta_of(operand: Any) -> Any:
    if isinstance(operand, Traced):
        return operand.meta
    if isinstance(operand, Constant):
        return constant_meta(operand)
    if isinstance(operand, Symbol):
        return getattr(torch, operand.text.removeprefix("torch."))
    return operand


def _shapes(tree: Any) -> list[tuple[tuple[int, ...], torch.dtype]]:
    return [(tuple(t.shape), t.dtype) for t in _leaves(tree) if isinstance(t, torch.Tensor)]


def _keyword_only(target: Any, arguments: dict[str, Any]) -> bool:
    return any(a.kwarg_only and a.name in arguments for a in target._schema.arguments)
