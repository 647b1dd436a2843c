"""From a module and example inputs to its ATen graph, by torch.export.

Only this module and the lowering know torch.fx.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from occ.demand import activation_peak
from occ.errors import InternalError, UsageError
from occ.model_file import as_call
from occ.quiet import quiet
from occ.trees import Tree, constant, plain, spec_tree, tree_of

Decompositions = Mapping[torch._ops.OpOverload, Callable[..., Any]]


@dataclass(frozen=True, eq=False)
class CapturedInput:
    """One tensor the caller passes: its name, its placeholder in the graph, and the example."""

    name: str
    node: str
    example: Tensor


@dataclass(frozen=True, eq=False)
class Captured:
    """A module as a graph of functional ATen operators with fixed sizes.

    `inputs` are the tensors among the user's inputs, in order. `input_tree` and `output_tree` are described
    at `occ.ir.Program`. `tensors` gives parameters, buffers and constants by placeholder, tied ones as the
    same object. `mutated_buffers` and `mutated_inputs` give, by placeholder, the node whose result is the new
    contents after a run. `outputs` are the nodes of the tensors that the user gets, in order; an output may
    be a placeholder. `activation_peak` is in bytes.
    """

    exported: ExportedProgram
    inputs: tuple[CapturedInput, ...]
    input_tree: Tree
    output_tree: Tree
    tensors: Mapping[str, Tensor]
    mutated_buffers: Mapping[str, str]
    mutated_inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    activation_peak: int

    @property
    def examples(self) -> tuple[Tensor, ...]:
        return tuple(taken.example for taken in self.inputs)


def capture(
    module: nn.Module, example_inputs: object, decompositions: Decompositions | None = None
) -> Captured:
    """Capture `module` in eval mode as it runs for inputs like `example_inputs`.

    `example_inputs` is a tuple of positional arguments, a dict of keyword arguments, or a pair of both.
    Everything in it that is no tensor becomes a constant. `decompositions` are applied on top of making the
    graph functional. The module is left as it was. Raises UsageError where it cannot be captured.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"the model must be an nn.Module, not of type {type(module).__name__}")
    args, kwargs = as_call(example_inputs)
    _check_leaves(args, kwargs)
    with quiet(), torch.no_grad(), _ready(module):
        try:
            exported = torch.export.export(module, args, kwargs, strict=False)
            exported = exported.run_decompositions(dict(decompositions or {}))
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(_cannot(module, error)) from error
    _check_sizes(exported)
    inputs, input_tree = _inputs(module, exported, args, kwargs)
    outputs, output_tree = _outputs(exported)
    signature = exported.graph_signature
    by_target = {spec.target: spec.arg.name for spec in signature.input_specs if spec.target is not None}
    return Captured(
        exported=exported,
        inputs=inputs,
        input_tree=input_tree,
        output_tree=output_tree,
        tensors=_tensors(exported),
        mutated_buffers={by_target[target]: node for node, target in signature.buffers_to_mutate.items()},
        mutated_inputs={target: node for node, target in signature.user_inputs_to_mutate.items()},
        outputs=outputs,
        activation_peak=activation_peak(exported),
    )


def _check_leaves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise UsageError for an input that is neither a dense tensor nor a constant."""

    def leaf(value: object, path: str) -> Tree:
        if not isinstance(value, Tensor):
            return constant(value, path)
        if value.layout is not torch.strided:
            raise UsageError(f"{path} has layout {value.layout}; a compiled model takes dense tensors")
        return {}

    tree_of(args, "input", leaf)
    tree_of(kwargs, "input", leaf)


@contextmanager
def _ready(module: nn.Module) -> Iterator[None]:
    """The module in eval mode and returning plain structures, within the block."""
    training = [part for part in module.modules() if part.training]
    hook = module.register_forward_hook(lambda _module, _args, result: plain(result))
    module.eval()
    try:
        yield
    finally:
        hook.remove()
        for part in training:
            part.training = True


def _inputs(
    module: nn.Module, exported: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[CapturedInput, ...], Tree]:
    specs = [s for s in exported.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    nodes = iter([spec.arg.name for spec in specs])
    taken: list[CapturedInput] = []
    names: set[str] = set()

    def leaf(value: object, path: str) -> Tree:
        node = next(nodes, None)
        if node is None:
            raise InternalError(f"torch.export takes {len(specs)} inputs; input {path!r} is not among them")
        if not isinstance(value, Tensor):
            return constant(value, path)
        name = path
        while name in names:
            name += "_"
        names.add(name)
        taken.append(CapturedInput(name, node, value))
        return {"tensor": len(taken) - 1}

    positional = [
        tree_of(arg, name, leaf) for name, arg in zip(_positional_names(module, len(args)), args, strict=True)
    ]
    # torch.export may have put the keyword arguments into another order.
    keywords: list[str] = list(exported.call_spec.in_spec.child(1).context)
    keyword = [[name, tree_of(kwargs[name], name, leaf)] for name in keywords]
    return tuple(taken), {"tuple": [{"tuple": positional}, {"dict": keyword}]}


def _positional_names(module: nn.Module, count: int) -> list[str]:
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{index}" for index in range(count - len(names))]
        elif parameter.kind is not parameter.VAR_KEYWORD:
            names.append(parameter.name)
    return names[:count]


def _outputs(exported: ExportedProgram) -> tuple[tuple[str, ...], Tree]:
    nodes: list[str] = []
    trees: list[Tree] = []
    for spec in exported.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            continue
        if isinstance(spec.arg, TensorArgument):
            trees.append({"tensor": len(nodes)})
            nodes.append(spec.arg.name)
        elif isinstance(spec.arg, ConstantArgument):
            trees.append(constant(spec.arg.value, "the result"))
        else:
            raise InternalError(f"torch.export describes a result as {spec.arg}")
    return tuple(nodes), spec_tree(exported.call_spec.out_spec, iter(trees))


def _tensors(exported: ExportedProgram) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    distinct: dict[tuple[object, ...], Tensor] = {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT or spec.target is None:
            continue
        held = exported.state_dict.get(spec.target, exported.constants.get(spec.target))
        if not isinstance(held, Tensor):
            raise UsageError(
                f"{spec.target} of the model is of type {type(held).__name__}; a compiled model holds tensors"
            )
        tensor = held.detach()
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        tensors[spec.arg.name] = distinct.setdefault(key, tensor) if tensor.numel() else tensor
    return tensors


def _check_sizes(exported: ExportedProgram) -> None:
    """Raise UsageError for the first node whose size depends on data."""
    for node in exported.graph.nodes:
        for value in tree_leaves(node.meta.get("val")):
            sizes = value.shape if isinstance(value, Tensor) else (value,)
            if any(isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)) for size in sizes):
                raise UsageError(
                    f"{node.name}{_origin(node)} has a size that depends on the data; memory can be planned"
                    " only for fixed sizes (pad to a largest size and mask)"
                )


def _origin(node: Node) -> str:
    """` (file:line)` of the user's source that a node comes from."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    frames = [line.split('"') for line in lines if line.startswith('File "')]
    if not frames:
        return ""
    _, path, rest = frames[-1]
    return f" ({_short(path)}:{rest.split(',')[1].removeprefix(' line ')})"


def _cannot(module: nn.Module, error: Exception) -> str:
    """One line: why torch.export failed, and where in the user's source."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_foreign(frame.filename)]
    # An exception's traceback begins at `capture`, so the innermost frame outside of torch is the model's.
    where = f" at {_short(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    name = type(module).__name__
    text = str(error).strip().splitlines()
    if "data-dependent" in str(error) or "DataDependent" in type(error).__name__:
        return (
            f"cannot capture {name}{where}: its control flow depends on the values of tensors; compute both"
            " sides and choose with torch.where"
        )
    return f"cannot capture {name}{where}: {type(error).__name__}: {text[0] if text else '(no text)'}"


def _is_foreign(filename: str) -> bool:
    """Whether a file is torch's, occ's or the standard library's, which may hold the installed packages."""
    path = Path(filename)
    if filename.startswith("<") or {Path(torch.__file__).parent, Path(__file__).parent} & set(path.parents):
        return True
    installed = {"site-packages", "dist-packages"}.intersection(path.parts)
    return Path(inspect.__file__).parent in path.parents and not installed


def _short(path: str) -> str:
    """The end of a path, enough to recognise the file."""
    return "/".join(Path(path).parts[-3:])
