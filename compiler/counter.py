"""The malloc counter: a small library, preloaded under a process, that knows how much it has allocated.

It sees what every library of the process allocates, oneDNN and MKL included.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from occ.clibrary import built

SOURCE = Path(__file__).with_name("malloc_counter.c")
LIBRARY = "OCC_MALLOC_COUNTER"
"""Environment variable that tells a process where the library preloaded under it lies."""


def counter_settings() -> dict[str, str | None]:
    """Environment of a process to be counted; empty where no C compiler builds the library.

    Python's own allocator is switched off, so that each object counts by itself.
    """
    library = built(SOURCE, _preloads)
    if library is None:
        return {}
    preloaded = filter(None, [str(library), os.environ.get("LD_PRELOAD")])
    return {"LD_PRELOAD": ":".join(preloaded), LIBRARY: str(library), "PYTHONMALLOC": "malloc"}


class Counter:
    """The counter that was preloaded under this process."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        for name in ("live", "peak", "large"):
            getattr(self._library, f"occ_counter_{name}").restype = ctypes.c_longlong
        self._begin = 0
        self.reset()

    def reset(self) -> None:
        """Begin to count: what is allocated from now on."""
        self._library.occ_counter_reset()
        self._begin = self._library.occ_counter_live()

    def peak(self) -> int:
        """The most bytes that were allocated at once since the reset, above what was allocated at it."""
        return int(self._library.occ_counter_peak()) - self._begin

    def large(self) -> int:
        """Allocations of 64 KiB or more since the reset."""
        return int(self._library.occ_counter_large())


def preloaded_counter() -> Counter | None:
    """This process's counter, where it was started with `counter_settings`."""
    library = os.environ.get(LIBRARY)
    return Counter(library) if library else None


def _preloads(library: Path) -> bool:
    done = subprocess.run(
        ["true"], env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, check=False
    )
    return done.returncode == 0 and not done.stderr
