"""Small libraries in C that occ brings as source and compiles for itself, once a machine."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from occ.cache import cache_dir, write_bytes


def built(source: Path, works: Callable[[Path], bool]) -> Path | None:
    """The shared library of a C source, in the cache; None where there is no C compiler, or what it makes is
    not one that `works`: it may be for another C library than Python's.

    Raises UsageError where the cache cannot be written.
    """
    text = source.read_bytes()
    digest = hashlib.sha256(text + platform.machine().encode()).hexdigest()
    name = f"{source.stem}-{digest[:16]}.so"
    if (cache_dir() / name).exists():
        return cache_dir() / name
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / name
        command = [compiler, "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-o", str(made), str(source)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0 or not works(made):
            return None
        return write_bytes(name, made.read_bytes())
