"""docs/reference-api.md: the public functions and classes, from their signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator
from typing import Any

from docs.tools.markdown import code, table
from occ import api, errors, planned, replanning, target
from occ.runtime_stub import errors as runtime_errors
from occ.runtime_stub import integrity, program

COMPILING = (api.compile, replanning.replan, api.load)
METHODS = ("__call__", "run", "reset", "stats", "writable_outputs", "close")
WIDTH = 100


def api_page(made: str) -> str:
    """The page, `made` below its title."""
    parts = [
        f"# Python reference\n\n{made}\n\n"
        "[Using a program in an application](howto-application.md) shows these at work. The runtime's own"
        " names (`Program`, its errors) are in `occ.runtime_stub`, and on a device without occ in the package"
        " `runtime_stub` inside the artifact ([how](howto-application.md#without-occ)).\n",
        "## Functions\n",
        *(_function(function, f"occ.{function.__name__}") for function in COMPILING),
        "## What compiling returns\n",
        _dataclass(planned.Compiled, "occ.planned.Compiled"),
        "## A loaded program\n",
        f"### `occ.runtime_stub.program.Program`\n\n{_prose(program.Program)}\n",
        *(_function(getattr(program.Program, name), f"Program.{name}") for name in METHODS),
        _dataclass(program.Stats, "occ.runtime_stub.program.Stats"),
        "## Target profiles\n",
        _function(target.local_target, "occ.target.local_target"),
        _function(target.read_target, "occ.target.read_target"),
        _dataclass(target.Target, "occ.target.Target"),
        "## Errors\n\nThe text of each is one line for the user. The exit code is the command line's, and the"
        " attribute `exit_code` of the error.\n",
        table(("error", "is also", "exit code", "when"), _errors()),
    ]
    return "\n".join(parts)


def _function(function: Any, name: str) -> str:
    fenced = f"<!-- not run: a signature -->\n```python\n{_signature(function)}\n```"
    return f"### `{name}`\n\n{fenced}\n\n{_prose(function)}\n"


def _signature(function: Any) -> str:
    """`def name(...) -> result: ...`, with one parameter a line where it is long."""
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    listed: list[str] = []
    keyword_only = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            if not any(other.kind is other.VAR_POSITIONAL for other in parameters):
                listed.append("*")
        listed.append(_parameter(parameter))
    end = f") -> {signature.return_annotation}: ..."
    line = f"def {function.__name__}({', '.join(listed)}{end}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"def {function.__name__}(", *(f"    {text}," for text in listed), end])


def _parameter(parameter: inspect.Parameter) -> str:
    positional, keyword = parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD
    stars = "*" if parameter.kind is positional else "**" if parameter.kind is keyword else ""
    text = f"{stars}{parameter.name}: {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    default = parameter.default
    shown = "..." if callable(default) else json.dumps(default) if isinstance(default, str) else repr(default)
    return f"{text} = {shown}"


def _dataclass(kind: type, name: str) -> str:
    rows = [(code(field.name), code(str(field.type))) for field in dataclasses.fields(kind)]
    properties = [
        (code(key), code(value.fget.__annotations__.get("return", "")), _first_line(value))
        for key, value in vars(kind).items()
        if isinstance(value, property) and value.fget is not None
    ]
    methods = [
        _function(value, f"{name.rpartition('.')[2]}.{key}")
        for key, value in vars(kind).items()
        if inspect.isfunction(value) and not key.startswith("_") and value.__doc__
    ]
    parts = [f"### `{name}`\n\n{_prose(kind)}\n", table(("field", "type"), rows)]
    if properties:
        parts.append(table(("property", "type", ""), properties))
    return "\n".join([*parts, *methods])


def _errors() -> Iterator[tuple[str, str, str, str]]:
    for module in (errors, runtime_errors, integrity):
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == module.__name__:
                bases = ", ".join(code(base.__name__) for base in kind.__bases__ if base is not Exception)
                yield (
                    code(f"{module.__name__}.{name}"),
                    bases,
                    str(vars(kind).get("exit_code", "")),
                    _prose(kind),
                )


def _prose(documented: object) -> str:
    """The docstring, its paragraphs as they are."""
    text = inspect.getdoc(documented)
    assert text, f"{documented} has no docstring"
    return text


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n\n")[0]
