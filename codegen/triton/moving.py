"""Rows moved by number, in Triton: embeddings, and rows written into a tensor in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from occ.codegen.loops.space import space_of
from occ.codegen.specs import Operand, Spec
from occ.codegen.triton.places import PROGRAMS, WIDE, Places, pointer, power, program_number, reach
from occ.codegen.triton.unit import Launch, TritonFunction, triton_function

BLOCK = 1024
"""Elements of a program."""

LEAST_BLOCK = 128
"""The same where there are few, at least."""


def embedding(args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]) -> TritonFunction:
    """Rows `indices` of the table `weight` [rows, size], any strides. An index outside the table gives a row
    of NaN, or of zeros where there is no NaN: a kernel cannot raise an error."""
    weight, indices, out = cast(Spec, args["weight"]), cast(Spec, args["indices"]), outs[0]
    rows, size = weight.shape
    column = Spec(indices.dtype, (*indices.shape, 1), (*indices.strides, 0))
    space = space_of((column, out), 1, 1)
    together = max(BLOCK // power(size), 1)
    while together > 1 and -(-space.rows // together) < PROGRAMS:
        together //= 2
    row = Places("r", space.outer, min(together, power(space.rows)), "[:, None]")
    columns = Places("j", space.inner, min(power(size), BLOCK), "[None, :]")
    across = -(-size // columns.block)
    wide = max(reach(out), reach(indices)) >= WIDE
    lines = [f"program = {program_number(wide)}"]
    lines += [row.of_program("program" if across == 1 else f"program // {across}"), *row.divided()]
    lines += [columns.of_program(f"program % {across}") if across > 1 else columns.vector("")]
    # A single index, too, is read into a block: masks are blocks.
    looked = pointer("indices", row.terms(0) or ["r * 0"])
    lines.append(f"index = tl.load({looked}, mask=r < {row.total}, other=0)")
    lines.append("index = index.to(tl.int64)")
    lines.append(f"inside = (r < {row.total}) & (j < {size})")
    lines.append(f"known = inside & (index >= 0) & (index < {rows})")
    other = 'float("nan")' if "float" in weight.dtype else "0"
    at = f"index * {weight.strides[0]} + j * {weight.strides[1]}"
    lines.append(f"value = tl.load(weight + ({at}), mask=known, other={other})")
    lines.append(f"tl.store({pointer('out', [*row.terms(1), *columns.terms(1)])}, value, mask=inside)")
    programs = -(-space.rows // row.block) * across
    warps = min(max(row.block * columns.block // 256, 1), 4)
    note = f"Rows of {size} of a table of {rows}, {weight.dtype}, by {list(indices.shape)} indices."
    return triton_function(
        "embedding", ["weight", "indices", "out"], "\n".join(lines), Launch((programs,), warps), note=note
    )


def index_copy(args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]) -> TritonFunction:
    """`self` with the slices `index` of dimension `dim` replaced by those of `source`, any strides: into the
    bytes of `self`, or after a copy of it. An index outside the dimension replaces nothing."""
    index, source, out = cast(Spec, args["index"]), cast(Spec, args["source"]), outs[0]
    dim = cast(int, args["dim"]) % max(len(out.shape), 1)
    if not out.shape:
        out, source = (replace(spec, shape=(1,), strides=(1,)) for spec in (out, source))
    dims = range(len(source.shape))
    step = index.strides[0] if index.strides else 0
    numbers = Spec(
        index.dtype,
        tuple(source.shape[d] if d == dim else 1 for d in dims),
        tuple(step if d == dim else 0 for d in dims),
    )
    # What a slice of the result is away from its first element, the number of the slice aside.
    slices = replace(out, shape=source.shape, strides=(*out.strides[:dim], 0, *out.strides[dim + 1 :]))
    # In the order of the source's memory, which need not span every dimension.
    order = Spec(source.dtype, source.shape, _spanning(source))
    space = space_of((source, slices, numbers, order), 0, 3)
    total = space.rows
    block = min(max(power(-(-total // PROGRAMS)), LEAST_BLOCK), BLOCK, power(total))
    places = Places("i", space.outer, block)
    wide = max(reach(out), reach(source), total) >= WIDE
    lines = [places.of_program(program_number(wide), wide), *places.divided()]
    lines.append(f"inside = i < {total}")
    # A single number, too, is read into a block: masks are blocks.
    numbered = pointer("index", places.terms(2) or ["i * 0"])
    lines.append(f"at = tl.load({numbered}, mask=inside, other=0).to(tl.int64)")
    lines.append(f"known = inside & (at >= 0) & (at < {out.shape[dim]})")
    lines.append(f"value = tl.load({pointer('source', places.terms(0) or ['i * 0'])}, mask=inside)")
    target = pointer("out", [f"at * {out.strides[dim]}", *places.terms(1)])
    lines.append(f"tl.store({target}, value, mask=known)")
    return triton_function(
        "index_copy",
        ["self", "index", "source", "out"],
        "\n".join(lines),
        Launch((-(-total // block),), min(max(block // 256, 1), 4)),
        note=f"Slices of dimension {dim} of {list(out.shape)} from {list(source.shape)}, {out.dtype}.",
        before="if self.data_ptr() != out.data_ptr():\n    out.copy_(self)",
    )


def _spanning(spec: Spec) -> tuple[int, ...]:
    """Strides that are in the order of a tensor's, without those that are zero."""
    order = sorted(range(len(spec.shape)), key=lambda dim: (-spec.strides[dim], dim))
    strides, step = [0] * len(order), 1
    for dim in reversed(order):
        strides[dim], step = step, step * spec.shape[dim]
    return tuple(strides)
