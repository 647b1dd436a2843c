"""Native kernels compiled and loaded into the testing process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from occ.codegen.kernels import kernel_named
from occ.codegen.native import NativeFunction
from occ.codegen.specs import Spec
from occ.native import local_library
from occ.runtime_stub.native import Native


@lru_cache(maxsize=512)
def compiled(*functions: NativeFunction) -> Native | None:
    """Functions as attributes, by symbol; None where there are none. Libraries stay loaded."""
    return Native(local_library(functions)) if functions else None


def function_of(
    kernel: str, args: Mapping[str, object], outs: Sequence[Tensor], scratch: Sequence[Tensor]
) -> NativeFunction | None:
    """The C function of a call; None where the kernel is torch's."""
    generate = kernel_named(kernel).native
    if generate is None:
        return None
    return generate({name: specs_of(arg) for name, arg in args.items()}, specs_of(outs), specs_of(scratch))


def loaded(function: NativeFunction) -> Callable[..., None]:
    """The function itself: of the library of all cases, or compiled alone."""
    from tests.kernels.native_cases import case_library  # which needs this module

    symbols, library = case_library()
    found = library if function.symbol in symbols else compiled(function)
    call: Callable[..., None] = getattr(found, function.symbol)
    return call


def specs_of(arg: Any) -> Any:
    """An operand as a kernel's generator takes it."""
    if isinstance(arg, Tensor):
        return Spec(str(arg.dtype).removeprefix("torch."), tuple(arg.shape), arg.stride())
    return tuple(map(specs_of, arg)) if isinstance(arg, (tuple, list)) else arg


def tensors_of(args: Iterable[Any]) -> Iterator[Tensor]:
    """Every tensor among operands, in order, also inside tuples."""
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, (tuple, list)):
            yield from tensors_of(arg)
