"""Random graphs of views, updates, concatenations and pointwise steps: where sharing bytes goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lower.comparing import check
from tests.lower.invariants import check_values

ROWS = torch.tensor([2, 0, 3])
WEIGHT = torch.randn(6, 6, generator=torch.Generator().manual_seed(1)) / 3
KERNEL = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(2)) / 5

ONE: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.relu,
    torch.tanh,
    lambda x: x * 0.5 + 1,
    lambda x: torch.softmax(x, -1),
    lambda x: F.layer_norm(x, (6,)),
    lambda x: x.masked_fill(x > 1, 0.5),
    lambda x: x.clone(),
    lambda x: x.flip(1),
    lambda x: x[:, torch.tensor([5, 4, 3, 2, 1, 0])],
    lambda x: x @ WEIGHT,
    lambda x: x.t().reshape(4, 6),
    lambda x: x.t().contiguous().t(),
    lambda x: x.reshape(2, 12).chunk(2, 1)[1].repeat(1, 2).reshape(4, 6),
    lambda x: x.bfloat16().float(),
    lambda x: x.cumsum(0) / 4,
    lambda x: x[:1].expand(4, 6),
    lambda x: F.conv2d(x.reshape(1, 4, 2, 3), KERNEL, padding=1).reshape(4, 6),
    lambda x: F.pad(x, (0, 1))[:, 1:],
)
TWO: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    torch.add,
    torch.mul,
    lambda x, y: torch.where(x > y, x, y),
    lambda x, y: torch.cat([x, y])[2:6],
    lambda x, y: torch.cat([x[:, :2], y[:, 2:]], 1),
    lambda x, y: torch.stack([x, y]).mean(0),
    lambda x, y: x.index_copy(0, ROWS, y[:3]),
    lambda x, y: x.index_add(0, ROWS, y[1:]),
    lambda x, y: x.slice_scatter(y[:, :3], 1, 1, 4),
    lambda x, y: x.select_scatter(y[0], 0, 2),
    lambda x, y: torch.addcmul(x, y, y),
    lambda x, y: torch.addmm(x, y, WEIGHT),
    lambda x, y: torch.relu(x @ WEIGHT + y),
    lambda x, y: torch.relu(
        F.conv2d(x.reshape(1, 4, 2, 3), KERNEL, padding=1) + y.reshape(1, 4, 2, 3)
    ).reshape(4, 6),
    lambda x, y: (x.sin().add_(y)).mul_(x),
    lambda x, y: torch.outer(x[0, :4], y[0]),
)


class Drawn(nn.Module):
    """A graph of matrices of 4 rows and 6 columns that depends on `seed` alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("kept", torch.ones(4, 6) / 2)

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        random = Random(self.seed)
        live = [x, y, self.kept]
        for _ in range(random.randint(4, 24)):
            if random.random() < 0.5:
                live.append(random.choice(ONE)(random.choice(live)))
            else:
                live.append(random.choice(TWO)(random.choice(live), random.choice(live)))
            if random.random() < 0.1:
                self.kept.copy_(random.choice(live))
            if random.random() < 0.1:
                x.mul_(0.5)
        return [random.choice(live) + 1 for _ in range(random.randint(1, 2))] + live[-1:]


@pytest.mark.parametrize("seed", range(12))
def test_random_graph(seed: int) -> None:
    numbers = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(4, 6, generator=numbers) for _ in range(2))
    check_values(check(Drawn(seed), x, y, runs=3))
