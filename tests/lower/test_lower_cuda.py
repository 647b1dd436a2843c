"""Models lowered for CUDA and run on the CPU, step by step on NaN-filled memory, against eager mode."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from occ.capture import capture
from occ.ir import Program
from occ.lower import lower
from tests.lower.comparing import Apply, fallbacks, kernels_of
from tests.lower.cuda_executor import CudaExecutor
from tests.lower.invariants import check_layout, check_stored_once, check_values
from tests.small_models import build

RELATIVE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}
"""Largest difference over the largest value: eager mode on the CPU rounds elsewhere."""


def check(module: nn.Module, *inputs: Any, **keywords: Any) -> Program:
    """Lower, run twice, compare with eager mode, and return the program."""
    module.eval()
    reference = copy.deepcopy(module)
    lowered = lower(capture(module, (inputs, keywords)), "test", pack=False, native=True, device="cuda")
    check_values(lowered.program)
    check_stored_once(lowered)
    check_layout(lowered.program)
    executor = CudaExecutor(lowered)
    given = [leaf for leaf in tree_leaves((inputs, keywords)) if isinstance(leaf, Tensor)]
    for _ in range(2):
        with torch.no_grad():
            wanted = [t for t in tree_leaves(reference(*inputs, **keywords)) if isinstance(t, Tensor)]
        found = executor.run([t.clone() for t in given])
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            error = float((one.double() - other.double()).abs().max())
            scale = max(float(other.double().abs().max()), 1e-30)
            assert error <= RELATIVE.get(other.dtype, 0.0) * scale
    executor.close()
    return lowered.program


@pytest.mark.parametrize(
    "name", ["mlp", "shufflenet", "bert", "gpt2_decode", "llama_decode", "t5", "lstm_lm"]
)
def test_small_model(name: str) -> None:
    model = build(name)
    inputs = model.example_inputs
    program = check(model.module, **inputs) if isinstance(inputs, dict) else check(model.module, *inputs)
    assert not fallbacks(program)


@pytest.mark.parametrize(
    ("name", "dtype"), [("densenet", torch.float16), ("densenet", torch.bfloat16), ("vit", torch.bfloat16)]
)
def test_small_model_in_16_bits(name: str, dtype: torch.dtype) -> None:
    model = build(name)
    assert isinstance(model.example_inputs, tuple)
    inputs = [x.to(dtype) for x in model.example_inputs]
    assert not fallbacks(check(model.module.to(dtype), *inputs))


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "3x3": (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 7, 9)),
    "strided": (nn.Conv2d(4, 6, 3, stride=2, bias=False), (2, 4, 9, 8)),
    "pixels": (nn.Conv2d(6, 10, 1), (1, 6, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, padding=2, dilation=2), (1, 6, 9, 7)),
    "line": (nn.Conv1d(4, 5, 5, padding=2), (1, 4, 20)),
    "volume": (nn.Conv3d(2, 3, 3, padding=1), (1, 2, 4, 5, 6)),
    "same": (nn.Conv2d(3, 4, 4, padding="same"), (1, 3, 8, 8)),
    "transposed": (nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1), (1, 4, 5, 6)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str) -> None:
    module, shape = CONVOLUTIONS[name]
    torch.manual_seed(0)
    program = check(module, torch.randn(shape))
    assert not fallbacks(program)
    kernels = kernels_of(program)
    assert ("linear" in kernels) if name == "pixels" else (kernels["cudnn_convolution"] > 0)


class Residual(nn.Module):
    """Convolution, batch norm, addition and ReLU, by 3x3 and by pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        for norm in self.norms:
            nn.init.uniform_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(x + self.norms[0](self.first(x)))
        return F.relu(y + self.norms[1](self.second(y)))


def test_what_follows_a_convolution_is_one_loop() -> None:
    torch.manual_seed(0)
    program = check(Residual(), torch.randn(1, 8, 6, 5).contiguous(memory_format=torch.channels_last))
    kernels = kernels_of(program)
    assert kernels["cudnn_convolution"] == 1
    assert kernels["linear"] == 1
    assert kernels["loop"] == 2


def test_nothing_is_packed_for_a_cpu() -> None:
    module = Apply(lambda x, w: F.relu(x @ w.t()), w=torch.randn(48, 32))
    lowered = lower(
        capture(module, ((torch.randn(4, 32),), {})), "test", pack=False, native=True, device="cuda"
    )
    assert all(value.packing is None for value in lowered.program.values)
    assert not {"product", "convolution"} & set(kernels_of(lowered.program))
