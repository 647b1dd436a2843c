"""The system's C compiler: what it is, and a shared library made of a text.

Only GCC is taken. Its OpenMP calls are the ones of libgomp, which torch brings along: a library linked
without an OpenMP of its own finds torch's when it is loaded after it, so a process has one set of threads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from occ.cache import cache_dir, write_bytes
from occ.errors import InternalError, OccError, UsageError
from occ.runtime_stub.native import LEVELS

FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-shared",
    "-fopenmp",
    # Safe parts of -ffast-math: nobody reads errno or floating-point flags. NaN, infinities, signed zeros and
    # the order of additions stay what they are.
    "-fno-math-errno",
    "-fno-trapping-math",
    # Operands of other types may lie in the bytes of a result; integers wrap as torch's do.
    "-fno-strict-aliasing",
    "-fwrapv",
    "-s",
    "-nodefaultlibs",
    "-Wl,--build-id=none",
)
LIBRARIES = ("-lc", "-lm", "-lgcc")
COMPILE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C compiler: the command, and what it calls itself (`gcc 12.2.0`)."""

    command: str
    version: str


@cache
def find_compiler() -> Compiler | None:
    """The first GCC among $CC, gcc and cc; None where there is none."""
    for name in filter(None, (os.environ.get("CC"), "gcc", "cc")):
        command = shutil.which(name)
        macros = None if command is None else _macros(command)
        if command is not None and macros is not None and "__clang__" not in macros and "__GNUC__" in macros:
            parts = (macros.get(f"__GNUC{part}__", "0") for part in ("", "_MINOR", "_PATCHLEVEL"))
            return Compiler(command, f"gcc {'.'.join(parts)}")
    return None


def level_for(arch: str, features: Collection[str]) -> str:
    """The richest level of `LEVELS` for an architecture and the processor features that it has, by the names
    of /proc/cpuinfo; empty where there is none."""
    for name, level in LEVELS.items():
        if level.arch == arch and level.features.issubset(features):
            return name
    return ""


def build(source: str, level: str) -> bytes:
    """The shared library of a C text, for processors of `level`; kept in the cache.

    The same text, level and compiler give the same bytes. Raises UsageError where there is no compiler, and
    InternalError where it does not take the text.
    """
    compiler = find_compiler()
    if compiler is None:
        raise UsageError("native kernels need gcc, which is not installed; install it or use --portable")
    flags = (*FLAGS, *LEVELS[level].flags)
    identity = "\0".join((source, compiler.version, *flags, *LIBRARIES))
    name = f"native/{hashlib.sha256(identity.encode()).hexdigest()[:32]}.so"
    try:
        return (cache_dir() / name).read_bytes()
    except OSError:
        library = _compiled(compiler, source, flags)
    write_bytes(name, library)
    return library


def _compiled(compiler: Compiler, source: str, flags: tuple[str, ...]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="occ-native-") as folder:
        # Names inside the folder alone, so that nothing of the machine gets into the library.
        Path(folder, "native.c").write_text(source)
        command = [compiler.command, *flags, "-o", "native.so", "native.c", *LIBRARIES]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OccError(f"{compiler.command} cannot compile the native kernels: {error}") from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["(it says nothing)"]
            raise InternalError(f"{compiler.command} does not take the native kernels: {lines[0].strip()}")
        return Path(folder, "native.so").read_bytes()


def _macros(command: str) -> dict[str, str] | None:
    """What a C compiler defines by itself; None for a command that is none."""
    try:
        done = subprocess.run(
            [command, "-dM", "-E", "-x", "c", os.devnull],
            capture_output=True,
            text=True,
            timeout=COMPILE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    lines = (line.split(maxsplit=2) for line in done.stdout.splitlines())
    return {parts[1]: parts[2] if len(parts) > 2 else "" for parts in lines if len(parts) > 1}
