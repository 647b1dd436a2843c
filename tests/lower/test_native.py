"""What programs take native kernels for: attention, also where a model writes it out, and pooling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ.capture import capture
from occ.codegen.native.compiler import find_compiler
from occ.lower import lower
from tests.lower.comparing import Apply, Several, checked

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="NOT TESTED: there is no gcc")


def numbers(*shape: int) -> Tensor:
    return torch.linspace(-2.0, 2.0, prod(shape)).mul(7).sin().view(shape)


Q, K, V = numbers(2, 4, 6, 8), numbers(2, 4, 7, 8), numbers(2, 4, 7, 8).cos()
BIAS = numbers(1, 4, 6, 7)
NOTHING_SEEN = torch.zeros(2, 1, 6, 7).index_fill(2, torch.tensor(3), float("-inf"))

Function = Callable[..., Any]


def t5(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(3, 2))
    scores += bias
    weights = F.softmax(scores.float(), dim=-1).type_as(scores)
    weights = F.dropout(weights, p=0.1, training=False)
    return torch.matmul(weights, v).transpose(1, 2).contiguous().view(2, 6, 32)


def clip(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    weights = torch.matmul(q, k.transpose(-1, -2)) * 0.3
    weights = weights + mask
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(weights, v)


def flat(t: Tensor) -> Tensor:
    return t.flatten(0, 1)


WRITTEN: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "t5": (t5, (Q, K, V, BIAS)),
    "clip": (clip, (Q, K, V, BIAS[:, :1])),
    "clip, bfloat16": (clip, tuple(t.bfloat16() for t in (Q, K, V, BIAS[:, :1]))),
    "no mask": (lambda q, k, v: torch.softmax(q @ k.mT / 3, -1) @ v, (Q, K, V)),
    "no scale": (lambda q, k, v: torch.softmax(q @ k.mT, 3) @ v, (Q, K, V)),
    "scaled twice": (lambda q, k, v: (0.5 * (q @ k.mT) / 2).softmax(-1) @ v, (Q, K, V)),
    "mask first": (lambda q, k, v, m: (m + q @ k.mT).softmax(-1) @ v, (Q, K, V, BIAS[0])),
    "mask of a product": (lambda q, k, v: ((q @ q.mT).exp()[..., :1] + q @ k.mT).softmax(-1) @ v, (Q, K, V)),
    "three dimensions": (
        lambda q, k, v: torch.bmm(torch.bmm(q, k.mT).softmax(-1), v),
        (flat(Q), flat(K), flat(V)),
    ),
    "baddbmm": (
        lambda q, k, v, m: torch.bmm(torch.baddbmm(m, q, k.mT, alpha=0.3).softmax(-1), v),
        (flat(Q), flat(K), flat(V), flat(BIAS.expand(2, -1, -1, -1).contiguous())),
    ),
    "a row that sees nothing": (lambda q, k, v, m: (q @ k.mT + m).softmax(-1) @ v, (Q, K, V, NOTHING_SEEN)),
}

OTHERS: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "weights that are returned": (lambda q, k, v: ((w := (q @ k.mT).softmax(-1)) @ v, w), (Q, K, V)),
    "scores that are read twice": (lambda q, k, v: (s := q @ k.mT).softmax(-1) @ v + s.mean(), (Q, K, V)),
    "softmax over queries": (lambda q, k, v: (q @ k.mT).softmax(-2) @ v, (Q, K, V)),
    "scaled by a tensor": (lambda q, k, v, m: (q @ k.mT * m).softmax(-1) @ v, (Q, K, V, BIAS)),
    "mask that is scaled": (lambda q, k, v, m: ((q @ k.mT + m) * 2).softmax(-1) @ v, (Q, K, V, BIAS)),
    "a mask that widens": (
        lambda q, k, v, m: (q[:1] @ k[:1].mT + m).softmax(-1) @ v,
        (Q, K, V, BIAS.expand(2, -1, -1, -1)),
    ),
    "gated weights": (lambda q, k, v, m: ((q @ k.mT).softmax(-1) * m) @ v, (Q, K, V, BIAS)),
    "double precision": (lambda q, k, v: (q @ k.mT).softmax(-1) @ v, tuple(t.double() for t in (Q, K, V))),
}


def kernels(cases: dict[str, tuple[Function, tuple[Tensor, ...]]], **options: bool) -> Counter[str]:
    """The kernels of the native program of all cases, with how many steps take each."""
    module = Several({name: Apply(function) for name, (function, _) in cases.items()})
    captured = capture(module.eval(), ([inputs for _, inputs in cases.values()],))
    program = lower(captured, "test", pack=False, native=True).program
    return Counter(step.kernel for step in program.steps)


def compare(cases: dict[str, tuple[Function, tuple[Tensor, ...]]]) -> None:
    checked(
        Several({name: Apply(function) for name, (function, _) in cases.items()}),
        [inputs for _, inputs in cases.values()],
    )


def test_attention_that_is_written_out() -> None:
    compare(WRITTEN)
    found = kernels(WRITTEN)
    assert found["native_attention"] == len(WRITTEN)
    assert found["bmm"] == 1  # of the mask that comes from a product
    assert not {"softmax", "baddbmm", "matmul"} & set(found)


def test_what_looks_like_attention_and_is_not() -> None:
    compare(OTHERS)
    assert kernels(OTHERS)["native_attention"] == 0


def test_multihead_attention_that_returns_its_weights() -> None:
    layer = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    checked(Apply(lambda x: layer(x, x, x)), numbers(2, 5, 16))


sdpa = F.scaled_dot_product_attention

FUSED: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "four dimensions": (sdpa, (Q, K, V)),
    "three": (sdpa, (Q[0], K[0], V[0], BIAS[0])),
    "two": (sdpa, (Q[0, 0], K[0, 0], V[0, 0])),
    "a query": (sdpa, (Q[:, :, :1], K, V)),
    "grouped": (lambda q, k, v: sdpa(q, k[:, :2], v[:, :2], enable_gqa=True), (Q, K, V)),
    "heads of one key": (lambda q, k, v: sdpa(q, k[:, :1], v[:, :1]), (Q, K, V)),
    "batches of one key": (lambda q, k, v: sdpa(q, k[:1], v[:1]), (Q, K, V)),
}
ROW, PICTURE, VOLUME = numbers(2, 3, 12), numbers(2, 19, 9, 8), numbers(2, 3, 5, 4, 6)
POOLS: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "rows": (
        lambda x: (F.max_pool1d(x, 3, 2, 1), F.avg_pool1d(x, 3, 2), F.adaptive_avg_pool1d(x, 5)),
        (ROW,),
    ),
    "largest of rows": (lambda x: F.adaptive_max_pool1d(x, 5), (ROW,)),
    "pictures": (lambda x: (F.max_pool2d(x, 3, 2, 1, ceil_mode=True), F.avg_pool2d(x, 2)), (PICTURE,)),
    "adaptive": (lambda x: (F.adaptive_max_pool2d(x, (4, 3)), F.adaptive_avg_pool2d(x, 1)), (PICTURE,)),
    "volumes": (lambda x: (F.max_pool3d(x, 2), F.avg_pool3d(x, (2, 1, 3), divisor_override=2)), (VOLUME,)),
    "adaptive volumes": (
        lambda x: (F.adaptive_avg_pool3d(x, 2), F.adaptive_max_pool3d(x, (2, 3, 1))),
        (VOLUME,),
    ),
    "unbatched": (lambda x: (F.max_pool2d(x[0], 2), F.avg_pool2d(x[0], 3, 1, 1)), (PICTURE,)),
}


def test_attention_takes_the_kernel_in_c() -> None:
    compare(FUSED)
    assert kernels(FUSED)["native_attention"] == len(FUSED)


def test_pooling_takes_kernels_in_c_and_no_indices() -> None:
    compare(POOLS)
    found = kernels(POOLS)
    assert found["native_max_pool"] == 4
    assert found["native_avg_pool"] == 4
    assert found["native_adaptive_max_pool"] == 3
    assert found["native_adaptive_avg_pool"] == 3
    assert not {"fallback", "max_pool", "avg_pool", "mean"} & set(found)


def test_maxima_with_indices_are_left_to_torch() -> None:
    cases: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
        "both": (lambda x: F.max_pool2d(x, 2, return_indices=True), (PICTURE,)),
        "integers": (lambda x: F.max_pool2d((x * 9).int(), 2), (PICTURE,)),
    }
    compare(cases)
    assert kernels(cases)["native_max_pool"] == 0
