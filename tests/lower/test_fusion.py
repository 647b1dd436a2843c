"""Loops fused: what they become, that they compute the same, and that no more bytes are live."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ.capture import capture
from occ.codegen.native.compiler import find_compiler
from occ.ir import Program
from occ.lower import lower
from occ.passes.liveness import liveness
from tests.lower.comparing import Apply, checked, kernels_of
from tests.lower.invariants import check_values

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="NOT TESTED: there is no gcc")


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def fused(function: Callable[..., Any] | nn.Module, *inputs: Any, runs: int = 1) -> Program:
    """The program with native kernels, after it was compared with eager mode."""
    return checked(function, *inputs, runs=runs)[0].program


def bodies(program: Program) -> list[str]:
    return [str(dict(step.args)["body"]) for step in program.steps if step.kernel == "loop"]


def live_bytes(function: Callable[..., Any], *inputs: Any) -> tuple[int, int]:
    """The most live bytes with native kernels, and without."""
    captured = capture(Apply(function), (inputs, {}))
    programs = (lower(captured, "test", pack=False, native=native).program for native in (True, False))
    native, plain = (liveness(program).peak_nbytes for program in programs)
    return native, plain


X, Y = numbers(4, 6, 16), numbers(4, 6, 16) / 2
W = numbers(16)


def test_a_chain_is_one_loop() -> None:
    program = fused(lambda x: 0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.044715 * x**3))), X)
    assert kernels_of(program) == {"loop": 1}


def test_a_norm_in_pieces_is_one_loop() -> None:
    def rms_norm(x: Tensor, w: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return w * wide.to(x.dtype)

    for x, w in ((X, W), (X.bfloat16(), W.bfloat16())):
        assert kernels_of(fused(rms_norm, x, w)) == {"loop": 1}


def test_a_sum_and_its_norm_are_one_loop_with_two_results() -> None:
    def residual(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        total = x + y
        return (F.layer_norm(total, (16,), w) @ w.diag()) + total

    program = fused(residual, X, Y, W)
    [loop] = [step for step in program.steps if step.kernel == "loop" and len(step.outs) == 2]
    assert "mean(y0)" in str(dict(loop.args)["body"])


def test_scale_and_mask_go_into_the_softmax() -> None:
    def scores(x: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax((x / 4.0).masked_fill(mask, float("-inf")), -1) * 2.0

    mask = torch.ones(1, 6, 16, dtype=torch.bool).triu(1)
    assert kernels_of(fused(scores, X, mask)) == {"loop": 1}


def test_a_layout_is_changed_on_the_way() -> None:
    """Heads side by side: the result is written where the next product reads it."""

    def heads(x: Tensor, w: Tensor) -> Tensor:
        return (x.sin() * 2).transpose(0, 1).reshape(6, 64) @ w

    kernels = kernels_of(fused(heads, X, numbers(64, 8)))
    assert kernels["loop"] == 1
    assert "copy" not in kernels


def test_a_rotary_embedding_reads_halves() -> None:
    def rotary(x: Tensor, c: Tensor, s: Tensor) -> Tensor:
        turned = torch.cat((-x[..., 8:], x[..., :8]), -1)
        return (x * c + turned * s) @ torch.eye(16)

    program = fused(rotary, X, numbers(6, 16).cos(), numbers(6, 16).sin())
    assert not {"cat", "concatenate", "copy"} & kernels_of(program).keys()
    [loop] = [step for step in program.steps if step.kernel == "loop"]
    assert len(loop.outs) == 2


def scan(x: Tensor, decay: Tensor) -> Tensor:
    """A state space model: what each time step reads is a slice of a large tensor."""
    factors = torch.exp(x[..., None] * decay)
    state = torch.zeros(4, 16, 8)
    sums = []
    for time in range(6):
        state = factors[:, time] * state + x[:, time, :, None]
        sums.append(state.sum(-1))
    return torch.stack(sums, 1)


def test_slices_are_computed_where_they_are_read() -> None:
    decay = -numbers(16, 8).abs()
    program = fused(scan, X, decay)
    largest = max(value.extent[1] for value in program.values)
    assert largest < 4 * 6 * 16 * 8 * 4
    native, plain = live_bytes(scan, X, decay)
    assert native < plain / 2


def test_results_that_are_read_elsewhere_stay() -> None:
    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        return y, torch.softmax(y, -1)

    program = fused(twice, X)
    assert set(kernels_of(program)) == {"loop"}
    assert len({out for step in program.steps for out in step.outs}) == 2


def test_state_is_not_read_after_its_update() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", numbers(4, 16))

        def forward(self, x: Tensor) -> Tensor:
            before = torch.tanh(self.kept) * 2
            self.kept.copy_(self.kept * 0.5 + x)
            return before + self.kept.exp() + before.sum()

    fused(Counter(), numbers(4, 16), runs=3)


FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.tanh,
    lambda x: x * 0.5 + 1,
    lambda x: F.gelu(x),
    lambda x: torch.softmax(x, -1),
    lambda x: F.layer_norm(x, (x.shape[-1],)),
    lambda x: x - x.mean(-1, keepdim=True),
    lambda x: x * torch.rsqrt(x.pow(2).mean((1, 2), keepdim=True) + 1e-5),
    lambda x: x / (1 + x.amax(-1, keepdim=True).abs()),
    lambda x: x.bfloat16().float() * 2,
    lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    lambda x: x.reshape(6, 4, 16).transpose(0, 1),
    lambda x: x.flatten(1).view(4, 6, 16),
    lambda x: x[..., ::2].repeat_interleave(2, -1),
    lambda x: torch.cat((-x[..., 8:], x[..., :8]), -1),
    lambda x: torch.cat((x[:2].sin(), x[2:]), 0),
    lambda x: x[1:2].expand(4, 6, 16) + x,
    lambda x: x.unflatten(2, (2, 8)).transpose(1, 2).reshape(4, 6, 16),
    lambda x: torch.stack([x[:, t].cos() for t in range(6)], 1),
    lambda x: (x @ torch.eye(16)) * 0.5,
)
PAIRS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    torch.add,
    torch.mul,
    lambda x, y: torch.where(x > 0, x, y),
    lambda x, y: x + y.mean(-1, keepdim=True),
    lambda x, y: x * y[:, :1],
    lambda x, y: F.silu(x) * y,
    lambda x, y: torch.cat((x[..., :8], y[..., 8:]), -1) + x,
)


class Drawn(nn.Module):
    """A graph of loops and views of them that depends on `seed` alone; values stay small."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        random = Random(self.seed)
        live = [x, y]
        for _ in range(random.randint(4, 20)):
            recent = live[-4:]
            if random.random() < 0.6:
                live.append(random.choice(FUNCTIONS)(random.choice(recent)))
            else:
                live.append(random.choice(PAIRS)(random.choice(recent), random.choice(live)))
            live[-1] = live[-1].clamp(-4, 4)
        return [live[-1] + 1, random.choice(live) * 2]


@pytest.mark.parametrize("seed", range(10))
def test_random_loops(seed: int) -> None:
    check_values(fused(Drawn(seed), X, Y))


@pytest.mark.parametrize("seed", range(20, 40))
def test_no_more_bytes_are_live(seed: int) -> None:
    """Fusion alone, on the same steps: the most live bytes do not grow."""
    captured = capture(Drawn(seed), ((X, Y), {}))
    program = lower(captured, "test", pack=False, native=True).program
    plain = lower(captured, "test", pack=False).program
    assert liveness(program).peak_nbytes <= liveness(plain).peak_nbytes
