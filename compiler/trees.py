"""The caller's structures around tensors, as JSON (the form is described at `occ.ir.Program`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from occ.errors import UsageError

Tree = dict[str, Any]


def tree_of(structure: object, where: str, leaf: Callable[[object, str], Tree]) -> Tree:
    """`structure` (tuples, lists, dicts and leaves) as a tree; `leaf` is called with each leaf and its path,
    which begins with `where` and continues with indices and keys."""
    if isinstance(structure, tuple):
        return {"tuple": [tree_of(part, f"{where}_{i}", leaf) for i, part in enumerate(structure)]}
    if isinstance(structure, list):
        return {"list": [tree_of(part, f"{where}_{i}", leaf) for i, part in enumerate(structure)]}
    if isinstance(structure, dict):
        return {"dict": [[key, tree_of(part, f"{where}_{key}", leaf)] for key, part in structure.items()]}
    return leaf(structure, where)


def constant(value: object, where: str) -> Tree:
    """A leaf that is no tensor. Raises UsageError where JSON has no word for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"constant": {"float": repr(value)}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"constant": value}
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        raise UsageError(f"{where} has a number that depends on the data; return it as a tensor")
    raise UsageError(
        f"{where} is of type {type(value).__name__}; a compiled model takes and returns tensors, numbers,"
        " strings and None, in tuples, lists and dicts"
    )


def plain(result: object, where: str = "the result") -> object:
    """What a module returned, made of tuples, lists, dicts and leaves only.

    Mappings and dataclasses become dicts in their own order, None fields left out; named tuples become
    tuples. A key-value cache of transformers becomes a tuple with (keys, values) of each layer. Raises
    UsageError for other types.
    """
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping):
        return {_key(key, where): plain(part, f"{where}[{key!r}]") for key, part in result.items()}
    if isinstance(result, (tuple, list)):
        kind = list if isinstance(result, list) else tuple
        return kind(plain(part, f"{where}[{index}]") for index, part in enumerate(result))
    if is_dataclass(result) and not isinstance(result, type):
        named = ((field.name, getattr(result, field.name)) for field in fields(result))
        return {name: plain(part, f"{where}.{name}") for name, part in named if part is not None}
    if (layers := _cache_layers(result)) is not None:
        return layers
    constant(result, where)
    return result


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise UsageError(f"{where} is a dict with the key {key!r}; keys of a compiled model's are strings")
    return key


def _cache_layers(result: object) -> tuple[tuple[Tensor, ...], ...] | None:
    """(keys, values) of each layer; an encoder-decoder's cache has cross keys and cross values as well."""
    parts = (getattr(result, "self_attention_cache", None), getattr(result, "cross_attention_cache", None))
    if all(parts):
        own, cross = (_cache_layers(part) for part in parts)
        if own is not None and cross is not None:
            return tuple(a + b for a, b in zip(own, cross, strict=True))
    layers = getattr(result, "layers", None)
    if not isinstance(layers, list) or not layers:
        return None
    pairs = tuple((getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers)
    return pairs if all(isinstance(tensor, Tensor) for pair in pairs for tensor in pair) else None


def spec_tree(spec: Any, leaves: Iterator[Tree]) -> Tree:
    """The tree of a pytree specification of plain types, with the trees of its leaves in order."""
    if spec.is_leaf():
        return next(leaves)
    children = [spec_tree(spec.child(index), leaves) for index in range(spec.num_children)]
    if spec.type is dict:
        return {"dict": [list(pair) for pair in zip(spec.context, children, strict=True)]}
    return {"list" if spec.type is list else "tuple": children}
