"""Kernels in Triton: functions generated for one step each, for programs that run on a GPU.

`unit` defines what a function is and puts several into the text of one module; `device/` has the functions
that kernels share, as they run on the device. An entry of the kernel table with `triton` generates its
function with `triton_function`. Nothing here imports Triton: the texts do, where they run.
"""

from __future__ import annotations

from occ.codegen.triton.unit import Launch, TritonFunction, triton_function, triton_module

__all__ = ["Launch", "TritonFunction", "triton_function", "triton_module"]
