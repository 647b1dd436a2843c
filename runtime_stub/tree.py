"""Between the caller's structures and flat lists of tensors.

A tree is JSON: {"tensor": i}, {"constant": x}, {"tuple" | "list": [tree, ...]} or
{"dict": [[key, tree], ...]}. The tree of the inputs is
{"tuple": [tree of the positional arguments, tree of the keyword arguments]}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .errors import InputError

Tree = dict[str, Any]


def flatten_inputs(
    tree: Tree, names: Sequence[str], args: Sequence[object], kwargs: Mapping[str, object]
) -> list[object]:
    """What the caller passed, in the order of `names`.

    A tensor that the model takes by position may be passed by its name too; a constant may be left out.
    Raises InputError for what is missing, unknown, passed twice or of another structure.
    """
    positional_tree, keyword_tree = tree["tuple"]
    positional: list[Tree] = positional_tree["tuple"]
    leaves: dict[int, object] = {}
    left = dict(kwargs)
    if len(args) > len(positional):
        raise InputError(
            f"{len(args)} positional inputs were passed and {len(positional)} are taken; {_expected(names)}"
        )
    for index, part in enumerate(positional):
        if index < len(args):
            _collect(part, args[index], f"positional input {index}", leaves)
        elif "tensor" in part and names[part["tensor"]] in left:
            leaves[part["tensor"]] = left.pop(names[part["tensor"]])
        elif "constant" not in part:
            name = repr(names[part["tensor"]]) if "tensor" in part else f"at position {index}"
            raise InputError(f"input {name} is missing; {_expected(names)}")
    for key, part in keyword_tree["dict"]:
        if key in left:
            _collect(part, left.pop(key), f"input {key!r}", leaves)
        elif "constant" not in part:
            raise InputError(f"input {key!r} is missing; {_expected(names)}")
    for key in left:
        trouble = "was passed twice" if key in names else "is unknown"
        raise InputError(f"input {key!r} {trouble}; {_expected(names)}")
    return [leaves[index] for index in range(len(names))]


def unflatten(tree: Tree, tensors: Sequence[Tensor]) -> object:
    """The structure that the model returns, around `tensors`."""
    [(kind, content)] = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "constant":
        return constant(content)
    if kind == "dict":
        return {key: unflatten(part, tensors) for key, part in content}
    parts = [unflatten(part, tensors) for part in content]
    return tuple(parts) if kind == "tuple" else parts


def constant(content: object) -> object:
    """The value of a constant; JSON lacks infinities and NaN, which are written {"float": "inf"}."""
    return float(content["float"]) if isinstance(content, dict) else content


def _collect(tree: Tree, value: object, where: str, leaves: dict[int, object]) -> None:
    [(kind, content)] = tree.items()
    if kind == "tensor":
        leaves[content] = value
    elif kind == "constant":
        expected = constant(content)
        if not _same_constant(value, expected):
            passed = repr(value) if isinstance(value, (int, float, str, type(None))) else type(value).__name__
            raise InputError(
                f"{where} was {expected!r} when the model was compiled, not {passed};"
                " pass the same or compile again"
            )
    elif kind == "dict":
        keys = [key for key, _ in content]
        if not isinstance(value, Mapping) or set(value) != set(keys):
            raise InputError(f"{where} must be a dict with the keys {', '.join(map(repr, keys))}")
        for key, part in content:
            _collect(part, value[key], f"{where}[{key!r}]", leaves)
    else:
        if not isinstance(value, (tuple, list)) or len(value) != len(content):
            raise InputError(f"{where} must be a {kind} of {len(content)}")
        for index, part in enumerate(content):
            _collect(part, value[index], f"{where}[{index}]", leaves)


def _same_constant(value: object, expected: object) -> bool:
    """Whether a run with `value` is the run that was compiled; 2 and 2.0, or 1 and True, are not the same."""
    if not isinstance(value, type(expected)) or isinstance(value, bool) is not isinstance(expected, bool):
        return False
    return value == expected or (value != value and expected != expected)


def _expected(names: Sequence[str]) -> str:
    return f"the model takes {', '.join(names) or 'nothing'}"
