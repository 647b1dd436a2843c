"""What the kernel table's routes do on CUDA beyond computing: allocate, or read a value back to the host."""

from __future__ import annotations

from collections.abc import Mapping

from occ.codegen.kernels import kernel_named

PRODUCTS: Mapping[str, str] = {
    "linear": "input",
    "linear_relu": "input",
    "matmul": "input",
    "mm": "self",
    "mv": "self",
    "bmm": "self",
    "addmm": "mat1",
    "addmv": "mat",
    "baddbmm": "batch1",
    "grouped_product": "input",
}
"""Kernels of cuBLAS, which keeps one workspace; with the operand whose last dimension is summed over."""

READ_BACK = frozenset({"grouped_product"})
"""Those of them for which the host has to know numbers that the device computed."""

RECURRENT = frozenset({"lstm", "gru", "rnn"})
"""Kernels that call cuBLAS for every time step."""

CONVOLUTION = "cudnn_convolution"
"""The kernel of cuDNN, which takes a workspace at every call and gives it back."""

_IN_PLACE = frozenset(
    {
        *("copy", "fill", "cat", "stack", "concatenate", "constant_pad", "edge_pad", "roll", "repeat"),
        *("slice_scatter", "select_scatter", "masked_fill", "relu", "relu6", "affine", "where", "clamp"),
        *("clamp_min", "clamp_max", "add", "sub", "mul", "div", "minimum", "maximum", "index_copy"),
        *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"),
    }
)
"""Kernels of torch that allocate nothing and wait for nothing."""


def is_generated(kernel: str) -> bool:
    """Whether a kernel is one of a program's own."""
    return kernel_named(kernel).triton is not None


def allocates_nothing(kernel: str) -> bool:
    """Whether a kernel takes no memory of the device but what it is given; cuBLAS's workspace is counted
    apart."""
    return is_generated(kernel) or kernel in _IN_PLACE or kernel in PRODUCTS or kernel in RECURRENT


def can_be_replayed(kernel: str) -> bool:
    """Whether a kernel's launches can be recorded in a CUDA graph: the host waits for none of its results."""
    return (allocates_nothing(kernel) and kernel not in READ_BACK) or kernel == CONVOLUTION
