"""The call of a step as text, by whichever route its kernel takes on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from occ.codegen.kernels import call_text, kernel_named
from occ.codegen.native import NativeFunction
from occ.codegen.specs import Operand, Spec
from occ.codegen.text import operand
from occ.codegen.triton import TritonFunction
from occ.errors import InternalError
from occ.ir import Arg, Ref, Step, Value, refs_of


def step_text(values: Sequence[Value], step: Step, name_of: Callable[[int], str], device: str = "cpu") -> str:
    """The call of a step in Python, one expression; `name_of` gives the text of a value by its id, `device`
    is "cpu" or "cuda". Raises InternalError for a step that the device has no kernel for."""
    function: NativeFunction | TritonFunction | None
    if device == "cuda":
        module, function = "triton_kernels", triton_of(values, step)
    else:
        module, function = "native", native_of(values, step)
    if function is not None:
        reads = [ref.value for _, arg in step.args for ref in refs_of(arg)]
        tensors = [name_of(id) for id in (*reads, *step.outs, *step.scratch)]
        return f"{module}.{function.symbol}({', '.join(tensors)})"
    return call_text(
        step.kernel,
        {name: operand(arg, name_of) for name, arg in step.args},
        [name_of(id) for id in step.outs],
        [name_of(id) for id in step.scratch],
    )


def native_of(values: Sequence[Value], step: Step) -> NativeFunction | None:
    """The C function that a step calls, None where its route is torch's."""
    if kernel_named(step.kernel).native is None:
        return None
    return _native_function(step.kernel, *_operands(values, step))


def native_functions(values: Sequence[Value], steps: Iterable[Step]) -> tuple[NativeFunction, ...]:
    """The distinct functions that steps call, in order of first use."""
    found = dict.fromkeys(native_of(values, step) for step in steps)
    return tuple(function for function in found if function is not None)


def triton_of(values: Sequence[Value], step: Step) -> TritonFunction | None:
    """The Triton function that a step calls on a GPU, None where its route is torch's."""
    if kernel_named(step.kernel).triton is None:
        return None
    return _triton_function(step.kernel, *_operands(values, step))


def triton_functions(values: Sequence[Value], steps: Iterable[Step]) -> tuple[TritonFunction, ...]:
    """The distinct functions that steps call on a GPU, in order of first use."""
    found = dict.fromkeys(triton_of(values, step) for step in steps)
    return tuple(function for function in found if function is not None)


_Operands = tuple[tuple[tuple[str, Operand], ...], tuple[Spec, ...], tuple[Spec, ...], str]
"""Operands by name, results, scratch, and the operands written out, which tells those apart that are equal
but for their types."""


def _operands(values: Sequence[Value], step: Step) -> _Operands:
    args = tuple((name, _described(values, arg)) for name, arg in step.args)
    outs = tuple(_spec(values[id]) for id in step.outs)
    scratch = tuple(_spec(values[id]) for id in step.scratch)
    return args, outs, scratch, repr(args)


@lru_cache(maxsize=1 << 14)
def _native_function(
    kernel: str,
    args: tuple[tuple[str, Operand], ...],
    outs: tuple[Spec, ...],
    scratch: tuple[Spec, ...],
    written: str,
) -> NativeFunction:
    generate = kernel_named(kernel).native
    if generate is None:
        raise InternalError(f"kernel {kernel!r} is not native")
    return generate(dict(args), outs, scratch)


@lru_cache(maxsize=1 << 14)
def _triton_function(
    kernel: str,
    args: tuple[tuple[str, Operand], ...],
    outs: tuple[Spec, ...],
    scratch: tuple[Spec, ...],
    written: str,
) -> TritonFunction | None:
    generate = kernel_named(kernel).triton
    if generate is None:
        raise InternalError(f"kernel {kernel!r} has no Triton")
    return generate(dict(args), outs, scratch)


def _described(values: Sequence[Value], arg: Arg) -> Operand:
    if isinstance(arg, Ref):
        return _spec(values[arg.value])
    if isinstance(arg, tuple):
        return tuple(_described(values, item) for item in arg)
    return arg


def _spec(value: Value) -> Spec:
    return Spec(value.dtype, value.shape, value.strides)
