"""Weights in oneDNN's own layout, used where they lie in the arena."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from occ.runtime_stub.packed import pack_convolution, packed, probe
from tests.kernels.cases import Numbers, convolved
from tests.kernels.layouts import channels_last, close
from tests.kernels.memory import Memory, run

pytestmark = pytest.mark.skipif(not probe(), reason="oneDNN's packed weights do not work on this machine")

BATCH = (1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "groups", "stride"),
    [((20, 24, 3, 3), 1, 1), ((20, 6, 3, 3), 4, 2), ((24, 1, 5, 5), 24, 1), ((7, 24, 1, 1), 1, 2)],
)
def test_convolution(shape: tuple[int, ...], groups: int, stride: int, dtype: torch.dtype) -> None:
    number = Numbers()
    weight, bias = number(*shape, dtype=dtype), number(shape[0], dtype=dtype)
    x = number(2, 24, 9, 7, dtype=dtype)
    padding = (shape[2] // 2,) * 2
    numbers = {"stride": (stride,) * 2, "padding": padding, "dilation": (1, 1), "groups": groups}
    residual = torch.randn_like(torch.conv2d(x, weight, None, stride, padding, 1, groups))
    for added in (None, residual):
        memory = Memory()
        args = {
            "input": memory.holding(x, channels_last(x)),
            "weight": placed_packed(memory, weight, x.shape, **numbers),
            "bias": memory.holding(bias, (1,)),
            **numbers,
            "relu": True,
            "residual": None if added is None else memory.holding(added, channels_last(added)),
        }
        out = memory.new(dtype, residual.shape, channels_last(residual))
        run(memory, "convolution", args, [out])
        plain = {**numbers, "relu": True, "residual": added}
        close(out, convolved(input=x, weight=weight, bias=bias, **plain))


@pytest.mark.parametrize("rows", [1, 5])
def test_product(rows: int) -> None:
    number = Numbers()
    weight, x = number(30, 40, 1, 1), number(1, 40, rows, 1)
    memory = Memory()
    numbers = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    args = {
        "input": memory.holding(x, (40 * rows, 1, 40, 40)),
        "weight": placed_packed(memory, weight, x.shape, **numbers),
        "bias": None,
        "relu": False,
        "residual": None,
    }
    out = memory.new(torch.float32, (1, 30, rows, 1), (30 * rows, 1, 30, 30))
    run(memory, "product", args, [out])
    close(out[0, :, :, 0].T, x[0, :, :, 0].T @ weight[:, :, 0, 0].T)


def placed_packed(
    memory: Memory,
    weight: Tensor,
    inputs: tuple[int, ...],
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """A packed weight over bytes of `memory`."""
    packing, layout = pack_convolution(weight, padding, stride, dilation, groups, inputs)
    return packed(memory.holding(packing, (1,)), weight.dtype, weight.shape, layout)
