"""Calls of attention, for whatever computes them, and what torch gives in double precision: over sizes,
layouts, masks and types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.cases import FLOATS, Numbers
from tests.kernels.memory import Memory, same_place

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}
"""Relative to the largest value; results of 16 bits are rounded once."""


@dataclass(frozen=True, eq=False)
class Call:
    """One attention: operands in memory full of NaN, and what it should give."""

    memory: Memory
    args: dict[str, Any]
    out: Tensor

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

    def run(self, function: Callable[..., object], text: str) -> None:
        """Call a function, and check that it wrote its result alone; `text` describes it."""
        expected = self.memory.bytes.clone()
        function(*(arg for arg in self.args.values() if isinstance(arg, Tensor)), self.out)
        same_place(expected, self.out).copy_(self.out)
        assert torch.equal(self.memory.bytes, expected), f"{text} wrote bytes beside its result"

    def check(self, text: str, wanted: Tensor | None = None) -> None:
        wanted = self.expected if wanted is None else wanted
        largest = float(wanted.abs().max())
        error = float((self.out.double() - wanted).abs().max())
        assert error <= TOLERANCE[self.out.dtype] * max(1.0, largest), text


def over_queries(made: Iterable[Call]) -> Iterator[tuple[Call, Tensor]]:
    """Those whose result can take the queries' bytes, as calls where it does, and what each should give."""
    for one in made:
        query = one.args["query"]
        if (query.shape, query.stride()) == (one.out.shape, one.out.stride()):
            yield replace(one, out=query), one.expected


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
    return Call(memory, args, out)


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
