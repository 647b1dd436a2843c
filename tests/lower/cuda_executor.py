"""Runs a Program that was lowered for CUDA on the CPU, by Triton's interpreter and by ATen for cuDNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor

from occ.codegen.steps import step_text, triton_functions
from occ.codegen.triton import triton_module
from occ.ir import Step
from occ.runtime_stub import kernels
from occ.runtime_stub.sources import forget, module_of
from tests.kernels.triton_modules import Libdevice, multiplying_bfloat16
from tests.lower.executor import Executor


def convolution(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    out: Tensor,
) -> None:
    """What `kernels.cudnn_convolution` computes, where there is no cuDNN; 16-bit sums are made in float32."""
    rank = len(stride)
    result = torch.ops.aten.convolution.default(
        x.float(), weight.float(), None, stride, padding, dilation, False, [0] * rank, groups
    )
    out.copy_(result)


def kernels_without_cudnn() -> SimpleNamespace:
    """The runtime's kernels, with that of cuDNN replaced."""
    return SimpleNamespace(**{**vars(kernels), "cudnn_convolution": convolution})


class CudaExecutor(Executor):
    """A model lowered for CUDA, run step by step."""

    def scope(self) -> dict[str, object]:
        """Its names; Triton finds kernels as on a device."""
        program = self.program
        functions = triton_functions(program.values, program.steps)
        names = {
            **{"torch": torch, "aten": torch.ops.aten, "kernels": kernels_without_cudnn()},
            **{"inf": float("inf"), "nan": float("nan")},
        }
        if functions:
            name = f"kernels_{id(self):x}"
            self.module = module_of(triton_module(functions), f"<{name}>", name)
            multiplying_bfloat16()
            if hasattr(self.module, "libdevice"):
                self.module.__dict__["libdevice"] = Libdevice()
            names["triton_kernels"] = self.module
        return names

    def call(self, step: Step, name: Callable[[int], str]) -> str:
        return step_text(self.program.values, step, name, "cuda")

    def close(self) -> None:
        """Forget the module of its kernels."""
        module: ModuleType | None = getattr(self, "module", None)
        if module is not None:
            forget(module)
