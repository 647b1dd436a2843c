"""A module against its lowered form."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves, tree_map_only

from occ.capture import capture
from occ.codegen.native.compiler import find_compiler
from occ.ir import Program, Step, Symbol
from occ.lower import Lowered, lower
from occ.runtime_stub.packed import probe
from tests.lower.executor import Executor

PACKED = (False, True) if probe() else (False,)
NATIVE = (False, True) if find_compiler() else (False,)
ROUTES = tuple(itertools.product(reversed(NATIVE), reversed(PACKED)))
"""With native kernels or without, with packed weights or plain ones; those of torch alone last."""

RELATIVE = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Largest difference over the largest value, by type; 1e-4 for any other."""


class Apply(nn.Module):
    """A function of the inputs and of named parameters (floats) and buffers (others) as a module."""

    def __init__(self, function: Callable[..., Any], **tensors: Tensor) -> None:
        super().__init__()
        self.function = function
        self.names = tuple(tensors)
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(name, tensor)

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, **{name: getattr(self, name) for name in self.names})


class Several(nn.Module):
    """Modules side by side, each with inputs of its own; the results by name."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names = tuple(modules)
        self.parts = nn.ModuleList(modules.values())

    def forward(self, inputs: list[tuple[Any, ...]]) -> dict[str, Any]:
        called = zip(self.names, self.parts, inputs, strict=True)
        return {name: part(*given) for name, part, given in called}


def check_all(cases: Mapping[str, tuple[nn.Module | Callable[..., Any], tuple[Any, ...]]]) -> Program:
    """`check` of many small modules or functions, each with its inputs, in one program: exporting many small
    graphs takes long. Returns the program."""
    modules = {
        name: case if isinstance(case, nn.Module) else Apply(case) for name, (case, _) in cases.items()
    }
    return check(Several(modules), [inputs for _, inputs in cases.values()])


def lowered(
    module: nn.Module, *inputs: Any, pack: bool = False, native: bool = False, **keywords: Any
) -> Lowered:
    return lower(capture(module, (inputs, keywords)), "test", pack=pack, native=native)


def check(module: nn.Module | Callable[..., Any], *inputs: Any, runs: int = 2, **keywords: Any) -> Program:
    """`checked`; returns the program with plain weights."""
    return checked(module, *inputs, runs=runs, **keywords)[-1].program


def checked(
    module: nn.Module | Callable[..., Any], *inputs: Any, runs: int = 2, **keywords: Any
) -> list[Lowered]:
    """Compare `runs` runs of the module in eager mode with those of its program, with packed weights where
    the machine takes those and with plain ones, with native kernels and without: values, types, shapes, and
    which results share bytes. Returns what was lowered, the plain program of torch's kernels last.

    The norm is the largest difference over the largest value; integers are equal.
    """
    if not isinstance(module, nn.Module):
        module = Apply(module)
    module.eval()
    captured = capture(module, (inputs, keywords))
    programs = []
    for native, pack in ROUTES:
        if native and not pack and len(PACKED) > 1:
            continue
        reference = copy.deepcopy(module)
        programs.append(lower(captured, "test", pack=pack, native=native))
        executor = Executor(programs[-1])
        for run in range(runs):
            given = tree_map_only(Tensor, lambda t, by=run: _changed(t, by), (inputs, keywords))
            own = tree_map_only(Tensor, _copied, given)
            with torch.no_grad():
                results = reference(*own[0], **own[1])
            paths, _ = tree_flatten_with_path(results)
            wanted = {keystr(path): leaf for path, leaf in paths if isinstance(leaf, Tensor)}
            changed = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
            found = executor.run(changed)
            _compare(found, wanted)
            for after, expected in zip(changed, tree_leaves(own), strict=False):
                _same("an input", after, expected)
    return programs


def _changed(tensor: Tensor, run: int) -> Tensor:
    """Other numbers at each run, in the same layout."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return _copied(tensor)
    return _copied(tensor * (1.0 - 0.25 * run), tensor)


def _copied(numbers: Tensor, like: Tensor | None = None) -> Tensor:
    """A copy with the strides of `like` (or its own)."""
    like = numbers if like is None else like
    broadcast = [dim for dim in range(like.dim()) if like.stride(dim) == 0]
    for dim in broadcast:
        numbers = numbers.narrow(dim, 0, min(1, numbers.shape[dim]))
    copy = torch.empty_strided(numbers.shape, like.stride(), dtype=like.dtype).copy_(numbers)
    return copy.expand(like.shape) if broadcast else copy


def _compare(found: list[Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert len(found) == len(wanted)
    pairs: list[tuple[str, Tensor, Tensor]] = []
    for (name, other), one in zip(wanted.items(), found, strict=True):
        _same(f"output {name}", one, other)
        for before, one_before, other_before in pairs:
            shared = (_shares(one_before, one), _shares(other_before, other))
            assert shared[0] == shared[1], f"outputs {before} and {name}: shared, and in eager: {shared}"
        pairs.append((name, one, other))


def _same(what: str, found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == wanted.dtype, f"{what} is {found.dtype}, not {wanted.dtype}"
    assert found.shape == wanted.shape, f"{what} is {found.shape}, not {wanted.shape}"
    if not wanted.numel():
        return
    if not (wanted.is_floating_point() or wanted.is_complex()):
        assert torch.equal(found, wanted), f"{what} differs: {found} is not {wanted}"
        return
    one, other = (torch.view_as_real(t) if t.is_complex() else t for t in (found, wanted))
    assert torch.equal(one.isnan(), other.isnan()), f"{what} has {int(one.isnan().sum())} NaN"
    one, other = one.nan_to_num().double(), other.nan_to_num().double()
    relative = RELATIVE.get(wanted.dtype, 1e-4)
    error = float((one - other).abs().max()) / max(float(other.abs().max()), 1e-30)
    assert error <= relative, f"{what} is off by {error:.2e} of the largest value"


def _shares(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage overlap."""
    if one.numel() == 0 or other.numel() == 0:
        return False
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def kernels_of(program: Program) -> Counter[str]:
    """How many steps each kernel has."""
    return Counter(step.kernel for step in program.steps)


def fallbacks(program: Program) -> list[str]:
    """The operators that go through the fallback, in order."""
    return [_operator(step) for step in program.steps if step.kernel == "fallback"]


def _operator(step: Step) -> str:
    named: Mapping[str, object] = dict(step.args)
    op = named["op"]
    assert isinstance(op, Symbol)
    return op.text.removeprefix("aten.")
