"""Element-wise operators, reductions, types and constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lower.comparing import Apply, check, check_all, fallbacks, kernels_of

Function = Callable[..., Any]
Table = dict[str, tuple[Function, tuple[Tensor, ...]]]


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


X, Y = numbers(3, 4, 5), numbers(3, 4, 5).cos()
M, N = torch.arange(-6, 6).view(3, 4), torch.arange(1, 13).view(3, 4)
B, C = M > 0, N % 2 == 0

ELEMENTWISE: Table = {
    "chain": (lambda x: torch.tanh(x * 2 + 1).exp() / 3 - x, (X,)),
    "operand used twice": (lambda x: (x.sin() * x.cos()) + x.sin(), (X,)),
    "same operand": (lambda x: torch.tanh(x) * torch.tanh(x) + (y := x.sin()) * y, (X,)),
    "broadcast": (lambda x, y: x.sin() + y[:, :1].cos() * y[0, 0], (X, Y)),
    "outer broadcast": (lambda x, y: x[:, None].exp() - y[None, :, :1].exp(), (X, Y)),
    "transposed": (lambda x, y: x.mT.sin() + y.mT, (X, Y)),
    "numbers": (lambda x: 2 - x, (X,)),
    "number over": (lambda x: 2 / (x.abs() + 1) - 3**x, (X,)),
    "rsub alpha": (lambda x, y: torch.rsub(x, y, alpha=2), (X, Y)),
    "square, cube, root": (lambda x: x**2 + x**3 + x.abs() ** 0.5 + x.square() + x.abs().sqrt(), (X,)),
    "powers": (lambda x, y: x.abs().pow(y) + torch.pow(2.0, y), (X, Y)),
    "floor division": (lambda x, y: x // (y.abs() + 0.5) + x % 2 + torch.fmod(x, 0.7), (X, Y)),
    "rounding": (lambda x: x.floor() + x.ceil() + x.round() + x.trunc() + x.frac(), (X,)),
    "rounding to decimals": (lambda x: x.round(decimals=1), (X,)),
    "clamp": (lambda x: x.clamp(-1, 1) + x.clamp(min=0) + x.clamp(max=0.5) + x.clamp(x.sin(), x.exp()), (X,)),
    "where": (lambda x, y: torch.where(x > y, x, y) + torch.where(x > 0, 1.0, y), (X, Y)),
    "where with numbers": (lambda x: torch.where(x > 0, 1, 0), (X,)),
    "masked fill": (lambda x, y: x.masked_fill(y > 0, 7.0).masked_fill(x > 0, y.sum()), (X, Y)),
    "comparisons": (lambda x, y: ((x > y) & (x != 0)) | ~(y <= x) ^ (x >= 0.5), (X, Y)),
    "logic": (lambda x, y: x.logical_and(y).logical_or(x.logical_not()).logical_xor(y), (X, Y.round())),
    "is": (lambda x: (x / 0).isnan() | (x / 0).isinf() | x.isfinite() | (x * 0 / 0).isnan(), (X,)),
    "nan to num": (lambda x: torch.nan_to_num(x / 0, 1.0, 2.0, -2.0), (X,)),
    "lerp": (lambda x, y: torch.lerp(x, y, 0.3) + torch.lerp(x, y, y), (X, Y)),
    "addcmul": (lambda x, y: torch.addcmul(x, y, y, value=0.1) + torch.addcdiv(x, x, y.abs() + 1), (X, Y)),
    "special": (
        lambda x: torch.special.expit(x) + torch.erf(x) + torch.lgamma(x.abs() + 1) + torch.sinc(x),
        (X,),
    ),
    "hyperbolic": (lambda x: x.sinh() + x.cosh() + x.atan() + x.asinh() + (x.sin() / 2).atanh(), (X,)),
    "logarithms": (lambda x: torch.logaddexp(x, x) + x.abs().log1p() + (x.abs() + 1).log2(), (X,)),
    "maximum": (lambda x, y: torch.maximum(x, y) - torch.minimum(x, y) + torch.fmax(x, y), (X, Y)),
    "sign": (lambda x: x.sign() + x.neg().abs() + torch.copysign(x, -x) + x.signbit(), (X,)),
    "hypot": (lambda x, y: torch.hypot(x, y) + torch.atan2(x, y), (X, Y)),
    "cumulative": (lambda x: x.cumsum(1) + x.cumprod(0) + x.cummax(1).values + x.flip(1).cumsum(-1), (X,)),
    "in place": (lambda x: x.sin().add_(1).mul_(2).relu_().clamp_(max=2), (X,)),
    "0-d": (lambda x: x.sum() * 2 + x.mean(), (X,)),
    "0-d input": (lambda x: x * 2 + x.exp(), (torch.tensor(0.5),)),
    "polygamma": (lambda x: torch.digamma(x.abs() + 1), (X,)),
    "dropout": (lambda x: F.dropout(x.sin(), 0.5, training=False), (X,)),
    "bucketize": (lambda x: torch.bucketize(x, torch.linspace(-1, 1, 5)), (X,)),
    "heaviside": (torch.heaviside, (X, Y)),
}

INTEGERS: Table = {
    "arithmetic": (lambda i, j: i * j + i // j - i % j + i**2 - abs(i), (M, N)),
    "bits": (lambda i, j: (i & j) | (i ^ 5) | ~j, (M, N)),
    "shifts": (lambda i, j: (j << 2) + (i >> 1), (M, N)),
    "true division": (lambda i, j: i / j + i / 2, (M, N)),
    "with floats": (lambda i, x: i * x[0, :, :4].T[:3] + i * 0.5, (M, numbers(3, 4, 5))),
    "comparisons": (lambda i, j: (i > j) | (i == -3) & (j.ne(4)), (M, N)),
    "bools": (lambda b, c: (b & c) | ~b ^ c, (B, C)),
    "sum of bools": (lambda b: b.sum(), (B,)),
    "mean of bools": (lambda b: b.float().mean(0), (B,)),
    "32 bits": (lambda i, j: i + j * 2, (M.int(), N.int())),
    "8 bits": (lambda i, j: i * j + (i > 3).to(torch.uint8), (M.abs().to(torch.uint8), N.to(torch.uint8))),
    "mixed widths": (lambda i, j: i + j, (M.int(), N)),
    "floor of a quotient": (lambda i: torch.div(i, 4, rounding_mode="floor"), (M,)),
    "gcd": (torch.gcd, (M, N)),
    "relu": (lambda i: F.relu(i) + i.clamp(-2, 3), (M,)),
    "minimum": (lambda i, j: torch.minimum(i, j).maximum(-j), (M, N)),
}


def test_elementwise() -> None:
    check_all(ELEMENTWISE)


def test_integers() -> None:
    check_all(INTEGERS)


ACTIVATIONS = (
    *(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SELU(), nn.CELU(0.5), nn.GELU()),
    *(nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Sigmoid(), nn.Tanh(), nn.Hardswish(), nn.Hardsigmoid()),
    *(nn.Hardtanh(-2, 3), nn.Softplus(2, 10), nn.Softsign(), nn.Softshrink(), nn.Hardshrink()),
    *(
        nn.LogSigmoid(),
        nn.Tanhshrink(),
        nn.Threshold(0.1, 3.0),
        nn.PReLU(),
        nn.PReLU(5),
        nn.RReLU(),
        nn.GLU(0),
    ),
)


def test_activations() -> None:
    """All of them side by side: contiguous, transposed and of a convolution's layout."""
    x = numbers(4, 5, 6) * 3

    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(ACTIVATIONS)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [layer(x) for layer in self.layers]

    check(All(), x)
    check(All(), x.permute(2, 1, 0).contiguous().permute(2, 1, 0))
    check(All().bfloat16(), x.bfloat16(), runs=1)


REDUCTIONS: Table = {
    "sums": (
        lambda x: (x.sum(), x.sum(1), x.sum((0, 2), keepdim=True), x.sum(-1, dtype=torch.float64)),
        (X,),
    ),
    "means": (lambda x: (x.mean(), x.mean(1), x.mean((0, 2), keepdim=True), x.mean(())), (X,)),
    "products": (lambda x: (x.prod(), x.prod(1)), (X,)),
    "extremes": (
        lambda x: (x.max(), x.min(), x.amax((0, 1)), x.amin(2, keepdim=True), x.aminmax(dim=1)),
        (X,),
    ),
    "with indices": (lambda x: (*x.max(1), *x.min(2, keepdim=True)), (X,)),
    "values alone": (lambda x: x.max(1).values + x.min(1)[0], (X,)),
    "indices alone": (lambda x: x.max(1).indices, (X,)),
    "arg": (lambda x: (x.argmax(), x.argmin(1), x.argmax(-1, keepdim=True)), (X,)),
    "any, all": (lambda x: ((x > 1).any(), (x > -1).all(1), (x > 2).any(0), x.all()), (X,)),
    "norms": (
        lambda x: (x.norm(), x.norm(1, 1), torch.linalg.vector_norm(x, 2, (0, 2)), F.normalize(x)),
        (X,),
    ),
    "deviations": (lambda x: (x.var(1), x.std(), x.var((0, 2), correction=0), torch.var_mean(x, 1)), (X,)),
    "log sum": (lambda x: (x.logsumexp(1), x.exp().sum(1).log()), (X,)),
    "count": (lambda x: (x > 0).count_nonzero(1), (X,)),
    "of integers": (lambda i: (i.sum(), i.max(), i.float().mean(), i.prod(0), i.cumsum(1)), (M,)),
    "of bfloat16": (lambda x: (x.sum(1), x.mean(0), x.amax(2)), (X.bfloat16(),)),
    "of slices": (lambda x: x[:, 1::2].sum(2) + x[:, ::2].mT.mean(1), (X,)),
    "median": (lambda x: (x.median(), *x.median(1), x.quantile(0.3, 1)), (X,)),
    "sort": (lambda x: (*x.sort(1, descending=True), x.argsort(-1), x.msort()), (X,)),
    "top": (lambda x: (*x.topk(2, 1), x.kthvalue(2, 1)[0], x.topk(3)[1]), (X,)),
    "unfold, fold": (lambda x: F.fold(F.unfold(x[None], 2), (4, 5), 2), (X,)),
    "pairwise": (lambda x, y: F.cosine_similarity(x, y, -1) + F.pairwise_distance(x, y).sin(), (X, Y)),
    "losses": (
        lambda x, y: (F.mse_loss(x, y), F.l1_loss(x, y, reduction="none"), F.smooth_l1_loss(x, y)),
        (X, Y),
    ),
    "cross entropy": (lambda x: F.cross_entropy(x[:, 0], torch.tensor([0, 2, 1])), (X,)),
    "trace": (lambda x: x[:, 0, :3].trace() + x[:, :3, 0].diagonal().sum(), (X,)),
    "0-d": (lambda x: (x.sum(0), x.mean(), x.max(), x.cumsum(0)), (torch.tensor(2.0),)),
    "histogram": (lambda x: torch.histc(x, 5, -2, 2), (X,)),
}


def test_reduction() -> None:
    check_all(REDUCTIONS)


TYPES: Table = {
    "casts": (
        lambda x: (x.to(torch.float64), x.half(), x.bfloat16(), x.int(), x.long(), x.bool(), x.char()),
        (X,),
    ),
    "there and back": (lambda x: x.bfloat16().float() + x.float(), (X,)),
    "type_as": (lambda x, i: i.type_as(x) + x[0, :3, :4], (X, M)),
    "to another tensor's": (lambda x, i: x[0, :3, :4].to(i) + i, (X, M)),
    "same type": (lambda x: x.to(torch.float32).float() * 2, (X,)),
    "of a transposed tensor": (lambda x: x.mT.bfloat16(), (X,)),
    "view of bits": (lambda x: x.view(torch.int32) + 1, (X,)),
    "bool to float": (lambda b: b.float() * 2 + (~b).to(torch.float32), (B,)),
    "half arithmetic": (lambda x: (x * 2 + x.float()).half() - x, (X.half(),)),
    "complex": (lambda x, y: (torch.complex(x, y) * (1 + 2j)).abs() + torch.complex(x, y).real, (X, Y)),
    "conjugate of a weight": (lambda x: x * torch.polar(torch.ones(5), torch.arange(5.0)).conj(), (X,)),
    "complex result": (lambda x, y: torch.view_as_complex(torch.stack([x, y], -1)).conj() * 2, (X, Y)),
    "view as real": (lambda x: torch.view_as_real(torch.polar(x.abs(), x)), (X,)),
    "fourier": (lambda x: torch.fft.rfft(x, dim=1).abs() + torch.fft.fft(x, dim=1).imag[:, :3], (X,)),
    "inverse fourier": (lambda x: torch.fft.irfft(torch.fft.rfft(x)), (numbers(3, 4, 6),)),
    "rotary by complex": (
        lambda x: torch.view_as_real(
            torch.view_as_complex(x.view(3, 4, 3, 2))
            * torch.polar(torch.ones(4, 3), torch.arange(12.0).view(4, 3))
        ).flatten(2),
        (numbers(3, 4, 6),),
    ),
    "promotion": (lambda x, i: x[0, :3, :4] * i + (i > 0), (X, M)),
}


def test_types() -> None:
    check_all(TYPES)


CONSTANTS: Table = {
    "arange": (lambda x: x + torch.arange(5.0) - torch.arange(4)[:, None], (X,)),
    "linspace": (lambda x: x * torch.linspace(0, 1, 5), (X,)),
    "zeros, ones, full": (lambda x: x + torch.zeros(5) - torch.ones(4, 1) + torch.full((3, 1, 1), 2.0), (X,)),
    "like": (
        lambda x: torch.zeros_like(x) + torch.ones_like(x) * torch.full_like(x, 3) + x.new_zeros(5),
        (X,),
    ),
    "eye": (lambda x: x @ torch.eye(5) + torch.tril(torch.ones(4, 5)), (X,)),
    "causal mask": (lambda x: x.masked_fill(torch.ones(4, 5, dtype=torch.bool).triu(1), -torch.inf), (X,)),
    "tensor": (lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]) + torch.tensor(2.0), (X,)),
    "large, filled": (lambda x: torch.zeros(600, 1000) + x[0, 0, 0], (X,)),
    "large, empty, then filled": (lambda x: torch.empty(600, 1000).fill_(2.0) * x[0, 0, 0], (X,)),
    "large arange": (lambda x: torch.arange(400_000) + x[0, 0, 0], (X,)),
    "in place into zeros": (
        lambda x: torch.zeros(3, 4, 6).index_fill_(2, torch.tensor([5]), 2.0)[..., 1:] + x,
        (X,),
    ),
    "infinite": (lambda x: torch.full((4, 5), -torch.inf).triu(1) + x, (X,)),
    "infinite, large": (lambda x: torch.full((600, 1000), -torch.inf).triu(1) + x[0, 0, 0], (X,)),
    "positions": (lambda x: torch.sin(torch.arange(4)[:, None] / 10000 ** (torch.arange(5) / 5)) + x, (X,)),
    "meshgrid": (lambda x: x + torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij")[0], (X,)),
    "one hot": (lambda i: F.one_hot(i.abs(), 7), (M,)),
}


def test_constants() -> None:
    check_all(CONSTANTS)


def test_what_depends_on_weights_alone_is_computed_once() -> None:
    program = check(Apply(lambda x, w: x + (w.sin() * 2).cumsum(0), w=numbers(5)), X)
    assert kernels_of(program) == {"add": 1}


def test_copies_of_nothing_new_are_dropped() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.sin().clone().contiguous().detach()
        return F.dropout(y.view(3, 20).clone().view(3, 4, 5), training=False).float() + 1

    program = check(function, X)
    assert kernels_of(program) == {"sin": 1, "add": 1}
    assert not fallbacks(program)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0, 5)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    check(
        lambda x: (x.sin() + 1, x.sum(), torch.cat([x, x]), x.reshape(-1), x * x), torch.randn(*shape), runs=1
    )
