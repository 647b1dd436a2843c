"""Matrix products, attention, normalisation and recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ.ir import BufferKind, Ref
from tests.lower.comparing import NATIVE, PACKED, Apply, check, check_all, fallbacks, kernels_of, lowered

Function = Callable[..., Any]


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


LINEAR: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1-d": (lambda: nn.Linear(7, 5), (7,)),
    "2-d": (lambda: nn.Linear(7, 5), (3, 7)),
    "2-d, no bias": (lambda: nn.Linear(7, 5, bias=False), (3, 7)),
    "3-d": (lambda: nn.Linear(7, 5), (2, 3, 7)),
    "4-d, no bias": (lambda: nn.Linear(7, 5, bias=False), (2, 1, 3, 7)),
    "one feature": (lambda: nn.Linear(7, 1), (3, 7)),
    "from one feature": (lambda: nn.Linear(1, 7), (3, 1)),
    "one row": (lambda: nn.Linear(7, 5), (1, 7)),
    "no row": (lambda: nn.Linear(7, 5), (0, 7)),
    "relu": (lambda: nn.Sequential(nn.Linear(7, 5), nn.ReLU()), (3, 7)),
    "gelu": (lambda: nn.Sequential(nn.Linear(7, 5), nn.GELU("tanh"), nn.Linear(5, 7)), (2, 3, 7)),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(42, 5)), (3, 7, 6)),
    "bilinear": (lambda: Apply(lambda x, w: F.bilinear(x, x, w), w=numbers(3, 7, 7)), (2, 7)),
}


def test_linear() -> None:
    torch.manual_seed(0)
    check_all({name: (make(), (numbers(*shape),)) for name, (make, shape) in LINEAR.items()})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_linear_of_other_types(dtype: torch.dtype) -> None:
    check(nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype), numbers(3, 7, dtype=dtype))


def test_linear_layer_that_is_cut_into_pieces() -> None:
    """3.7 MB of weights; with a residual and a ReLU, over transposed rows."""
    layer = nn.Linear(704, 1300)
    check(Residual(layer), numbers(1, 704, 40), numbers(1, 40, 1300))


class Residual(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, r: Tensor) -> Tensor:
        y = self.layer(x.transpose(1, 2) * 2)
        return torch.relu(y + torch.sin(r))


@pytest.mark.parametrize("kind", ["dies", "is read later", "is the input"])
def test_pieces_take_the_bytes_of_what_they_add(kind: str) -> None:
    """Where nobody else needs those."""
    if True not in PACKED:
        pytest.skip("oneDNN's packed weights do not work on this machine")

    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1300, 1300)

        def forward(self, x: Tensor, r: Tensor) -> Tensor:
            x, r = torch.tanh(x), torch.sin(r)
            y = self.layer(x) + (x if kind == "is the input" else r)
            return y.sum(-1) + (r if kind == "is read later" else y).mean()

    operands = numbers(40, 1300), numbers(40, 1300)
    check(Adds(), *operands)
    program = lowered(Adds(), *operands, pack=True).program
    pieces = [step for step in program.steps if step.kernel == "product"]
    assert len(pieces) > 1
    assert all(isinstance(dict(step.args)["residual"], Ref) for step in pieces)
    added = {program.values[dict(step.args)["residual"].value].buffer for step in pieces}
    made = {step.outs[0] for step in pieces}
    copies = [s for s in program.steps if s.kernel == "copy" and dict(s.args)["source"].value in made]
    assert len(copies) == len(pieces)
    assert ({program.values[step.outs[0]].buffer for step in copies} == added) is (kind == "dies")


def test_residual_that_is_the_input_of_its_layer() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(x)
            return torch.relu(self.layer(x) + x).sum(-1)

    check(Skip(), numbers(40, 64))


def test_same_layer_twice_and_layers_with_tied_weights() -> None:
    layer = nn.Linear(6, 6)
    check(nn.Sequential(layer, nn.Tanh(), layer), numbers(40, 6))
    other = nn.Linear(6, 6)
    other.weight = layer.weight
    check(nn.Sequential(layer, nn.Tanh(), other), numbers(3, 6))


MATMUL_SHAPES = {
    "1-d x 1-d": ((7,), (7,)),
    "1-d x 2-d": ((7,), (7, 5)),
    "2-d x 1-d": ((3, 7), (7,)),
    "2-d x 2-d": ((3, 7), (7, 5)),
    "3-d x 1-d": ((2, 3, 7), (7,)),
    "1-d x 3-d": ((7,), (2, 7, 5)),
    "3-d x 2-d": ((2, 3, 7), (7, 5)),
    "2-d x 3-d": ((3, 7), (2, 7, 5)),
    "3-d x 3-d": ((2, 3, 7), (2, 7, 5)),
    "3-d x broadcast": ((2, 3, 7), (1, 7, 5)),
    "4-d x 4-d": ((2, 4, 3, 7), (2, 4, 7, 5)),
    "4-d x broadcast": ((2, 1, 3, 7), (4, 7, 5)),
    "no inner": ((3, 0), (0, 5)),
}


def test_matmul() -> None:
    """Of two inputs, of an input and a weight, of a weight and an input."""
    cases: dict[str, Any] = {}
    for name, (left_shape, right_shape) in MATMUL_SHAPES.items():
        left, right = numbers(*left_shape), numbers(*right_shape)
        cases[name] = (torch.matmul, (left, right))
        cases[f"{name}, weight right"] = (Apply(lambda x, w: x @ w, w=right), (left,))
        cases[f"{name}, weight left"] = (Apply(lambda x, w: w @ x, w=left), (right,))
    check_all(cases)


PRODUCTS: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "transposed operands": (lambda x, y: x.mT @ y.mT, (numbers(2, 7, 3), numbers(2, 5, 7))),
    "integers": (torch.matmul, (torch.arange(6).view(2, 3), torch.arange(12).view(3, 4))),
    "complex": (torch.matmul, (numbers(3, 4, dtype=torch.complex64), numbers(4, 5, dtype=torch.complex64))),
    "mm": (torch.mm, (numbers(3, 7), numbers(7, 5))),
    "mv": (torch.mv, (numbers(3, 7), numbers(7))),
    "dot": (torch.dot, (numbers(7), numbers(7).sin())),
    "outer": (torch.outer, (numbers(3), numbers(4))),
    "bmm": (torch.bmm, (numbers(2, 3, 7), numbers(2, 7, 5))),
    "bmm of slices": (lambda x, y: torch.bmm(x[:, 1:], y[:, :, ::2]), (numbers(2, 4, 7), numbers(2, 7, 5))),
    "addmm": (torch.addmm, (numbers(5), numbers(3, 7), numbers(7, 5))),
    "addmm scaled": (
        lambda a, x, y: torch.addmm(a, x, y, beta=0.5, alpha=2.0),
        (numbers(3, 5), numbers(3, 7), numbers(7, 5)),
    ),
    "addmm without": (
        lambda a, x, y: torch.addmm(a, x, y, beta=0),
        (numbers(3, 5), numbers(3, 7), numbers(7, 5)),
    ),
    "baddbmm": (
        lambda a, x, y: torch.baddbmm(a, x, y, beta=0.5),
        (numbers(3, 5), numbers(2, 3, 7), numbers(2, 7, 5)),
    ),
    "addmv": (torch.addmv, (numbers(3), numbers(3, 7), numbers(7))),
    "einsum": (lambda x, y: torch.einsum("bij,bkj->bik", x, y), (numbers(2, 3, 7), numbers(2, 5, 7))),
    "einsum, one operand": (lambda x: torch.einsum("bii->b", x), (numbers(2, 5, 5),)),
    "einsum, heads": (
        lambda x, y: torch.einsum("bqhd,bkhd->bhqk", x, y),
        (numbers(2, 3, 4, 8), numbers(2, 5, 4, 8)),
    ),
    "tensordot": (lambda x, y: torch.tensordot(x, y, 2), (numbers(2, 3, 4), numbers(3, 4, 5))),
    "kron": (torch.kron, (numbers(2, 3), numbers(3, 2))),
    "cdist": (torch.cdist, (numbers(2, 3, 4), numbers(2, 5, 4))),
    "multi_dot": (lambda x, y: torch.linalg.multi_dot([x, y, x]), (numbers(3, 7), numbers(7, 3))),
    "inverse": (torch.linalg.inv, (numbers(4, 4) + 4 * torch.eye(4),)),
    "triangular solve": (
        lambda a, b: torch.linalg.solve_triangular(a.tril() + 3 * torch.eye(4), b, upper=False),
        (numbers(4, 4), numbers(4, 2)),
    ),
}


def test_product() -> None:
    check_all(PRODUCTS)


def test_weights_on_the_left_transposed_or_scaled() -> None:
    weight = numbers(5, 7)
    check(Apply(lambda x, w: w @ x, w=weight), numbers(2, 7, 3))
    check(Apply(lambda x, w: x @ w.t(), w=weight), numbers(40, 7))
    check(Apply(lambda x, w: x @ (w.t() * 2), w=weight), numbers(40, 7))
    check(Apply(lambda x, w: x @ w[:3].t() + w[3:].sum(), w=weight), numbers(40, 7))
    check(Apply(lambda x, w: torch.addmm(w[0], x, w.t()[:5]), w=numbers(7, 7)), numbers(40, 5))


# Attention ------------------------------------------------------------------------------------------------

HEADS = (numbers(2, 4, 6, 8), numbers(2, 4, 7, 8), numbers(2, 4, 7, 8).cos())
SQUARE = (numbers(2, 4, 7, 8).sin(), *HEADS[1:])
MASK = numbers(2, 1, 6, 7)
sdpa = F.scaled_dot_product_attention


def repeated(heads: Tensor, times: int) -> Tensor:
    """Each head several times, as Hugging Face's models write it."""
    batch, count, rows, size = heads.shape
    expanded = heads[:, :, None].expand(batch, count, times, rows, size)
    return expanded.reshape(batch, count * times, rows, size)


ATTENTION: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "plain": (sdpa, HEADS),
    "scaled": (lambda q, k, v: sdpa(q, k, v, scale=0.2), HEADS),
    "causal": (lambda q, k, v: sdpa(q, k, v, is_causal=True), SQUARE),
    "mask": (sdpa, (*HEADS, MASK)),
    "mask of one row": (sdpa, (*HEADS, MASK[:, :, :1])),
    "mask a head": (sdpa, (*HEADS, numbers(2, 4, 6, 7))),
    "2-d mask": (sdpa, (*HEADS, numbers(6, 7))),
    "bool mask": (sdpa, (*HEADS, MASK > -1)),
    "bool mask with a row of nothing": (sdpa, (*HEADS, (torch.arange(6) != 2)[:, None].expand(6, 7).clone())),
    "mask that is computed": (
        lambda q, k, v: sdpa(q, k, v, torch.ones(6, 7, dtype=torch.bool).tril(1)),
        HEADS,
    ),
    "3-d": (sdpa, tuple(t[0] for t in HEADS)),
    "3-d with a mask": (sdpa, (*(t[0] for t in HEADS), MASK[0])),
    "5-d": (sdpa, tuple(t[None] for t in HEADS)),
    "one query": (sdpa, (HEADS[0][:, :, :1], *HEADS[1:])),
    "wide values": (sdpa, (*HEADS[:2], numbers(2, 4, 7, 12))),
    "bfloat16": (sdpa, tuple(t.bfloat16() for t in HEADS)),
    "float16": (sdpa, tuple(t.half() for t in HEADS)),
    "float64": (sdpa, tuple(t.double() for t in HEADS)),
    "grouped": (
        lambda q, k, v: sdpa(q, k, v, enable_gqa=True),
        (HEADS[0], *(t[:, :2].contiguous() for t in HEADS[1:])),
    ),
    "grouped, causal, masked": (
        lambda q, k, v, m: sdpa(q, k, v, m, enable_gqa=True),
        (HEADS[0], *(t[:, 1:2].contiguous() for t in HEADS[1:]), MASK),
    ),
    "repeated heads": (
        lambda q, k, v, m: sdpa(q, repeated(k.cos(), 2), repeated(v.sin(), 2), m),
        (HEADS[0], *(t[:, :2].contiguous() for t in HEADS[1:]), MASK),
    ),
    "one repeated head": (
        lambda q, k, v: sdpa(q, repeated(k.cos(), 4), repeated(v.sin(), 4)),
        (HEADS[0], *(t[:, :1].contiguous() for t in HEADS[1:])),
    ),
    "repeated keys, values of each head": (
        lambda q, k, v: sdpa(q, repeated(k.cos(), 2), v),
        (HEADS[0], HEADS[1][:, :2].contiguous(), HEADS[2]),
    ),
    "heads from one projection": (
        lambda x: sdpa(*x.view(2, 6, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)).transpose(1, 2).flatten(2),
        (numbers(2, 6, 96),),
    ),
    "broadcast batch": (
        lambda q, k, v: sdpa(q, k.expand(2, -1, -1, -1), v),
        (*HEADS[:1], HEADS[1][:1], HEADS[2]),
    ),
    "written out": (
        lambda q, k, v: torch.softmax(q @ k.mT / 3 + torch.ones(6, 7).triu(1) * -1e9, -1) @ v,
        HEADS,
    ),
}


def test_attention() -> None:
    check_all(ATTENTION)


@pytest.mark.parametrize("native", NATIVE)
def test_repeated_heads_are_shared(native: bool) -> None:
    inputs = (HEADS[0], *(t[:, :2].contiguous() for t in HEADS[1:]))
    module = Apply(lambda q, k, v: sdpa(q, repeated(k.cos(), 2), repeated(v.sin(), 2)))
    program = lowered(module, *inputs, native=native).program
    largest = max(b.nbytes for b in program.buffers if b.kind is BufferKind.ACTIVATION)
    assert largest < 2 * inputs[1].nbytes


def test_attention_of_many_heads_goes_in_groups() -> None:
    """2.4 MB of results, computed a few heads at a time."""
    inputs = tuple(numbers(1, 12, 100, 512) for _ in range(3))
    program = check(sdpa, *inputs, runs=1)
    step = next(step for step in program.steps if step.kernel == "attention")
    heads = dict(step.args)["heads"]
    assert heads == 5  # of 204,800 bytes each: as many as 1 MiB holds


def test_multihead_attention_layer() -> None:
    layer = nn.MultiheadAttention(16, 4, batch_first=True)
    check(layer, numbers(2, 5, 16), numbers(2, 6, 16), numbers(2, 6, 16))
    check(layer, *(numbers(2, 5, 16),) * 3, need_weights=False)


# Normalisation --------------------------------------------------------------------------------------------

NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layer": (lambda: nn.LayerNorm(6), (2, 5, 6)),
    "layer, two dimensions": (lambda: nn.LayerNorm((5, 6)), (2, 5, 6)),
    "layer, no weights": (lambda: nn.LayerNorm(6, elementwise_affine=False), (2, 5, 6)),
    "layer, no bias": (lambda: nn.LayerNorm(6, bias=False, eps=1e-3), (2, 5, 6)),
    "layer, 1-d": (lambda: nn.LayerNorm(6), (6,)),
    "group": (lambda: nn.GroupNorm(3, 6), (2, 6, 5, 4)),
    "group, 2-d": (lambda: nn.GroupNorm(2, 6), (2, 6)),
    "group, 1-d": (lambda: nn.GroupNorm(2, 6, affine=False), (2, 6, 7)),
    "group, 3-d": (lambda: nn.GroupNorm(6, 6), (1, 6, 3, 4, 2)),
    "instance": (lambda: nn.InstanceNorm2d(6, affine=True), (2, 6, 5, 4)),
    "instance, 1-d": (lambda: nn.InstanceNorm1d(6), (2, 6, 5)),
    "instance with statistics": (lambda: nn.InstanceNorm2d(6, track_running_stats=True), (2, 6, 5, 4)),
    "rms": (lambda: nn.RMSNorm(6), (2, 5, 6)),
    "rms, no weight": (lambda: nn.RMSNorm((5, 6), elementwise_affine=False), (2, 5, 6)),
    "local response": (lambda: nn.LocalResponseNorm(3), (2, 6, 5, 4)),
    "convolution, then group": (lambda: nn.Sequential(nn.Conv2d(6, 6, 3), nn.GroupNorm(2, 6)), (1, 6, 7, 5)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), (3, 6)),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)), (3, 6)),
}


def test_norm() -> None:
    torch.manual_seed(0)
    check_all({name: (make(), (numbers(*shape),)) for name, (make, shape) in NORMS.items()})


def test_norms_of_slices_and_transposed_tensors() -> None:
    check(Apply(lambda x, w: F.layer_norm(x.mT[:, 1:], (5,), w), w=numbers(5)), numbers(2, 5, 6))
    check(lambda x: F.group_norm(x[:, ::2], 3), numbers(2, 12, 5))
    check(lambda x, w: F.layer_norm(x, (6,), w), numbers(2, 6), numbers(6))
    check(nn.LayerNorm(6).bfloat16(), numbers(2, 6, dtype=torch.bfloat16))


SOFTMAX: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "last": (lambda x: torch.softmax(x, -1), (numbers(2, 5, 6),)),
    "first": (lambda x: torch.softmax(x, 0), (numbers(2, 5, 6),)),
    "transposed": (lambda x: torch.softmax(x.mT, 1), (numbers(2, 5, 6),)),
    "log": (lambda x: torch.log_softmax(x, 1), (numbers(2, 5, 6),)),
    "to float": (lambda x: torch.softmax(x, -1, dtype=torch.float32), (numbers(2, 5, dtype=torch.bfloat16),)),
    "and back": (
        lambda x: torch.softmax(x, -1, dtype=torch.float32).to(x.dtype),
        (numbers(2, 5, dtype=torch.bfloat16),),
    ),
    "of integers": (lambda x: torch.softmax(x, -1, dtype=torch.float32), (torch.arange(6).view(2, 3),)),
    "0-d": (lambda x: torch.softmax(x, 0), (torch.tensor(3.0),)),
    "softmin": (lambda x: F.softmin(x, -1), (numbers(2, 5),)),
    "minus infinity": (
        lambda x: torch.softmax(x.masked_fill(torch.ones(5, 6).tril(-2) > 0, -torch.inf), -1),
        (numbers(2, 5, 6),),
    ),
    "channels last": (
        lambda x: torch.softmax(F.conv2d(x, torch.ones(3, 2, 1, 1)), 1),
        (numbers(1, 2, 5, 4),),
    ),
}


def test_softmax() -> None:
    check_all(SOFTMAX)


# Layers of torch ------------------------------------------------------------------------------------------


def test_transformer_layers_of_torch() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    program = check(layer, numbers(2, 5, 16))
    assert "attention" in kernels_of(program)
    assert not fallbacks(program)
    decoder = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
    check(decoder, numbers(2, 5, 16), numbers(2, 6, 16), runs=1)
