"""The C functions of every case of a native entry, in the layouts it is tested with: compiled one by one they
would take a second each, together a fifth of that."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from occ.codegen import kernels as table
from occ.codegen.native import NativeFunction
from occ.native import local_library
from occ.runtime_stub.native import Native
from tests.kernels.cases import CASES
from tests.kernels.layouts import placed, placements, results_of, scratch_of
from tests.kernels.memory import Memory
from tests.kernels.native import function_of


def case_functions() -> Iterator[NativeFunction]:
    for case in CASES.values():
        if table.kernel_named(case.kernel).native is None:
            continue
        wanted = results_of(case)
        for order, layouts in placements(case, wanted):
            memory = Memory()
            args = placed(case, memory, order)
            outs = [memory.new(w.dtype, w.shape, s) for w, s in zip(wanted, layouts, strict=True)]
            function = function_of(case.kernel, args, outs, scratch_of(case, args, outs[0], memory))
            assert function is not None
            yield function


@cache
def case_library() -> tuple[frozenset[str], Native]:
    """The symbols of those functions, and their library."""
    functions = tuple(dict.fromkeys(case_functions()))
    return frozenset(function.symbol for function in functions), Native(local_library(functions))
