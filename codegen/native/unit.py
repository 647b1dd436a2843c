"""Functions in C with everything baked in, and the one text that a program's functions are compiled from."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from occ.errors import InternalError

C_TYPES = {
    "float64": "double",
    "float32": "float",
    "float16": "f16",
    "bfloat16": "bf16",
    "int64": "int64_t",
    "int32": "int32_t",
    "int16": "int16_t",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "bool": "uint8_t",
}
"""How memory of each type is declared; `f16` and `bf16` are the prelude's, 16 bits to be converted."""

DIGEST = 8
"""Hexadecimal digits of a symbol's hash: two of a thousand functions share them once in 10,000 programs,
and then the compile says so."""


@dataclass(frozen=True, slots=True)
class NativeFunction:
    """The C function `void symbol(const T *x0, ..., T *out, ...)`: its parameters are the tensors of a step,
    the operands first, then results, then scratch.

    Shapes, strides, types and constants are part of `source`, the whole definition; `symbol` ends in a hash
    of it. `helpers` are definitions of static functions that it calls, which functions of one program share.
    """

    symbol: str
    source: str
    helpers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """A pointer to the first element of a tensor; `dtype` is torch's name of the type."""

    name: str
    dtype: str
    written: bool = False

    @property
    def text(self) -> str:
        return f"{'' if self.written else 'const '}{C_TYPES[self.dtype]} *{self.name}"


def native_function(
    stem: str, parameters: Sequence[Parameter], body: str, helpers: Iterable[str] = (), note: str = ""
) -> NativeFunction:
    """A function whose symbol is `stem` and a hash of all it does; `body` stands between its braces.

    `note` (one or more lines) becomes a comment above it. Raises InternalError for a type that C has not.
    """
    for parameter in parameters:
        if parameter.dtype not in C_TYPES:
            raise InternalError(f"no native kernel takes {parameter.dtype} ({parameter.name})")
    listed = ", ".join(parameter.text for parameter in parameters)
    helpers = tuple(helpers)
    content = "\0".join((stem, listed, body, note, *helpers))
    symbol = f"{stem}_{hashlib.sha256(content.encode()).hexdigest()[:DIGEST]}"
    comment = "".join(f"// {line}\n" for line in note.splitlines())
    head = textwrap.fill(f"void {symbol}({listed})", 110, subsequent_indent="    ", break_on_hyphens=False)
    return NativeFunction(symbol, f"{comment}{head}\n{{\n{body.strip(chr(10))}\n}}\n", helpers)


def translation_unit(functions: Iterable[NativeFunction]) -> str:
    """The C text that defines `functions`, each once, in order of first use, after what they share.

    Raises InternalError where two of them have one symbol.
    """
    distinct: dict[str, NativeFunction] = {}
    for function in functions:
        if distinct.setdefault(function.symbol, function) != function:
            raise InternalError(f"two native kernels are called {function.symbol}")
    helpers = dict.fromkeys(helper for function in distinct.values() for helper in function.helpers)
    parts = [prelude(), *helpers, *(function.source for function in distinct.values())]
    return "\n".join(part if part.endswith("\n") else f"{part}\n" for part in parts)


def prelude() -> str:
    """Types, conversions and mathematics that every function may use."""
    return (resources.files("occ.codegen.native") / "prelude.h").read_text()
