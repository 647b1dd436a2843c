"""Fused attention in Triton: softmax(query @ key^T * scale + mask) @ value, without the matrix of scores.

The algorithm, with its sources, is in `device/attention.py`; the function of a step fills in its constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import cast

from occ.codegen.native.attention import broadcast
from occ.codegen.specs import Operand, Spec
from occ.codegen.triton.library import helpers_of
from occ.codegen.triton.places import WIDE, power, reach
from occ.codegen.triton.unit import Launch, TritonFunction, triton_function

PROGRAMS = 132
"""Multiprocessors of a large GPU: queries are cut finer where they would leave some without any."""

LEAST_ROWS = 16
"""Queries of a block, at least: what a matrix instruction takes."""


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Queries of a program, keys of one step of it, and how it is launched."""

    rows: int
    keys: int
    warps: int
    stages: int


def attention(args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]) -> TritonFunction:
    """The function of one attention: operands and result as those of
    `occ.codegen.native.attention.attention`."""
    query, key, value = (cast(Spec, args[name]) for name in ("query", "key", "value"))
    mask = cast("Spec | None", args["mask"])
    (out,) = outs
    batches, heads, rows, value_size = out.shape
    keys, size = key.shape[-2:]
    group = heads // key.shape[1]
    # A mask that differs from head to head is read for one head at a time.
    mask_strides = (0,) * 4 if mask is None else broadcast(mask, (batches, heads, rows, keys))
    together = group if group > 1 and rows < LEAST_ROWS and mask_strides[1] == 0 else 1
    widest = max(size, value_size)
    causal = bool(args["causal"])
    places = batches * heads // together
    blocks = _blocks(query.dtype, widest, rows * together, keys, places, causal)
    scale = args["scale"]
    kind = "none" if mask is None else "bool" if mask.dtype == "bool" else "numbers"
    constants: dict[str, object] = {
        "HEADS": heads,
        "GROUP": group,
        "TOGETHER": together,
        "ROWS": rows,
        "KEYS": keys,
        "SIZE": size,
        "VALUE_SIZE": value_size,
        "CAUSAL": causal,
        "FIRST": cast(int, args["first"]),
        "SCALE": float(1 / sqrt(size) if scale is None else cast(float, scale)),
        "MASK": kind,
        "UNSEEN": args["unseen"],
        "PRECISION": "ieee",
        **_strides("QUERY", broadcast(query, (batches, heads, rows, size))),
        **_strides("KEY", broadcast(key, (batches, *key.shape[1:]))),
        **_strides("VALUE", broadcast(value, (batches, *value.shape[1:]))),
        **_strides("MASK", mask_strides),
        **_strides("OUT", out.strides),
        "BLOCK_ROWS": blocks.rows,
        "BLOCK_KEYS": blocks.keys,
        "BLOCK_SIZE": max(power(size), LEAST_ROWS),
        "BLOCK_VALUE": max(power(value_size), LEAST_ROWS),
        "WIDE": max(map(reach, (query, key, value, out, *([] if mask is None else [mask])))) >= WIDE,
    }
    parameters = ["query", "key", "value", *([] if mask is None else ["mask"]), "out"]
    passed = ["query", "key", "value", "query" if mask is None else "mask", "out"]
    lines = ["attend(", f"    {', '.join(passed)},"]
    lines += [f"    {name}={value!r}," for name, value in constants.items()]
    programs = batches * (heads // together) * -(-rows * together // blocks.rows)
    return triton_function(
        "attention",
        parameters,
        "\n".join([*lines, ")"]),
        Launch((programs,), blocks.warps, blocks.stages),
        helpers_of("attention", ["attend"]),
        f"Attention of {batches} x {heads} heads: {rows} queries, {keys} keys of {size}, {query.dtype}.",
    )


def _blocks(dtype: str, size: int, rows: int, keys: int, places: int, causal: bool) -> _Blocks:
    """Blocks for heads of `size` elements, `rows` queries at each of `places`: for sizes 64, 128 and 256
    those that torch's flex attention takes on an H100 (torch/_inductor/template_heuristics), smaller where
    there are few queries or keys, or blocks at the diagonal are masked."""
    short = dtype in ("float16", "bfloat16")
    if short:
        found = (
            _Blocks(128, 64 if causal else 128, 4, 3)
            if size <= 64
            else _Blocks(128, 64, 8, 3)
            if size <= 128
            else _Blocks(64, 32, 4, 3)
            if size <= 256
            else _Blocks(32, 16, 4, 2)
        )
    else:
        found = _Blocks(32, 32, 4, 2) if size <= 256 else _Blocks(16, 16, 4, 2)
    count = min(found.rows, max(power(rows), LEAST_ROWS))
    while count > 64 and places * -(-rows // count) < PROGRAMS:
        count //= 2
    # Fewer queries leave room for more keys, and one group of warps is enough for them.
    fewer = count < found.rows
    wide = max(found.keys, 64) if fewer and short and size <= 128 else found.keys
    return _Blocks(count, min(wide, max(power(keys), 16)), 4 if fewer else found.warps, found.stages)


def _strides(name: str, strides: Sequence[int]) -> dict[str, object]:
    places = ("BATCH", "HEAD", "ROW", "COLUMN")
    return {f"{name}_{place}": stride for place, stride in zip(places, strides, strict=True)}
