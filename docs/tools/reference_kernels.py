"""docs/kernels.md: the kernel table, each entry with a call of it from the tests' cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from docs.tools.markdown import code, table
from occ.codegen.kernels import kernel_named, kernel_names
from occ.codegen.kernels.table import Kernel, Spec
from tests.kernels.cases import CASES, Case

HEADINGS = ("kernel", "computes", "as", "may overwrite", "can be cut along", "scratch")


def kernels_page(made: str) -> str:
    """The page, `made` below its title."""
    cases: dict[str, list[Case]] = {}
    for case in CASES.values():
        cases.setdefault(case.kernel, []).append(case)
    rows = [_row(kernel_named(name), cases.get(name, [])) for name in sorted(kernel_names())]
    return (
        f"# Kernels\n\n{made}\n\n"
        "The entries of the kernel table (`codegen/kernels/`): what a step of a plan can call, so that the"
        " result lands in memory it is given. [Adding an op](adding-an-op.md) says what an entry is.\n\n"
        "- **computes**: the ATen overloads that the entry computes as they stand. Where there are none, a"
        " rule of the [lowering](lowering.md) chooses it.\n"
        "- **as**: the call in a generated program, from one of the tests' cases, or a function in C; on"
        " CUDA, where it says so, [a kernel in Triton](gpu-kernels.md).\n"
        "- **may overwrite**: the operands whose bytes the result may take where they die.\n"
        "- **can be cut along**: the axes along which a step can be split into parts.\n"
        "- **scratch**: what it needs beside operands and result, planned like any other buffer.\n\n"
        "`fallback` is the route of every operator without an entry.\n\n"
        f"{table(HEADINGS, rows)}"
    )


def _row(kernel: Kernel, cases: Sequence[Case]) -> tuple[str, ...]:
    axes = {axis for case in cases for axis in _axes(kernel, case)}
    scratch = {text for case in cases for text in _scratch(kernel, case)}
    return (
        code(kernel.name),
        ", ".join(code(op.removesuffix(".default")) for op in kernel.ops),
        _route(kernel, cases[0]) if cases else "",
        ", ".join(code(name) for name in kernel.overwrites),
        ", ".join(sorted(axes)).replace("_", " "),
        "; ".join(sorted(scratch)),
    )


def _route(kernel: Kernel, case: Case) -> str:
    """How the entry computes a case, on processors and, where that differs, on GPUs."""
    called = code(_call(kernel, case))
    if kernel.triton is None:
        return called or "C, generated for the step"
    return f"{called}; on CUDA Triton" if called else "C, on CUDA Triton, generated for the step"


def _call(kernel: Kernel, case: Case) -> str:
    """The call of a case, tensors by the names of their operands; nothing where C is generated."""
    if kernel.call is None:
        return ""
    texts = {name: _text(name, operand) for name, operand in case.args.items()}
    count = len(_results(case))
    outs = ["out"] if count == 1 else [f"out_{index}" for index in range(count)]
    scratch = [
        f"scratch_{index}" if index else "scratch" for index in range(len(_scratch_specs(kernel, case)))
    ]
    return kernel.call(texts, outs, scratch)


def _text(name: str, operand: Any) -> str:
    if isinstance(operand, Tensor):
        return name
    if isinstance(operand, tuple):
        inside = [_text(f"{name}_{index}", item) for index, item in enumerate(operand)]
        return f"({', '.join(inside)}{',' if len(inside) == 1 else ''})"
    return getattr(operand, "text", repr(operand))


def _axes(kernel: Kernel, case: Case) -> list[str]:
    if kernel.splits is None:
        return []
    return [axis.name for axis in kernel.splits(_specs(case.args), _results(case)[0])]


def _scratch(kernel: Kernel, case: Case) -> list[str]:
    """The scratch of a case in words: its type, and what its elements are counted by."""
    out = _results(case)[0]
    found = []
    for spec in _scratch_specs(kernel, case):
        if spec.shape == out.shape:
            found.append(f"{spec.dtype} in the result's shape")
        else:
            assert kernel.scratch is not None
            said = (kernel.scratch.__doc__ or "").partition("\n")[0]
            found.append(said or f"{spec.dtype}")
    return found


def _scratch_specs(kernel: Kernel, case: Case) -> tuple[Spec, ...]:
    return () if kernel.scratch is None else kernel.scratch(_specs(case.args), _results(case)[0])


def _results(case: Case) -> tuple[Spec, ...]:
    found = case.expected(**case.args)
    return tuple(_spec(tensor) for tensor in ((found,) if isinstance(found, Tensor) else found))


def _specs(args: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _operand(arg) for name, arg in args.items()}


def _operand(arg: Any) -> Any:
    if isinstance(arg, tuple):
        return tuple(_operand(item) for item in arg)
    return _spec(arg) if isinstance(arg, Tensor) else arg


def _spec(tensor: Tensor) -> Spec:
    return Spec(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tuple(tensor.stride()))
