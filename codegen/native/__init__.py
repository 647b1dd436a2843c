"""Kernels in C: functions generated for one step each, compiled into the artifact.

`unit` defines what a function is and puts several into one text; `compiler` finds and runs the system's C
compiler. An entry of the kernel table with `native` generates its function with `native_function`.
"""

from __future__ import annotations

from occ.codegen.native.unit import NativeFunction, Parameter, native_function, translation_unit

__all__ = ["NativeFunction", "Parameter", "native_function", "translation_unit"]
