"""Whether and for which processors native kernels are compiled, and their library on this machine."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from occ.codegen.native import NativeFunction, translation_unit
from occ.codegen.native.compiler import build, find_compiler, level_for
from occ.codegen.steps import native_functions
from occ.errors import UsageError
from occ.host import features_of, isa
from occ.ir import Program
from occ.target import Target


def native_level(target: Target) -> str:
    """The level (see `occ.runtime_stub.native.LEVELS`) that native kernels for a target are compiled for;
    empty where this machine cannot compile for it."""
    if find_compiler() is None or target.arch != platform.machine():
        return ""
    return level_for(target.arch, features_of(target.isa))


def native_settings(program: Program, target: Target) -> tuple[str, str]:
    """Level and compiler of a program's native kernels; two empty texts where it has none.

    Raises UsageError where it has some and this machine cannot compile them for the target.
    """
    if not native_functions(program.values, program.steps):
        return "", ""
    level, compiler = native_level(target), find_compiler()
    if compiler is None:
        raise UsageError(
            f"{program.name} has native kernels and there is no gcc to compile them with; install it, or"
            " compile the model with --portable"
        )
    if not level:
        raise UsageError(
            f"{program.name} has native kernels, which this {platform.machine()} machine cannot compile for a"
            f" target that is {target.arch}; compile the model there, or with --portable"
        )
    return level, compiler.version


def local_library(functions: Iterable[NativeFunction]) -> bytes:
    """Native kernels compiled for this machine, to be run by the compiler itself. Raises UsageError where
    there is no C compiler."""
    return build(translation_unit(functions), level_for(platform.machine(), features_of(isa())))
