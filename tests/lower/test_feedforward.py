"""Feed-forward layers in pieces, against eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ.ir import BufferKind, Program
from tests.lower.comparing import PACKED, Apply, checked, lowered

pytestmark = pytest.mark.skipif(len(PACKED) < 2, reason="this machine's weights cannot be packed")

ROWS, NARROW, WIDE = 40, 256, 4096
"""4 MB for each weight: two pieces."""


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) / 16


class FeedForward(nn.Module):
    """x + down(activation(up(x)))."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = F.gelu, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(NARROW, WIDE, bias)
        self.down = nn.Linear(WIDE, NARROW, bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.activation(self.up(x)))


class Gated(nn.Module):
    """down(silu(gate(x)) * up(x)), its result doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(NARROW, WIDE, bias=False)
        self.up = nn.Linear(NARROW, WIDE, bias=False)
        self.down = nn.Linear(WIDE, NARROW, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.down(F.silu(self.gate(x)) * self.up(x))


def written_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(0.8 * (x + 0.04 * torch.pow(x, 3.0))))


def by_rows(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """As Hugging Face's GPT-2 has it: addmm over flat rows, in between the shape of the batch."""
    wide = torch.addmm(b1, x.view(-1, NARROW), w1).view(2, ROWS, WIDE)
    return x + F.dropout(torch.addmm(b2, written_gelu(wide).view(-1, WIDE), w2).view(x.shape), 0.5, False)


ROW_WEIGHTS = {
    "w1": numbers(NARROW, WIDE),
    "b1": numbers(WIDE),
    "w2": numbers(WIDE, NARROW),
    "b2": numbers(NARROW),
}

CUT: dict[str, tuple[nn.Module, Tensor]] = {
    "gelu": (FeedForward(), numbers(ROWS, NARROW)),
    "relu, no bias": (FeedForward(torch.relu, bias=False), numbers(1, ROWS, NARROW)),
    "identity": (FeedForward(lambda x: x), numbers(ROWS, NARROW)),
    "gated": (Gated(), numbers(2, ROWS, NARROW)),
    "rows of a batch": (Apply(by_rows, **ROW_WEIGHTS), numbers(2, ROWS, NARROW)),
    "matrices": (
        Apply(lambda x, w1, w2: torch.tanh(x @ w1) @ w2, w1=ROW_WEIGHTS["w1"], w2=ROW_WEIGHTS["w2"]),
        numbers(ROWS, NARROW),
    ),
    "after another": (nn.Sequential(FeedForward(), Gated()), numbers(ROWS, NARROW)),
}


@pytest.mark.parametrize("name", CUT)
def test_no_tensor_is_as_wide_as_the_layer(name: str) -> None:
    module, x = CUT[name]
    programs = checked(module, x)
    in_pieces, whole = programs[0].program, programs[-1].program
    assert _largest(in_pieces) == _largest(whole) // 2 == x.numel() // NARROW * WIDE * 4 // 2
    assert in_pieces.weights_nbytes == pytest.approx(whole.weights_nbytes, rel=0.01)


def _largest(program: Program) -> int:
    """Bytes of the largest activation."""
    return max(b.nbytes for b in program.buffers if b.kind is BufferKind.ACTIVATION)


class Shown(FeedForward):
    """The wide tensor is a result too."""

    def forward(self, x: Tensor) -> Any:
        wide = F.gelu(self.up(x))
        return self.down(wide), wide


class Normed(FeedForward):
    """What is between looks at whole rows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.softmax(self.up(x), -1))


class Tied(FeedForward):
    """Both products have the same weight."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.up(x)) @ self.up.weight


WHOLE: dict[str, tuple[nn.Module, Tensor]] = {
    "shown": (Shown(), numbers(ROWS, NARROW)),
    "normed": (Normed(), numbers(ROWS, NARROW)),
    "tied": (Tied(), numbers(ROWS, NARROW)),
    "few rows": (FeedForward(), numbers(4, NARROW)),
    "bfloat16": (FeedForward().bfloat16(), numbers(ROWS, NARROW).bfloat16()),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_cannot_or_need_not_be_in_pieces_stays_whole(name: str) -> None:
    module, x = WHOLE[name]
    program = checked(module, x)[0].program
    read = [program.values[value] for step in program.steps for value in step.reads]
    kinds = {program.buffers[value.buffer].kind for value in read if WIDE in value.shape}
    assert kinds & {BufferKind.ACTIVATION, BufferKind.OUTPUT}


def test_names_tell_the_features_of_a_piece() -> None:
    program = lowered(FeedForward(), numbers(ROWS, NARROW), pack=True).program
    names = {buffer.name for buffer in program.buffers if buffer.kind is BufferKind.WEIGHT}
    assert {"up.weight[0:2048]", "up.bias[2048:4096]", "down.weight[:, 0:2048]", "down.bias"} <= names
