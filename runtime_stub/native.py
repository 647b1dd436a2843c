"""The program's own kernels: a library compiled from the artifact's `native.c`, loaded from memory.

The library has no OpenMP of its own. It is loaded after torch and finds torch's, so that the process has one
set of threads.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from .errors import MachineError

MEMBER = "native.so"
"""The archive member that the library is."""


@dataclass(frozen=True)
class Level:
    """Processors that one library runs on: `features` are what /proc/cpuinfo calls them, `flags` those of the
    compiler."""

    arch: str
    features: frozenset[str]
    flags: tuple[str, ...]


_AVX2 = frozenset({"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})

LEVELS = {
    "x86-64-v4": Level(
        "x86_64", _AVX2 | _AVX512, ("-march=x86-64-v4", "-mtune=generic", "-mprefer-vector-width=512")
    ),
    "x86-64-v3": Level("x86_64", _AVX2, ("-march=x86-64-v3", "-mtune=generic")),
    "x86-64": Level("x86_64", frozenset(), ("-march=x86-64", "-mtune=generic")),
    "armv8-a": Level("aarch64", frozenset({"asimd"}), ("-march=armv8-a",)),
}
"""By name, of each architecture the richest first. The names are GCC's for -march."""


class Native:
    """The functions of a library as attributes, by symbol; each takes a tensor for each of its parameters.

    A call takes about a microsecond besides the function's own time. Raises MachineError where the system
    does not load the library.
    """

    def __init__(self, content: bytes) -> None:
        # A name that was loaded once means the same library to the system's loader while that is in use, so
        # the descriptor, which is part of the name, stays open as long.
        self._descriptor = os.memfd_create("native.so")
        try:
            with open(self._descriptor, "wb", closefd=False) as file:
                file.write(content)
            self._library = ctypes.CDLL(f"/proc/self/fd/{self._descriptor}")
        except OSError as error:
            os.close(self._descriptor)
            raise MachineError(
                f"the program's native kernels cannot be loaded ({error}); compile it again with --portable"
            ) from error

    def __getattr__(self, symbol: str) -> Callable[..., None]:
        """Called once for each symbol: what it returns becomes the attribute."""
        if symbol.startswith("_"):
            raise AttributeError(symbol)
        function: Any = self._library[symbol]
        function.restype = None

        def first_call(*tensors: Any) -> None:
            function.argtypes = [ctypes.c_void_p] * len(tensors)
            caller = _of_addresses(len(tensors))(function)
            setattr(self, symbol, caller)
            caller(*tensors)

        return first_call

    def close(self) -> None:
        """Unload the library; none of its functions may be called afterwards."""
        if self._descriptor >= 0:
            _ctypes.dlclose(self._library._handle)
            os.close(self._descriptor)
            self._descriptor = -1


@cache
def _of_addresses(count: int) -> Callable[[Any], Callable[..., None]]:
    """From a function of `count` addresses to one of `count` tensors: written out, it costs half as much as
    one that takes any number."""
    names = [f"t{index}" for index in range(count)]
    addresses = ", ".join(f"{name}.data_ptr()" for name in names)
    made: Callable[[Any], Callable[..., None]] = eval(f"lambda f: lambda {', '.join(names)}: f({addresses})")
    return made


def check_level(name: str) -> None:
    """Raise MachineError where this processor lacks what kernels for level `name` use."""
    level = LEVELS.get(name)
    if level is None:
        raise MachineError(f"the program's native kernels are for {name!r}, which this runtime does not know")
    if platform.machine() != level.arch:
        raise MachineError(
            f"the program's native kernels are for {level.arch} ({name}) and this machine is"
            f" {platform.machine()}; compile with --target for it, or --portable"
        )
    missing = sorted(level.features - processor_features())
    if missing:
        raise MachineError(
            f"the program's native kernels are for {name} and this processor lacks {', '.join(missing)};"
            " compile with --target for it, or --portable"
        )


def processor_features() -> frozenset[str]:
    """What /proc/cpuinfo lists for the first processor; empty where it cannot be read."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, listed = line.partition(":")
                if key.strip() in ("flags", "Features"):
                    return frozenset(listed.split())
    except OSError:
        pass
    return frozenset()
