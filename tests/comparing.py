"""Comparing results with eager PyTorch, the oracle for values."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, dict):
        return (), example_inputs
    return tuple(example_inputs), {}


def tensors_in(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def relative_difference(ours: list[Tensor], expected: list[Tensor]) -> float:
    """max |a - b| / max |b| of each output, the largest of them; exact equality for integers counts as 0."""
    assert len(ours) == len(expected)
    worst = 0.0
    for left, right in zip(ours, expected, strict=True):
        assert left.shape == right.shape
        assert left.dtype == right.dtype
        if right.numel():
            scale = float(right.double().abs().max()) or 1.0
            worst = max(worst, float((left.double() - right.double()).abs().max()) / scale)
    return worst


def tolerance(module: nn.Module, example_inputs: Any) -> float:
    """1e-4 in fp32; for a bf16 module, as much as two roundings differ that are as far from fp32 as eager
    bf16 is."""
    if all(parameter.dtype != torch.bfloat16 for parameter in module.parameters()):
        return 1e-4
    args, kwargs = as_call(example_inputs)
    with torch.no_grad():
        low = tensors_in(copy.deepcopy(module)(*args, **kwargs))
        full = tensors_in(copy.deepcopy(module).float()(*args, **kwargs))
    return max(
        math.sqrt(2.0) * relative_difference([t.float() for t in low], [t.float() for t in full]), 1e-3
    )
