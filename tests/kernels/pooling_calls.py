"""Random calls of pooling, for whatever computes them, and what torch gives in double precision: over
windows, ranks, layouts and types."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from occ.lower.draft import dense_strides
from tests.kernels.cases import FLOATS
from tests.kernels.layouts import channels_last, columns_first, contiguous
from tests.kernels.memory import Memory, same_place

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def twice(tensor: Tensor) -> tuple[int, ...]:
    return tuple(2 * stride for stride in contiguous(tensor))


@dataclass(frozen=True, eq=False)
class Call:
    """One pooling: its operand in memory full of NaN, and what it should give. `args` are the operands of
    the entry `kernel`."""

    memory: Memory
    kernel: str
    args: dict[str, Any]
    x: Tensor
    out: Tensor
    wanted: Tensor

    def check(self, function: Callable[..., object], text: str) -> None:
        """Call a function, and compare values and the bytes around the result; `text` describes it."""
        expected = self.memory.bytes.clone()
        function(self.x, self.out)
        same_place(expected, self.out).copy_(self.out)
        assert torch.equal(self.memory.bytes, expected), f"{text} wrote bytes beside its result"
        tolerance = TOLERANCE[self.out.dtype]
        torch.testing.assert_close(
            self.out,
            self.wanted,
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            check_stride=False,
            msg=lambda message: f"{text}\n{message}",
        )


@dataclass(frozen=True, eq=False)
class Draw:
    """Random poolings. Torch refuses some windows (ValueError, RuntimeError from it)."""

    random: random.Random

    def of(self, rank: int, choices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.random.choice(choices) for _ in range(rank))

    def x(self, rank: int) -> Tensor:
        dtype = self.random.choice(FLOATS)
        channels = self.random.choice((1, 3, 16, 19) if rank == 3 else (1, 3, 16, 19, 40, 70, 130))
        sizes = self.of(rank, (5, 9, 60, 9001) if rank == 1 else (1, 2, 3, 5, 8, 13, 20))
        if 9001 in sizes:
            channels = min(channels, 3)
        generator = torch.Generator().manual_seed(self.random.randrange(1000))
        x = torch.randn(self.random.choice((1, 2)), channels, *sizes, generator=generator).to(dtype)
        if self.random.random() < 0.3:
            x.view(-1)[self.random.randrange(x.numel())] = float("nan")
        return x

    def pool(self) -> tuple[str, dict[str, Any], Tensor, Tensor]:
        """Kernel, numbers, operand and result."""
        rank = self.random.choice((1, 2, 2, 3))
        x = self.x(rank)
        wide = x.double()
        kind = self.random.choice(("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool"))
        function: Callable[..., Tensor] = getattr(F, f"{kind}{rank}d")
        if kind.startswith("adaptive"):
            return kind, {}, x, function(wide, self.of(rank, (1, 1, 2, 3, 7))).to(x.dtype)
        kernel = self.of(rank, (1, 3, 10, 5000) if rank == 1 else (1, 2, 3, 5, 9))
        numbers = {
            "kernel_size": kernel,
            "stride": self.of(rank, (1, 2, 3, 4)),
            "padding": tuple(self.random.randint(0, size // 2) for size in kernel),
        }
        ceiled = self.random.random() < 0.5
        if kind == "max_pool":
            numbers["dilation"] = self.of(rank, (1, 1, 2))
            return kind, numbers, x, function(wide, **numbers, ceil_mode=ceiled).to(x.dtype)
        counted = self.random.random() < 0.5
        divisor = self.random.choice((None, 5)) if rank > 1 else None
        more = {} if divisor is None else {"divisor_override": divisor}
        wanted = function(wide, **numbers, ceil_mode=ceiled, count_include_pad=counted, **more)
        return (
            kind,
            {**numbers, "count_include_pad": counted, "divisor_override": divisor},
            x,
            wanted.to(x.dtype),
        )

    def call(self) -> Call | None:
        """The next pooling that torch takes."""
        try:
            kind, numbers, x, wanted = self.pool()
        except (RuntimeError, ValueError):
            return None
        layout = self.random.choice((contiguous, channels_last, columns_first, twice))
        memory = Memory((x.numel() * 2 + wanted.numel() + 1024) * 4)
        placed = memory.holding(x, layout(x))
        out = memory.new(x.dtype, wanted.shape, dense_strides(wanted.shape, placed.stride()))
        return Call(memory, f"native_{kind}", {"self": placed, **numbers}, placed, out, wanted)

    def calls(self, count: int, most: int) -> list[Call]:
        """Poolings that torch takes, of at most so many elements."""
        made: list[Call] = []
        while len(made) < count:
            one = self.call()
            if one is not None and one.x.numel() <= most:
                made.append(one)
        return made
