"""Functions in Triton with everything baked in, and the one module that a program's functions are part of."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from occ.errors import InternalError

WIDTH = 110
"""Columns of the text, at most, but for long names."""

DIGEST = 8
"""Hexadecimal digits of a symbol's hash: two of a thousand functions share them once in 10,000 programs,
and then the compile says so."""

TYPES = {
    "float64": "tl.float64",
    "float32": "tl.float32",
    "float16": "tl.float16",
    "bfloat16": "tl.bfloat16",
    "int64": "tl.int64",
    "int32": "tl.int32",
    "int16": "tl.int16",
    "int8": "tl.int8",
    "uint8": "tl.uint8",
    "bool": "tl.int1",
}
"""What elements of each torch type are in a kernel."""


@dataclass(frozen=True, slots=True)
class TritonFunction:
    """The function `symbol(x0, ..., out, ...)`: its parameters are the tensors of a step, the operands first,
    then results, then scratch. It launches a kernel and does nothing else.

    Shapes, strides, types, block sizes and constants are part of `source`, which defines the kernel and the
    function; `symbol` ends in a hash of it. `helpers` are definitions of functions on the device that the
    kernel calls, which functions of one program share.
    """

    symbol: str
    source: str
    helpers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel is launched: programs along up to three axes, warps of each, and stages of software
    pipelines in it."""

    grid: tuple[int, ...]
    warps: int
    stages: int = 2


def triton_function(
    stem: str,
    parameters: Sequence[str],
    body: str,
    launch: Launch,
    helpers: Iterable[str] = (),
    note: str = "",
    before: str = "",
) -> TritonFunction:
    """A function whose symbol is `stem` and a hash of all it does; `body` is the kernel's, not indented.

    `note` (one or more lines) becomes a comment above it; `before` is what the function does before the
    launch. Raises InternalError for a grid that CUDA does not launch.
    """
    most = (2**31 - 1, 65535, 65535)
    if len(launch.grid) > 3 or any(not 0 < n <= m for n, m in zip(launch.grid, most, strict=False)):
        raise InternalError(f"a kernel over {launch.grid} programs ({stem})")
    helpers = tuple(helpers)
    listed = ", ".join(parameters)
    grid = ", ".join(map(str, launch.grid)) + ("," if len(launch.grid) == 1 else "")
    options = f"num_warps={launch.warps}, num_stages={launch.stages}"
    content = "\0".join((stem, listed, body, note, before, grid, options, *helpers))
    symbol = f"{stem}_{hashlib.sha256(content.encode()).hexdigest()[:DIGEST]}"
    lines = [
        *(f"# {line}" for line in note.splitlines()),
        "@triton.jit",
        *_wrapped(f"def {symbol}_kernel({listed}):"),
        textwrap.indent(body.strip("\n"), "    "),
        "",
        "",
        *_wrapped(f"def {symbol}({listed}):"),
        *textwrap.indent(before.strip("\n"), "    ").splitlines(),
        *_wrapped(f"    {symbol}_kernel[({grid})]({listed}, {options})"),
    ]
    return TritonFunction(symbol, "\n".join(lines) + "\n", helpers)


def triton_module(functions: Iterable[TritonFunction]) -> str:
    """The Python text that defines `functions`, each once, in order of first use, after what they share.

    Raises InternalError where two of them have one symbol.
    """
    distinct: dict[str, TritonFunction] = {}
    for function in functions:
        if distinct.setdefault(function.symbol, function) != function:
            raise InternalError(f"two Triton kernels are called {function.symbol}")
    helpers = dict.fromkeys(helper for function in distinct.values() for helper in function.helpers)
    parts = [*helpers, *(function.source for function in distinct.values())]
    imports = ["import triton", "import triton.language as tl"]
    if any("libdevice." in part for part in parts):
        imports.append("from triton.language.extra import libdevice")
    head = [
        '"""The kernels of one program, each for one kind of step, and the functions that launch them.',
        "",
        'Their tensors are the operands of the step in order, then its results, then scratch."""',
        "",
        *imports,
    ]
    return "\n\n\n".join(["\n".join(head), *(part.strip("\n") for part in parts)]) + "\n"


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(
        line.lstrip(),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
