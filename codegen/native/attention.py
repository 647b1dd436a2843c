"""Fused attention in C: softmax(query @ key^T * scale + mask) @ value, without the matrix of scores.

The algorithm, with its sources, is in `attention.h`; the function of a step fills in its constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import cast

from occ.codegen.native.unit import NativeFunction, Parameter, native_function
from occ.codegen.native.vectors import TYPES, header, row
from occ.codegen.specs import Operand, Spec

DTYPES = ("float32", "bfloat16", "float16")
"""Types of queries, keys, values and results; sums are float32."""

MASKS = (*DTYPES, "bool")


def attention(args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]) -> NativeFunction:
    """The function of one attention: `query` [batch, heads, rows, size], `key` [.., keys, size] and `value`
    [.., keys, value size] with as many batches or one, and a number of heads that divides the query's; `mask`
    None, or broadcast over [batch, heads, rows, keys]: bool (whether a query sees a key) or what is added to
    the scores. `causal`: query i sees keys 0..`first` + i. `scale` None stands for 1/sqrt(size). Any strides.

    A query that sees no key gets what `unseen` says, "zero" or "nan".
    """
    query, key, value = (cast(Spec, args[name]) for name in ("query", "key", "value"))
    mask = cast(Spec | None, args["mask"])
    (out,) = outs
    batches, heads, rows, value_size = out.shape
    keys, size = key.shape[-2:]
    scale = args["scale"]
    parameters = [Parameter(name, spec.dtype) for name, spec in _tensors(query, key, value, mask)]
    parameters.append(Parameter("out", out.dtype, written=True))
    over = (batches, heads)
    constants = {
        "type": TYPES[out.dtype],
        "mask_type": "-1" if mask is None else TYPES[mask.dtype],
        "causal": int(bool(args["causal"])),
        "first_row": cast(int, args["first"]),
        "unseen": "NAN" if args["unseen"] == "nan" else "0",
        "scale": f"{float(1 / sqrt(size) if scale is None else cast(float, scale))!r}f",
        "batches": batches,
        "heads": heads,
        "group": heads // key.shape[1],
        "rows": rows,
        "keys": keys,
        "size": size,
        "value_size": value_size,
        "query_strides": row(broadcast(query, (*over, rows, size))),
        "key_strides": row(broadcast(key, (batches, *key.shape[1:]))),
        "value_strides": row(broadcast(value, (batches, *value.shape[1:]))),
        "mask_strides": row((0,) * 4 if mask is None else broadcast(mask, (*over, rows, keys))),
        "out_strides": row(out.strides),
    }
    lines = [f"    .{name} = {text}," for name, text in constants.items()]
    pointers = ", ".join(f".{parameter.name} = {parameter.name}" for parameter in parameters)
    body = "\n".join(["const attention_t a = {", f"    {pointers},", *lines, "};", "attend(&a);"])
    note = f"Attention of {batches} x {heads} heads: {rows} queries, {keys} keys of {size}."
    helpers = (header("vectors.h"), header("attention.h"))
    return native_function("attention", parameters, _indented(body), helpers, note)


def _tensors(query: Spec, key: Spec, value: Spec, mask: Spec | None) -> list[tuple[str, Spec]]:
    named = [("query", query), ("key", key), ("value", value)]
    return named if mask is None else [*named, ("mask", mask)]


def broadcast(spec: Spec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides over `shape` of a tensor that is broadcast to it."""
    missing = len(shape) - len(spec.shape)
    own = (0 if have == 1 else stride for have, stride in zip(spec.shape, spec.strides, strict=True))
    return (0,) * missing + tuple(own)


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())
