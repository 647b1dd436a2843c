"""Steps that are cut into parts compute what the whole step does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ.ir import Choices, refs_of
from occ.passes.banding import part_rows
from occ.rewrite import rewrite
from occ.runtime_stub.packed import pack_convolution, probe
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


PACKED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: nn.Conv2d(512, 64, 3, padding=1), (1, 512, 64, 64)),
    "convolution with strides": (lambda: nn.Conv2d(64, 64, 3, 2, padding=1), (1, 64, 56, 56)),
    "few lines": (lambda: nn.Conv2d(512, 128, 3, padding=1), (1, 512, 16, 16)),
    "linear": (lambda: nn.Linear(256, 1024), (160, 256)),
    "few rows": (lambda: nn.Linear(40, 1024), (35, 40)),
    "many rows": (lambda: nn.Linear(768, 384), (1500, 768)),
}


@pytest.mark.skipif(not probe(), reason="oneDNN packs no weights here")
@pytest.mark.parametrize("name", PACKED)
def test_packed_weights_serve_every_part(name: str) -> None:
    """In another layout than oneDNN asks for, a weight would be reordered at every call."""
    make, shape = PACKED[name]
    program = lowered(make(), torch.randn(*shape), pack=True).program
    step = next(step for step in program.steps if step.kernel in ("convolution", "product"))
    args = dict(step.args)
    source, weight = (program.values[ref.value] for key in ("input", "weight") for ref in refs_of(args[key]))
    assert weight.packing is not None
    for axis in (axis for axis in step.splits if axis.name == "rows"):
        window = axis.window("input")
        numbers = {"padding": (0, 0), "stride": (1, 1), "dilation": (1, 1)} | args | dict(axis.part_args)
        most = min(32, -(-axis.extent // axis.granule))
        counts = {end - first for parts in range(2, most + 1) for first, end in part_rows(axis, parts)}
        for count in counts:
            if axis.largest and count > axis.largest:
                continue
            lines = count if window is None else window.end(count) - window.first(0)
            _, layout = pack_convolution(
                torch.zeros(weight.packing.shape),
                *(numbers[key] for key in ("padding", "stride", "dilation")),
                1,
                (*source.shape[:2], lines, *source.shape[3:]),
            )
            assert layout == weight.packing.layout, f"{count} rows of {axis.extent}"
