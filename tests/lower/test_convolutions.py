"""Convolutions and what is fused into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from occ.ir import BufferKind
from occ.lower.lines import LEAST_CHANNELS
from occ.lower.transposed import axis_phases
from tests.lower.comparing import PACKED, Apply, check, check_all, checked, fallbacks, kernels_of


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """The module with random numbers everywhere, statistics of norms included."""
    torch.manual_seed(0)
    module = make()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            if part.running_mean is not None and part.running_var is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2.0)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return module


PICTURE = (2, 6, 9, 8)

CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "3x3": (lambda: nn.Conv2d(6, 5, 3), PICTURE),
    "no bias": (lambda: nn.Conv2d(6, 5, 3, bias=False), PICTURE),
    "1x1": (lambda: nn.Conv2d(6, 5, 1), PICTURE),
    "1x1 no bias": (lambda: nn.Conv2d(6, 5, 1, bias=False), PICTURE),
    "1x1 strided": (lambda: nn.Conv2d(6, 5, 1, 2), PICTURE),
    "1x1 padded": (lambda: nn.Conv2d(6, 5, 1, padding=1), PICTURE),
    "1x1 grouped": (lambda: nn.Conv2d(6, 4, 1, groups=2), PICTURE),
    "one channel": (lambda: nn.Conv2d(1, 5, 3, padding=1), (2, 1, 9, 8)),
    "one output": (lambda: nn.Conv2d(6, 1, 3, padding=1), PICTURE),
    "one row": (lambda: nn.Conv2d(6, 5, (1, 3)), (2, 6, 1, 8)),
    "one pixel": (lambda: nn.Conv2d(6, 5, 3, padding=1), (1, 6, 1, 1)),
    "whole picture": (lambda: nn.Conv2d(6, 5, (9, 8)), PICTURE),
    "unbatched": (lambda: nn.Conv2d(6, 5, 3), (6, 9, 8)),
    "asymmetric": (lambda: nn.Conv2d(6, 5, (1, 5), (2, 1), (0, 2), (1, 2)), PICTURE),
    "strided": (lambda: nn.Conv2d(6, 5, 3, 2, 1), PICTURE),
    "dilated": (lambda: nn.Conv2d(6, 5, 3, dilation=2, padding=2), PICTURE),
    "grouped": (lambda: nn.Conv2d(6, 9, 3, groups=3), PICTURE),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), PICTURE),
    "depthwise doubled": (lambda: nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False), PICTURE),
    "same": (lambda: nn.Conv2d(6, 5, 3, padding="same"), PICTURE),
    "same, even": (lambda: nn.Conv2d(6, 5, 4, padding="same"), PICTURE),
    "same, dilated": (lambda: nn.Conv2d(6, 5, 3, padding="same", dilation=2), PICTURE),
    "valid": (lambda: nn.Conv2d(6, 5, 3, padding="valid"), PICTURE),
    "reflected": (lambda: nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), PICTURE),
    "circular": (lambda: nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular"), PICTURE),
    "1d": (lambda: nn.Conv1d(6, 5, 3), (2, 6, 11)),
    "1d strided": (lambda: nn.Conv1d(6, 6, 5, 2, 4, 2, groups=3), (2, 6, 11)),
    "1d pointwise": (lambda: nn.Conv1d(6, 5, 1), (2, 6, 11)),
    "1d same": (lambda: nn.Conv1d(6, 5, 3, padding="same"), (2, 6, 11)),
    "1d unbatched": (lambda: nn.Conv1d(6, 5, 3), (6, 11)),
    "3d": (lambda: nn.Conv3d(4, 5, 3, padding=1), (2, 4, 5, 6, 7)),
    "3d strided": (lambda: nn.Conv3d(4, 6, (1, 3, 3), (1, 2, 2), (0, 1, 1), groups=2), (1, 4, 5, 6, 7)),
    "3d pointwise": (lambda: nn.Conv3d(4, 5, 1), (1, 4, 5, 6, 7)),
    "3d unbatched": (lambda: nn.Conv3d(4, 5, 3), (4, 5, 6, 7)),
    "lazy norm": (lambda: nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3)), PICTURE),
    "norm 1d": (lambda: nn.Sequential(nn.Conv1d(6, 5, 3), nn.BatchNorm1d(5), nn.ReLU()), (2, 6, 11)),
    "norm 3d": (lambda: nn.Sequential(nn.Conv3d(4, 5, 3), nn.BatchNorm3d(5), nn.ReLU()), (1, 4, 5, 6, 7)),
    "norm without affine": (
        lambda: nn.Sequential(nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5, affine=False)),
        PICTURE,
    ),
    "depthwise, pointwise": (
        lambda: nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
            nn.BatchNorm2d(6),
            nn.Hardswish(),
            nn.Conv2d(6, 9, 1, bias=False),
            nn.BatchNorm2d(9),
            nn.ReLU6(),
        ),
        PICTURE,
    ),
}


TRANSPOSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.ConvTranspose2d(6, 5, 3), PICTURE),
    "padded": (lambda: nn.ConvTranspose2d(6, 5, 3, padding=2), PICTURE),
    "strided": (lambda: nn.ConvTranspose2d(6, 5, 3, 2, 1, output_padding=1), PICTURE),
    "upsampling": (lambda: nn.ConvTranspose2d(6, 5, 2, 2), PICTURE),
    "of a generator": (lambda: nn.ConvTranspose2d(6, 5, 4, 2, 1, bias=False), PICTURE),
    "from one pixel": (lambda: nn.ConvTranspose2d(6, 5, 4), (2, 6, 1, 1)),
    "grouped": (lambda: nn.ConvTranspose2d(6, 4, 4, 2, groups=2, bias=False), PICTURE),
    "depthwise": (lambda: nn.ConvTranspose2d(6, 6, 3, 2, 1, groups=6), PICTURE),
    "dilated": (lambda: nn.ConvTranspose2d(6, 5, 3, 2, dilation=3), PICTURE),
    "dilated with the stride": (lambda: nn.ConvTranspose2d(6, 5, 3, 4, dilation=2), PICTURE),
    "gaps": (lambda: nn.ConvTranspose2d(6, 5, 1, 3, output_padding=2), PICTURE),
    "gaps, no bias": (lambda: nn.ConvTranspose2d(6, 5, 2, 3, bias=False), PICTURE),
    "asymmetric": (lambda: nn.ConvTranspose2d(6, 5, (1, 5), (3, 1), (0, 3), (1, 0)), PICTURE),
    "padded away": (lambda: nn.ConvTranspose2d(6, 5, 3, 2, 5), PICTURE),
    "unbatched": (lambda: nn.ConvTranspose2d(6, 5, 2, 2), (6, 9, 8)),
    "1d": (lambda: nn.ConvTranspose1d(6, 5, 16, 8, 4), (2, 6, 11)),
    "3d": (lambda: nn.ConvTranspose3d(4, 3, 2, 2), (1, 4, 3, 4, 5)),
    "3d, padded": (lambda: nn.ConvTranspose3d(4, 3, 3, (1, 2, 2), 1, (0, 1, 0)), (1, 4, 3, 4, 5)),
    "norm": (
        lambda: nn.Sequential(nn.ConvTranspose2d(6, 5, 2, 2), nn.BatchNorm2d(5), nn.ReLU()),
        PICTURE,
    ),
    "norm, grouped": (
        lambda: nn.Sequential(nn.ConvTranspose2d(6, 4, 3, 2, groups=2, bias=False), nn.BatchNorm2d(4)),
        PICTURE,
    ),
    "gaps, norm, relu": (
        lambda: nn.Sequential(nn.ConvTranspose2d(6, 5, 1, 2), nn.BatchNorm2d(5), nn.ReLU()),
        PICTURE,
    ),
}


def test_transposed_convolutions() -> None:
    program = check_all({n: (seeded(make), (torch.randn(*s),)) for n, (make, s) in TRANSPOSED.items()})
    assert fallbacks(program) == ["conv_transpose2d.input"], "the unbatched one"


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_phases_of_transposed_convolutions(data: st.DataObject) -> None:
    """What the phases along an axis compute, as they are described, against torch."""
    size, kernel, stride, dilation = (data.draw(st.integers(1, top)) for top in (6, 5, 5, 4))
    padding = data.draw(st.integers(0, dilation * (kernel - 1) + 1))
    more = data.draw(st.integers(0, max(stride, dilation) - 1))
    outputs = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1
    assume(outputs > 0)
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(1, 1, n, generator=generator, dtype=torch.float64) for n in (size, kernel))
    wanted = F.conv_transpose1d(x, weight, None, stride, padding, more, 1, dilation)
    found = torch.full_like(wanted, float("nan"))
    phases = axis_phases(size, outputs, kernel, stride, padding, dilation)
    taps = [tap for phase in phases for tap in phase.taps]
    assert len(set(taps)) == len(taps)
    for phase in phases:
        result = x.new_zeros(1, 1, phase.length)
        if phase.taps:
            result = F.conv1d(x, weight[:, :, list(phase.taps)], None, 1, phase.padding, phase.dilation)
        assert result.shape[2] == phase.length
        found[:, :, phase.first :: len(phases)] = result[:, :, phase.skipped : phase.skipped + phase.count]
    torch.testing.assert_close(found, wanted)


def test_a_transposed_convolution_multiplies_nothing_in_vain() -> None:
    """A kernel of the stride's size is one product for each of its taps, all of the input's size."""
    program = check(seeded(lambda: nn.ConvTranspose2d(6, 5, 2, 2)), torch.randn(*PICTURE))
    assert kernels_of(program)["linear"] == 4
    largest = max(buffer.nbytes for buffer in program.buffers)
    assert largest == 4 * 2 * 5 * 18 * 16, "the result"


def test_convolutions() -> None:
    check_all({n: (seeded(make), (torch.randn(*shape),)) for n, (make, shape) in CONVOLUTIONS.items()})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    cases = {name: CONVOLUTIONS[name] for name in ("3x3", "1x1", "depthwise", "1d", "norm 1d", "3d")}
    check_all({n: (seeded(make).to(dtype), (torch.randn(*s).to(dtype),)) for n, (make, s) in cases.items()})


def test_complex_convolution() -> None:
    check(nn.Conv2d(2, 3, 3, dtype=torch.complex64), torch.randn(1, 2, 5, 5, dtype=torch.complex64))


LINES = [(3, 2, 1, 1), (4, 3, 0, 1), (2, 5, 0, 1), (5, 2, 6, 3), (1, 2, 0, 1)]
"""Taps, stride, padding, dilation."""


@pytest.mark.parametrize(("taps", "stride", "padding", "dilation"), LINES)
def test_strided_convolution_over_lines(taps: int, stride: int, padding: int, dilation: int) -> None:
    """Edges on either side, phases that no tap sees, taps that see nothing but edges."""
    for count in (16, 21):
        line = seeded(lambda: nn.Conv1d(LEAST_CHANNELS, 12, taps, stride, padding, dilation))
        packed = checked(nn.Sequential(line, nn.ReLU()), torch.randn(1, LEAST_CHANNELS, count))[0].program
        if len(PACKED) > 1:
            assert kernels_of(packed)["product"] == taps
            assert not kernels_of(packed)["convolution"]


def test_channels_last_input() -> None:
    x = torch.randn(*PICTURE).contiguous(memory_format=torch.channels_last)
    program = check(seeded(lambda: nn.Conv2d(6, 5, 3)), x)
    assert kernels_of(program) == {"convolution": 1}


def test_weight_that_the_caller_passes() -> None:
    check(F.conv2d, torch.randn(*PICTURE), torch.randn(5, 6, 3, 3), torch.randn(5))
    check(lambda x, w: F.conv1d(x, w, padding=1), torch.randn(2, 6, 9), torch.randn(5, 6, 3))


def test_bias_that_is_computed() -> None:
    check(
        Apply(lambda x, weight: F.conv2d(x, weight, x.sum((0, 2, 3))[:5]), weight=torch.randn(5, 6, 3, 3)),
        torch.randn(*PICTURE),
    )


# What is fused, and what must not be -----------------------------------------------------------------------


class Block(nn.Module):
    """A convolution, then `order` applied to its result and to a residual that exists before it."""

    def __init__(self, order: Callable[[Block, Tensor, Tensor], Any], kernel: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(6, 6, 1)
        self.convolution = nn.Conv2d(6, 6, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(6)
        self.order = order

    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.stem(x))
        return self.order(self, self.convolution(x), x)


ORDERS: dict[str, tuple[Callable[[Block, Tensor, Tensor], Any], dict[str, int]]] = {
    # what follows the convolution: the steps after tanh, with plain weights
    "norm": (lambda b, y, r: b.norm(y), {"convolution": 1}),
    "relu": (lambda b, y, r: F.relu(y), {"convolution": 1}),
    "norm relu": (lambda b, y, r: F.relu(b.norm(y)), {"convolution": 1}),
    "add": (lambda b, y, r: y + r, {"convolution": 1}),
    "add, turned": (lambda b, y, r: r + y, {"convolution": 1}),
    "add relu": (lambda b, y, r: F.relu(y + r), {"convolution": 1}),
    "norm add relu": (lambda b, y, r: F.relu(b.norm(y) + r), {"convolution": 1}),
    "norm add relu in place": (lambda b, y, r: F.relu_(b.norm(y).add_(r)), {"convolution": 1}),
    "relu norm": (lambda b, y, r: b.norm(F.relu(y)), {"convolution": 1, "affine": 1}),
    "relu add": (lambda b, y, r: F.relu(y) + r, {"convolution": 1, "add": 1}),
    "add norm": (lambda b, y, r: b.norm(y + r), {"convolution": 1, "affine": 1}),
    "add twice": (lambda b, y, r: y + r + r, {"convolution": 1, "add": 1}),
    "add itself": (lambda b, y, r: y + y, {"convolution": 1, "add": 1}),
    "add scaled": (lambda b, y, r: torch.add(y, r, alpha=2), {"convolution": 1, "add": 1}),
    "add a row": (lambda b, y, r: y + r[:, :, :1], {"convolution": 1, "add": 1}),
    "add a number": (lambda b, y, r: y + 1.0, {"convolution": 1, "add": 1}),
    "subtract": (lambda b, y, r: y - r, {"convolution": 1, "sub": 1}),
    "relu, but y is used too": (lambda b, y, r: (F.relu(y), y), {"convolution": 1, "relu": 1}),
    "add, but y is used too": (lambda b, y, r: (y + r) * y, {"convolution": 1, "add": 1, "mul": 1}),
    "norm, but y is used too": (lambda b, y, r: b.norm(y) * y, {"convolution": 1, "affine": 1, "mul": 1}),
    "add, but r is used later": (lambda b, y, r: (y + r) * r, {"convolution": 1, "mul": 1}),
    "add what comes later": (lambda b, y, r: y + torch.sin(r), {"convolution": 1, "sin": 1, "add": 1}),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order(name: str) -> None:
    order, steps = ORDERS[name]
    program = check(seeded(lambda: Block(order)), torch.randn(1, 6, 7, 5))
    found = kernels_of(program)
    # The first convolution is a product of pixels; copies change layouts at the boundary.
    for other in ("linear", "tanh", "copy"):
        del found[other]
    assert found == steps


@pytest.mark.parametrize("name", ["norm relu", "norm add relu", "add, but y is used too"])
def test_order_after_a_pointwise_convolution(name: str) -> None:
    check(seeded(lambda: Block(ORDERS[name][0], 1)), torch.randn(1, 6, 7, 5))


def test_residual_that_the_convolution_reads_too() -> None:
    """It may not be overwritten, although it dies there."""
    for kernel in (1, 3):
        block = seeded(lambda size=kernel: Block(lambda b, y, r: (y + r).sum((2, 3)), size))
        check(block, torch.randn(1, 6, 7, 5))


def test_convolution_shared_by_two_norms() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(6, 6, 3, padding=1)
            self.first, self.second = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.convolution(F.relu(self.first(self.convolution(x)))))

    program = check(seeded(Twice), torch.randn(1, 6, 7, 5))
    assert not fallbacks(program)


def test_norms_alone() -> None:
    for make, shape in (
        (lambda: nn.BatchNorm1d(6), (3, 6)),
        (lambda: nn.BatchNorm1d(6), (3, 6, 5)),
        (lambda: nn.BatchNorm2d(6, affine=False), (3, 6, 5, 4)),
        (lambda: nn.BatchNorm3d(6), (1, 6, 3, 5, 4)),
        (lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), (3, 6)),
    ):
        check(seeded(make), torch.randn(*shape))


def test_norm_that_uses_the_statistics_of_the_batch() -> None:
    check(seeded(lambda: nn.BatchNorm2d(6, track_running_stats=False)), torch.randn(3, 6, 5, 4))


def test_folded_norm_leaves_two_weights() -> None:
    program = check(
        seeded(lambda: nn.Sequential(nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5))),
        torch.randn(*PICTURE),
    )
    weights = [buffer for buffer in program.buffers if buffer.kind is BufferKind.WEIGHT]
    assert sorted(weight.nbytes for weight in weights) == [5 * 4, 5 * 6 * 9 * 4]
    assert kernels_of(program)["affine"] == 0
