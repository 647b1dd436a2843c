"""What an entry of the kernel table says, and how its call is written.

An entry names a kernel: how it is called so that the result lands in memory it is given, which operands'
bytes the result may overwrite, what scratch it needs, and along which axes it can be cut into parts.
Entries with `ops` also say which ATen overloads they compute as they stand: the lowering takes the operands
by the operator's own argument names, and shape, type and strides of the result from its meta kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from occ.codegen.native import NativeFunction
from occ.codegen.specs import Operand, Spec
from occ.codegen.triton import TritonFunction
from occ.ir import SplitAxis

__all__ = [
    "Call",
    "Kernel",
    "Native",
    "Operand",
    "Spec",
    "Triton",
    "fallback_call",
    "operands_call",
    "out_call",
    "positional_call",
    "template",
    "updated_call",
]


Call = Callable[[Mapping[str, str], Sequence[str], Sequence[str]], str]
"""Texts of the operands by name, of the results, of the scratch -> text of the call."""

Native = Callable[[Mapping[str, Operand], Sequence[Spec], Sequence[Spec]], NativeFunction]
"""Operands by name, results, scratch -> the C function of a step. Its parameters are the tensors among the
operands, in order, also inside tuples, then the results, then the scratch."""

Triton = Callable[[Mapping[str, Operand], Sequence[Spec], Sequence[Spec]], "TritonFunction | None"]
"""Operands by name, results, scratch -> the Triton function of a step, with the same parameters; None where
torch's kernel, which is `call`, serves these better."""

# Arguments that ATen takes by keyword only, over all entries written by `out_call`.
_KEYWORDS = frozenset(
    {"alpha", "approximate", "decimals", "dtype", "out_int32", "right", "rounding_mode", "side", "value"}
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One entry. `overwrites` is in order of preference; the result must have the operand's shape, strides
    and element size for it to apply. Exactly one of `call` and `native` is given: an entry is one route, and
    where there are two, the lowering chooses between two entries. On a GPU `triton` comes first where it is
    given, then `call`."""

    name: str
    call: Call | None = None
    ops: tuple[str, ...] = ()
    overwrites: tuple[str, ...] = ()
    scratch: Callable[[Mapping[str, Operand], Spec], tuple[Spec, ...]] | None = None
    splits: Callable[[Mapping[str, Operand], Spec], tuple[SplitAxis, ...]] | None = None
    dense: tuple[str, ...] = field(default=())
    """Operands the kernel needs contiguous; its result is then contiguous too."""
    pointwise: bool = False
    """Whether an element of the result depends on the same element of each operand alone, so that several
    operands may be the bytes that the result overwrites."""
    native: Native | None = None
    triton: Triton | None = None
    overwritable: Callable[[Mapping[str, Operand], Sequence[Spec]], tuple[tuple[str, ...], ...]] | None = None
    """Operands, results -> for each result the operands that it may overwrite, where `overwrites` does not
    say it."""


def template(text: str) -> Call:
    """A call written as a format string over operand names, {out} and {scratch}."""

    def call(args: Mapping[str, str], outs: Sequence[str], scratch: Sequence[str]) -> str:
        fields = dict(args)
        if outs:
            fields["out"] = outs[0]
        if scratch:
            fields["scratch"] = scratch[0]
        return text.format(**fields)

    return call


def out_call(function: str) -> Call:
    """A call of `function` with the operands in order and `out=`."""

    def call(args: Mapping[str, str], outs: Sequence[str], scratch: Sequence[str]) -> str:
        parts = [f"{name}={text}" if name in _KEYWORDS else text for name, text in args.items()]
        out = outs[0] if len(outs) == 1 else f"({', '.join(outs)})"
        return f"{function}({', '.join([*parts, f'out={out}'])})"

    return call


def positional_call(function: str) -> Call:
    """A call of `function` with all operands by position, and `out=`."""

    def call(args: Mapping[str, str], outs: Sequence[str], scratch: Sequence[str]) -> str:
        return f"{function}({', '.join(args.values())}, out={outs[0]})"

    return call


def operands_call(function: str) -> Call:
    """A call of `function` with the operands in order, then the scratch, then the results."""

    def call(args: Mapping[str, str], outs: Sequence[str], scratch: Sequence[str]) -> str:
        return f"{function}({', '.join([*args.values(), *scratch, *outs])})"

    return call


def updated_call(function: str) -> Call:
    """A call of a function that updates its first operand, on a copy of that operand (or in place)."""

    def call(args: Mapping[str, str], outs: Sequence[str], scratch: Sequence[str]) -> str:
        source, *rest = (
            f"{name}={text}" if name in _UPDATE_KEYWORDS else text for name, text in args.items()
        )
        return f"kernels.updated({', '.join([source, function, outs[0], *rest])})"

    return call


_UPDATE_KEYWORDS = frozenset({"alpha", "reduce", "include_self"})


def fallback_call(args: Mapping[str, str], outs: Sequence[str], scratch: Sequence[str]) -> str:
    """A functional operator whose results are copied into place: the route of every op without an entry."""
    # A name that ends in "=" is an argument that the operator takes by keyword only.
    operands = [
        f"{name}{text}" if name.endswith("=") else text
        for name, text in args.items()
        if name not in ("op", "results")
    ]
    call = f"{args['op']}({', '.join(operands)})"
    if len(outs) == 1 and args["results"] == "None":
        return f"{outs[0]}.copy_({call})"
    listed = ", ".join(outs) + ("," if len(outs) == 1 else "")
    return f"kernels.copy_results(({listed}), {args['results']}, {call})"
