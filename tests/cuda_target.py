"""A GPU to plan for where there is none, and programs of it on a simulated device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from occ.target import Target, read_target
from tests.kernels.triton_modules import Libdevice, multiplying_bfloat16
from tests.lower.cuda_executor import kernels_without_cudnn
from tests.runtime.simulated_device import Simulated, SimulatedDevice, simulated

PROFILE = Path(__file__).resolve().parents[1] / "benchmarks" / "targets" / "h100-nominal.json"


def nominal() -> Target:
    """The nominal H100, with this machine's torch."""
    return replace(read_target(PROFILE), torch=str(torch.__version__))


@contextmanager
def on_simulated_device(path: Path, order: str, seed: int = 0) -> Iterator[Simulated]:
    """An artifact for CUDA on a simulated device, with what the CPU has in place of CUDA's libraries."""
    with simulated(str(path), SimulatedDevice(order, seed)) as loaded:
        names = loaded.program._globals
        names["kernels"] = kernels_without_cudnn()
        multiplying_bfloat16()
        kernels = names.get("triton_kernels")
        if hasattr(kernels, "libdevice"):
            kernels.__dict__["libdevice"] = Libdevice()
        yield loaded
