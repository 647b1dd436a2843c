"""The kernel table: which call computes an ATen op into arena memory.

To add an op is to add one entry here and a test; docs/adding-an-op.md walks through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from occ.codegen.kernels import (
    loops,
    ordering,
    pointwise,
    products,
    recurrent,
    reductions,
    shaping,
    special,
)
from occ.codegen.kernels.table import Kernel, Operand, Spec, fallback_call
from occ.errors import InternalError

__all__ = ["Kernel", "Operand", "Spec", "call_text", "kernel_for_op", "kernel_named", "kernel_names"]

FALLBACK = Kernel("fallback", fallback_call)

_TABLE: Mapping[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        *pointwise.KERNELS,
        *shaping.KERNELS,
        *reductions.KERNELS,
        *products.KERNELS,
        *recurrent.KERNELS,
        *ordering.KERNELS,
        *special.KERNELS,
        *loops.KERNELS,
        FALLBACK,
    )
}

_BY_OP: Mapping[str, Kernel] = {op: kernel for kernel in _TABLE.values() for op in kernel.ops}


def kernel_names() -> tuple[str, ...]:
    """The name of every entry."""
    return tuple(_TABLE)


def kernel_named(name: str) -> Kernel:
    """The entry called `name`. Raises InternalError where there is none."""
    try:
        return _TABLE[name]
    except KeyError:
        raise InternalError(f"no kernel is called {name!r}") from None


def kernel_for_op(op: str) -> Kernel | None:
    """The entry that computes an ATen overload such as `add.Tensor` as it stands, if there is one."""
    return _BY_OP.get(op)


def call_text(kernel: str, args: Mapping[str, str], outs: Sequence[str], scratch: Sequence[str]) -> str:
    """The call of a step as Python text, given the texts of its operands, results and scratch. Raises
    InternalError for a native kernel, whose call depends on more than texts (see `occ.codegen.steps`)."""
    call = kernel_named(kernel).call
    if call is None:
        raise InternalError(f"kernel {kernel!r} is native and cannot be called by name")
    return call(args, outs, scratch)
