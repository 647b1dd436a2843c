"""The functions of `device/`: their texts, one by one, so that a program carries those it calls."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from importlib import resources

from occ.errors import InternalError


def helpers_of(module: str, names: Iterable[str]) -> tuple[str, ...]:
    """The definitions of `names` in `device/{module}.py` and of all that they call there, in the order of
    the module. Raises InternalError for a name that it does not define."""
    definitions, calls = _definitions(module)
    needed: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in definitions:
            raise InternalError(f"device/{module}.py defines no {name!r}")
        if name not in needed:
            needed.add(name)
            left.extend(calls[name])
    return tuple(text for name, text in definitions.items() if name in needed)


@cache
def _definitions(module: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The text of every function of a module, and which others of it each one names."""
    source = (resources.files("occ.codegen.triton") / "device" / f"{module}.py").read_text()
    lines = source.splitlines()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    texts = {}
    for node in functions:
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        texts[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    calls = {
        node.name: tuple(
            dict.fromkeys(
                inner.id
                for inner in ast.walk(node)
                if isinstance(inner, ast.Name) and inner.id in texts and inner.id != node.name
            )
        )
        for node in functions
    }
    return texts, calls
