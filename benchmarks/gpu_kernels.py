"""Rates of single kernels on the GPU that is here, each as a program would call it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import overlay  # noqa: F401  before occ
import torch
import torch.nn.functional as F
from torch import Tensor

from occ.codegen.kernels import Operand, Spec, kernel_named
from occ.codegen.triton import triton_module
from occ.cuda_child import CALLS, Cuda
from occ.runtime_stub.sources import module_of

ROWS, WIDTH = 16_384, 4_096
"""A matrix of 128 MiB in 16 bits: more than the device's caches hold."""

HEADS = 16
_NUMBERS = count()


@dataclass(frozen=True)
class Attention:
    """One shape: seconds of ours and of torch's, operations, and how far the two are apart."""

    tokens: int
    size: int
    causal: bool
    seconds: float
    torch_seconds: float
    operations: int
    error: float


def spec(tensor: Tensor) -> Spec:
    """A tensor's type and layout."""
    return Spec(str(tensor.dtype)[6:], tuple(tensor.shape), tuple(tensor.stride()))


class Kernel:
    """A kernel of the table, generated for some tensors; the call writes into the last of them."""

    def __init__(self, name: str, args: Mapping[str, object], outs: Sequence[Tensor]) -> None:
        described: dict[str, Operand] = {
            key: spec(arg) if isinstance(arg, Tensor) else arg for key, arg in args.items()
        }
        generate = kernel_named(name).triton
        assert generate is not None
        function = generate(described, [spec(out) for out in outs], ())
        module = f"benchmarked_{next(_NUMBERS)}"
        self._function = getattr(module_of(triton_module([function]), f"<{module}>", module), function.symbol)
        self._tensors = [*(arg for arg in args.values() if isinstance(arg, Tensor)), *outs]

    def __call__(self) -> None:
        self._function(*self._tensors)


def seconds_of(action: Kernel) -> float:
    """Seconds of one call among many in a CUDA graph."""

    def calls() -> None:
        for _ in range(CALLS):
            action()

    return Cuda().seconds(calls, CALLS)


def copy_rate() -> float:
    """Bytes a second, read and written, of a copy on the device."""
    source = torch.randn(ROWS, WIDTH, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)

    def calls() -> None:
        for _ in range(CALLS):
            target.copy_(source)

    return 2 * source.nbytes * CALLS / Cuda().seconds(calls, 1)


def product_rate(dtype: torch.dtype, size: int = 8192) -> float:
    """Operations a second of a square matrix product."""
    one, other, out = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(3))

    def calls() -> None:
        for _ in range(CALLS):
            torch.mm(one, other, out=out)

    return 2.0 * size**3 * CALLS / Cuda().seconds(calls, 1)


def loop_rates() -> Iterator[tuple[str, float, float]]:
    """Loops of bfloat16 matrices: a name, bytes a second, and how far the result is from ATen's."""
    x, y = (torch.randn(ROWS, WIDTH, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    scale, shift = (torch.randn(1, WIDTH, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    norm = "d = x0 - mean(x0); y0 = d * rsqrt(mean(d * d) + 1e-05) * x1 + x2"
    cases: tuple[tuple[str, str, int, tuple[Tensor, ...], Tensor], ...] = (
        ("gelu(x + y)", "y0 = gelu(x0 + x1)", 0, (x, y), F.gelu(x.float() + y.float())),
        ("silu(x) * y", "y0 = silu(x0) * x1", 0, (x, y), F.silu(x.float()) * y.float()),
        (
            "layer norm",
            norm,
            1,
            (x, scale, shift),
            F.layer_norm(x.float(), (WIDTH,), scale[0].float(), shift[0].float()),
        ),
        (
            "RMS norm",
            "y0 = x0 * rsqrt(mean(x0 * x0) + 1e-05) * x1",
            1,
            (x, scale),
            x.float() * x.float().square().mean(-1, True).add(1e-5).rsqrt() * scale.float(),
        ),
        ("softmax", "e = exp(x0 - max(x0)); y0 = e / sum(e)", 1, (x,), x.float().softmax(-1)),
    )
    for name, body, row, operands, wanted in cases:
        out = torch.full((ROWS, WIDTH), torch.nan, device="cuda", dtype=torch.bfloat16)
        args = {f"x{index}": tensor for index, tensor in enumerate(operands)}
        kernel = Kernel("loop", {**args, "body": body, "row": row}, [out])
        kernel()
        error = float((out.float() - wanted).abs().max() / wanted.abs().max())
        moved = out.nbytes + sum(tensor.nbytes for tensor in operands)
        yield f"{name}, of a copy", moved / seconds_of(kernel), error


def attention_cases() -> Iterator[Attention]:
    """bfloat16 attention of HEADS heads, beside torch's."""
    for tokens in (2048, 8192):
        for size in (64, 128):
            for causal in (False, True):
                yield _attention(tokens, size, causal)


def _attention(tokens: int, size: int, causal: bool) -> Attention:
    query, key, value = (
        torch.randn(1, HEADS, tokens, size, device="cuda", dtype=torch.bfloat16) for _ in range(3)
    )
    # Heads side by side for each row, as programs have it.
    out = torch.full((1, tokens, HEADS, size), torch.nan, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    args = {
        **{"query": query, "key": key, "value": value, "mask": None, "causal": causal},
        **{"scale": None, "first": 0, "unseen": "zero"},
    }
    kernel = Kernel("native_attention", args, [out])
    kernel()

    def calls() -> None:
        for _ in range(CALLS):
            F.scaled_dot_product_attention(query, key, value, is_causal=causal)

    wanted = F.scaled_dot_product_attention(query, key, value, is_causal=causal).float()
    return Attention(
        tokens=tokens,
        size=size,
        causal=causal,
        seconds=seconds_of(kernel),
        torch_seconds=Cuda().seconds(calls, CALLS),
        operations=4 * HEADS * tokens * tokens * size // (2 if causal else 1),
        error=float((out.float() - wanted).abs().max() / wanted.abs().max()),
    )
