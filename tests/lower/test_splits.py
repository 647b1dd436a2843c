"""Steps that are cut into parts compute what the whole step does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ.ir import Choices
from occ.rewrite import rewrite
from tests.lower.comparing import Apply, lowered
from tests.lower.executor import Executor


class Residual(nn.Module):
    """A convolution into which the residual and a ReLU are fused, over the residual's bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 256, 1), nn.Conv2d(256, 256, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return F.relu(self.second(F.relu(x)) + x)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(300, 512), nn.GELU(), nn.Linear(512, 300)), ((3, 5, 300),)),
    "linear without bias": (lambda: nn.Linear(1024, 512, bias=False), ((3, 1024),)),
    "convolution": (Residual, ((1, 6, 3, 4),)),
    "batches": (lambda: Apply(torch.bmm), ((6, 4, 3), (6, 3, 5))),
    "attention": (lambda: Apply(F.scaled_dot_product_attention), ((2, 5, 6, 8),) * 3),
    "masked attention": (
        lambda: Apply(F.scaled_dot_product_attention),
        (*((2, 5, 6, 8),) * 3, (2, 1, 6, 6)),
    ),
}


AXES = {"weight_rows", "rows", "output_channels", "heads"}


def test_axes() -> None:
    found = set()
    for make, shapes in MODULES.values():
        program = lowered(make(), *(torch.randn(*shape) for shape in shapes)).program
        found |= {axis.name for step in program.steps for axis in step.splits}
    assert found == AXES


@pytest.mark.parametrize("name", MODULES)
def test_parts_along_every_axis(name: str) -> None:
    make, shapes = MODULES[name]
    torch.manual_seed(0)
    inputs = [torch.randn(*shape) for shape in shapes]
    whole = lowered(make(), *inputs)
    wanted = [tensor.clone() for tensor in Executor(whole).run(inputs)]
    axes = [
        (index, axis)
        for index, step in enumerate(whole.program.steps)
        for axis in step.splits
        if not axis.needs_band
    ]
    assert axes
    for index, axis in axes:
        granules = -(-axis.extent // axis.granule)
        for parts in sorted({2, granules}):
            program = rewrite(whole.program, Choices(splits=((index, axis.name, parts),)))
            assert len(program.steps) > len(whole.program.steps)
            for one, other in zip(Executor(replace(whole, program=program)).run(inputs), wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
