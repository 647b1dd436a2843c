"""The part of a target profile that describes a GPU: what its memory, its products and its link are like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

from occ.ir import Reader
from occ.units import format_bytes, format_seconds

PRODUCT_DTYPES = ("float32", "float16", "bfloat16", "float64")
"""Types whose matrix products have a rate of their own."""


@dataclass(frozen=True)
class Accelerator:
    """A CUDA device as plans see it.

    `name` is the driver's, `capability` the compute capability ("9.0"), `total_nbytes` its memory and
    `context_nbytes` what driver, libraries and kernels take of that before anything is allocated.
    `product_rates` maps types to operations a second of a matrix product, `memory_rate` is bytes a second
    read and written by an element-wise kernel. `launch` is the seconds from one kernel to the next when
    nothing is computed. Copies from pinned host memory take `copy_overhead` seconds and move
    `copy_bandwidth` bytes a second; computing takes `copy_slowdown` (at least 1) times as long beside them.
    `cublas_workspace_nbytes` is the workspace that cuBLAS gets and `convolution_nbytes` the most that a
    convolution of cuDNN may take; `measured` says that the figures were measured and not written from a
    data sheet. With `integrated`, host memory is device memory.
    """

    name: str
    capability: str
    total_nbytes: int
    context_nbytes: int
    product_rates: Mapping[str, float]
    memory_rate: float
    launch: float
    copy_bandwidth: float
    copy_overhead: float
    copy_slowdown: float
    cublas_workspace_nbytes: int
    convolution_nbytes: int
    measured: bool
    integrated: bool = False

    @property
    def copier(self) -> Reader:
        """Copies from pinned host memory, as the time model takes them."""
        return Reader(self.copy_bandwidth, self.copy_overhead, self.copy_slowdown)

    def product_rate(self, dtype: str) -> float:
        """Operations a second of a matrix product in a type; that of float32 where it has none of its own."""
        return self.product_rates.get(dtype, self.product_rates["float32"])

    def summary(self) -> str:
        """One line for people."""
        return (
            f"{self.name} ({self.capability}{'' if self.measured else ', nominal figures'}),"
            f" {format_bytes(self.total_nbytes)}; copies {format_bytes(round(self.copy_bandwidth))}/s +"
            f" {format_seconds(self.copy_overhead)}, a launch {format_seconds(self.launch)}"
        )


def reader_for(storage: Reader, accelerator: Accelerator, stream_from: str) -> Reader:
    """How weights reach the device: from storage through pinned memory ("ssd"), or from pinned memory.

    The slower of two stages that overlap sets the rate, and one request passes through both.
    """
    copier = accelerator.copier
    if stream_from == "host":
        return copier
    return Reader(
        bandwidth=min(storage.bandwidth, copier.bandwidth),
        overhead=storage.overhead + copier.overhead,
        slowdown=copier.slowdown,
    )


def accelerator_from_json(content: Any) -> Accelerator:
    """The device that a profile describes. Raises KeyError, TypeError or ValueError for what is none."""
    rates = {str(dtype): float(rate) for dtype, rate in content["product_rates"].items()}
    known = {field.name for field in fields(Accelerator)}
    if not known.issuperset(content):
        raise ValueError(f"the accelerator has {', '.join(sorted(set(content) - known))}, which is unknown")
    found = Accelerator(
        name=str(content["name"]),
        capability=str(content["capability"]),
        total_nbytes=int(content["total_nbytes"]),
        context_nbytes=int(content["context_nbytes"]),
        product_rates=rates,
        memory_rate=float(content["memory_rate"]),
        launch=float(content["launch"]),
        copy_bandwidth=float(content["copy_bandwidth"]),
        copy_overhead=float(content["copy_overhead"]),
        copy_slowdown=float(content["copy_slowdown"]),
        cublas_workspace_nbytes=int(content["cublas_workspace_nbytes"]),
        convolution_nbytes=int(content["convolution_nbytes"]),
        measured=bool(content["measured"]),
        integrated=bool(content["integrated"]),
    )
    if "float32" not in rates:
        raise ValueError("product_rates lacks float32")
    paces = (*rates.values(), found.memory_rate, found.copy_bandwidth)
    if not all(pace > 0 and isfinite(pace) for pace in paces):
        raise ValueError("a rate of the accelerator is not above zero")
    if min(found.launch, found.copy_overhead) < 0 or found.copy_slowdown < 1:
        raise ValueError(
            f"launch is {found.launch:g}, copy_overhead {found.copy_overhead:g} and copy_slowdown"
            f" {found.copy_slowdown:g}"
        )
    sizes = (
        found.total_nbytes,
        found.context_nbytes,
        found.cublas_workspace_nbytes,
        found.convolution_nbytes,
    )
    if min(sizes) < 0:
        raise ValueError("a size of the accelerator is below zero")
    return found
