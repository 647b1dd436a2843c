"""The cache directory: what was measured on this machine, and the small tools built for measuring.

Everything in it can be deleted at any time and is made again when it is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from occ.errors import UsageError


def cache_dir() -> Path:
    """$OCC_CACHE_DIR, else $XDG_CACHE_HOME/occ, else ~/.cache/occ. It need not exist."""
    if chosen := os.environ.get("OCC_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser().absolute() / "occ"
    return Path.home() / ".cache" / "occ"


def cache_nbytes() -> int:
    """Bytes of all files in the cache directory."""
    return sum(path.stat().st_size for path in cache_dir().rglob("*") if path.is_file())


def clear() -> int:
    """Delete the cache directory; the bytes that its files had."""
    nbytes = cache_nbytes()
    if cache_dir().is_dir():
        shutil.rmtree(cache_dir())
    return nbytes


def write_json(name: str, content: object) -> Path:
    """Write `content` as file `name` of the cache directory, at once or not at all; where it lies.

    Raises UsageError where the directory cannot be written.
    """
    return write_bytes(name, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def write_bytes(name: str, content: bytes) -> Path:
    """Write file `name` of the cache directory, at once or not at all; where it lies.

    Two processes may write the same file: readers see one of the two, whole. Raises UsageError where the
    directory cannot be written.
    """
    path = cache_dir() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        raise UsageError(
            f"cannot write {path} ({error.strerror}); set OCC_CACHE_DIR to a directory that can be written"
        ) from error
    return path


def read_json(name: str) -> object | None:
    """The content of file `name`, or None where it is absent or damaged."""
    try:
        content: object = json.loads((cache_dir() / name).read_bytes())
    except (OSError, ValueError):
        return None
    return content
