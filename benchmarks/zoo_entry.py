"""A network ready to be compared: seeded, in eval mode, with weights that carry signal from end to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor] | tuple[Tensor, ...]


class ZooModel(NamedTuple):
    """A network, what it is called with, and its family."""

    module: nn.Module
    example_inputs: Inputs
    kind: str


RESIDUAL_SCALE = 0.2
"""Weight of the last batch norm of a residual block. Training leaves it small; at 1, the 50 blocks of
ResNet-152 amplify rounding until eager in fp32 itself is 4e-4 away from fp64."""


def call(model: ZooModel) -> object:
    """The module's result for its example inputs."""
    inputs = model.example_inputs
    return model.module(**inputs) if isinstance(inputs, dict) else model.module(*inputs)


def seeded(construct: Callable[[], ZooModel]) -> ZooModel:
    """Construct a network in eval mode, the same bits at every call.

    Random weights under a batch norm that has seen nothing grow or vanish from layer to layer, and some heads
    start at zero: batch norms get the statistics of one run, zero layers get weights.
    """
    torch.manual_seed(0)
    model = construct()
    model.module.eval()
    norms = [m for m in model.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for module in model.module.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if norms:
            for name, module in model.module.named_modules():
                if name.endswith("bn3"):
                    module.weight.fill_(RESIDUAL_SCALE)
            for norm in norms:
                norm.train()
                norm.momentum = 1.0
            call(model)
            for norm in norms:
                norm.eval()
    return model
