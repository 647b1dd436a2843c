"""Whether and for which processors native kernels are compiled, and their library on this machine."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from occ.codegen.emit import emit_native
from occ.codegen.native import NativeFunction, translation_unit
from occ.codegen.native.compiler import build, find_compiler, level_for
from occ.codegen.steps import native_functions
from occ.errors import ArtifactError, UsageError
from occ.host import features_of, isa
from occ.ir import Plan, Program
from occ.runtime_stub.integrity import read_member
from occ.runtime_stub.native import LEVELS, MEMBER
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


def check_library(path: str, plan: Plan) -> bool | None:
    """Whether the library in the artifact at `path` is what its plan's kernels are compiled to; None where it
    has none, or this machine does not have the compiler that made it.

    Raises ArtifactError where it is another.
    """
    level, compiler = plan.machine.native, find_compiler()
    if not level:
        return None
    here = compiler is not None and compiler.version == plan.machine.compiler
    if not here or LEVELS[level].arch != platform.machine():
        return None
    if build(emit_native(plan), level) != read_member(path, MEMBER):
        raise ArtifactError(
            f"{path}: {MEMBER} is not what this machine's {plan.machine.compiler} makes of its text: it was"
            " altered, or made by another build of that compiler; compile the model again"
        )
    return True
