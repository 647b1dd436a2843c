"""Attention in C against torch's in double precision, over sizes, layouts, masks and types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from occ.codegen.native import NativeFunction
from occ.native import local_library
from occ.runtime_stub.native import Native
from tests.kernels.cases import FLOATS, Numbers
from tests.kernels.memory import Memory, same_place
from tests.kernels.native import function_of

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}
"""Relative to the largest value; results of 16 bits are rounded once."""


@dataclass(frozen=True, eq=False)
class Call:
    """One attention: operands in memory full of NaN, the C function, and what it should give."""

    memory: Memory
    args: dict[str, Any]
    out: Tensor
    function: NativeFunction

    @property
    def expected(self) -> Tensor:
        query, key, value = (self.args[name].double() for name in ("query", "key", "value"))
        mask = self.args["mask"]
        if mask is not None and mask.dtype is not torch.bool:
            mask = mask.double()
        if self.args["causal"]:
            seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)
            mask = seen.tril(self.args["first"])
        return F.scaled_dot_product_attention(
            query, key, value, mask, scale=self.args["scale"], enable_gqa=True
        )


def strided(memory: Memory, tensor: Tensor, layout: str) -> Tensor:
    """[batch, heads, rows, size] as it lies after a projection, as heads of their own, or sizes outermost."""
    orders = {"rows": (0, 2, 1, 3), "heads": (0, 1, 2, 3), "columns": (0, 3, 1, 2)}
    order = orders[layout]
    strides, step = [0] * 4, 1
    for dim in reversed(order):
        strides[dim], step = step, step * tensor.shape[dim]
    return memory.holding(tensor, tuple(strides))


def call(
    heads: tuple[int, int],
    rows: tuple[int, int],
    sizes: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    layout: str = "rows",
    first: int = 0,
) -> Call:
    number = Numbers()
    shapes = ((heads[0], rows[0], sizes[0]), (heads[1], rows[1], sizes[0]), (heads[1], rows[1], sizes[1]))
    elements = 2 * heads[0] * (rows[0] + rows[1]) * 2 * max(sizes) + (0 if mask is None else mask.numel())
    memory = Memory((elements * 4 + 8191) // 4096 * 4096)
    tensors = [strided(memory, number(2, *shape, dtype=dtype), layout) for shape in shapes]
    placed = None if mask is None else memory.holding(mask, mask.stride())
    args = dict(zip(("query", "key", "value"), tensors, strict=True))
    args |= {"mask": placed, "causal": causal, "scale": scale, "first": first, "unseen": "zero"}
    out = strided(memory, torch.full((2, heads[0], rows[0], sizes[1]), float("nan"), dtype=dtype), layout)
    function = function_of("native_attention", args, [out], ())
    assert function is not None
    return Call(memory, args, out, function)


def masks(rows: int, keys: int, heads: int) -> Iterator[Tensor]:
    """Numbers and bools over every kind of broadcasting; some rows see nothing, some the least float."""
    number = Numbers(1)
    yield number(keys)[None]
    yield number(rows, 1)
    yield number(2, 1, rows, keys)
    yield number(heads, rows, keys)
    yield number(keys, rows).t()
    yield number(2, 1, 1, keys, dtype=torch.bool)
    seen = number(1, heads, rows, keys, dtype=torch.bool)
    seen[:, :, rows // 2] = False
    yield seen
    yield torch.where(seen, 0.0, float("-inf"))
    yield torch.where(seen, 0.0, torch.finfo(torch.float32).min)


def calls() -> Iterator[Call]:
    rows = ((1, 70), (3, 150), (7, 9), (17, 64), (33, 5), (70, 130), (100, 197))
    shared = cycle((((3, 3), "rows"), ((4, 2), "heads"), ((3, 1), "columns"), ((4, 2), "columns")))
    for (queries, keys), sizes, causal in product(rows, ((64, 64), (40, 24), (5, 7)), (False, True)):
        heads, layout = next(shared)
        yield call(heads, (queries, keys), sizes, causal=causal, layout=layout)
    for (queries, keys), layout in product(((1, 70), (3, 21), (70, 130)), ("rows", "columns")):
        for mask in masks(queries, keys, 3):
            yield call((3, 3), (queries, keys), (16, 16), mask=mask, layout=layout)
    for dtype in FLOATS:
        for queries, sizes in product((1, 70), ((64, 64), (20, 12))):
            yield call((4, 2), (queries, 130), sizes, dtype, causal=queries > 1)
            mask = Numbers(2)(1, 4, queries, 130, dtype=dtype)
            yield call((4, 4), (queries, 130), sizes, dtype, mask, scale=0.4)
    for queries, first in product((1, 3, 40), (1, 30, 100)):
        yield call((4, 2), (queries, 70), (16, 16), causal=True, first=first)
    for size in (128, 256, 512):
        yield call((1, 1), (70, 130), (size, size))
        yield call((1, 1), (2, 130), (size, size), torch.bfloat16)


@pytest.fixture(scope="module")
def library() -> tuple[list[Call], Native]:
    """Every call, and one library with their functions."""
    made = list(calls())
    return made, Native(local_library([one.function for one in made]))


def run(one: Call, native: Native) -> None:
    expected = one.memory.bytes.clone()
    tensors = [arg for arg in one.args.values() if isinstance(arg, Tensor)]
    getattr(native, one.function.symbol)(*tensors, one.out)
    same_place(expected, one.out).copy_(one.out)
    assert torch.equal(one.memory.bytes, expected), f"{one.function.source} wrote bytes beside its result"


def test_equals_torch(library: tuple[list[Call], Native]) -> None:
    made, native = library
    assert len({one.function.symbol for one in made}) > 100
    for one in made:
        run(one, native)
        wanted = one.expected
        largest = float(wanted.abs().max())
        error = float((one.out.double() - wanted).abs().max())
        assert error <= TOLERANCE[one.out.dtype] * max(1.0, largest), one.function.source


def test_nan_stays_in_its_row_and_infinite_scores_give_nan() -> None:
    lost, infinite = call((2, 2), (40, 70), (16, 16)), call((2, 2), (3, 70), (16, 16))
    lost.args["query"][0, 1, 33, 5] = float("nan")
    infinite.args["query"][:] = float("inf")
    native = Native(local_library([lost.function, infinite.function]))
    for one in (lost, infinite):
        run(one, native)
        wanted = F.scaled_dot_product_attention(*(one.args[n] for n in ("query", "key", "value")))
        assert torch.equal(one.out.isnan(), wanted.isnan())


def test_many_keys_take_no_more_stack() -> None:
    """Blocks of 64 keys, whose weights are rescaled: the largest score comes last."""
    one = call((1, 1), (20, 2000), (32, 32))
    one.args["key"][:, :, -1] *= 8
    run(one, Native(local_library([one.function])))
    torch.testing.assert_close(one.out.double(), one.expected, rtol=1e-5, atol=1e-5)
