"""The check of an artifact before anything of it is used; also the artifact's `__main__.py`, as it stands.

An artifact is the weights, from byte 0, followed by a zip archive. The archive's `manifest.json` holds a
SHA-256 per member and `manifest.sha256` that of the manifest. This finds damage; a program cannot vouch for
itself against someone who rewrites both (`occ verify` makes every member again from the plan).
Standard library only, and no import of a neighbour: as `__main__` it runs before they are checked.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.sha256"
_CHUNK = 1 << 20
_END_RECORD = b"PK\x05\x06"
_END_NBYTES = 22
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


class DamageError(Exception):
    """The artifact is truncated, altered or not an artifact."""

    exit_code = 4


def check_archive(path: str) -> dict[str, Any]:
    """The manifest of the artifact at `path`, after every member was found to be what it says.

    The weights are not read here; the loader checks every tile before its first use. Raises DamageError,
    and OSError where the file cannot be opened.
    """
    with open(path, "rb") as file, _damage_named(path):
        return _checked_manifest(path, file)


def read_member(path: str, name: str) -> bytes:
    """The bytes of one archive member. Raises DamageError where it cannot be read."""
    with open(path, "rb") as file, _damage_named(path), zipfile.ZipFile(file) as archive:
        return archive.read(name)


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    """Raise what reading a damaged archive raises as DamageError."""
    try:
        yield
    except _BROKEN as error:
        raise DamageError(f"{path} is damaged: {_line(error)}; copy or compile it again") from error
    except OSError as error:
        # A damaged offset may lie before the file's begin, where nothing can be sought.
        if error.errno != errno.EINVAL:
            raise
        raise DamageError(f"{path} is damaged: {_line(error)}; copy or compile it again") from error


def _checked_manifest(path: str, file: BinaryIO) -> dict[str, Any]:
    _check_end(path, file)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        manifest_bytes = archive.read(MANIFEST)
        listed = archive.read(MANIFEST_DIGEST).decode("ascii").split()
        if listed[:1] != [hashlib.sha256(manifest_bytes).hexdigest()]:
            raise DamageError(f"{path} is damaged: {MANIFEST} does not have the SHA-256 in {MANIFEST_DIGEST}")
        manifest: dict[str, Any] = json.loads(manifest_bytes)
        if manifest["format"] != FORMAT:
            raise DamageError(
                f"{path} has format {manifest['format']} and this program reads {FORMAT}; compile it again"
            )
        members: dict[str, str] = manifest["members"]
        if sorted(names) != sorted([*members, MANIFEST, MANIFEST_DIGEST]):
            raise DamageError(f"{path} is damaged: its archive holds other members than {MANIFEST} lists")
        for name, digest in members.items():
            if _member_digest(archive, name) != digest:
                raise DamageError(f"{path} is damaged: member {name} does not have the SHA-256 in {MANIFEST}")
        start = min(info.header_offset for info in archive.infolist())
        if start != manifest["weights_nbytes"]:
            raise DamageError(
                f"{path} is damaged: its weights take {start} bytes where {MANIFEST} says"
                f" {manifest['weights_nbytes']}"
            )
    return manifest


def _check_end(path: str, file: BinaryIO) -> None:
    """The file must end with the archive's end record: nothing is cut off, nothing follows."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _END_NBYTES))
    end = file.read(_END_NBYTES)
    if len(end) < _END_NBYTES or not end.startswith(_END_RECORD) or end[-2:] != b"\0\0":
        raise DamageError(f"{path} is no artifact or is cut off: its {size} bytes do not end with an archive")


def _member_digest(archive: zipfile.ZipFile, name: str) -> str:
    digest = hashlib.sha256()
    with archive.open(name) as member:
        while chunk := member.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def main() -> int:
    """Check the archive this file was run from, then hand over to the runtime in it."""
    path = os.path.dirname(os.path.abspath(__file__))
    if sys.version_info < (3, 10):  # noqa: UP036 - an artifact meets whatever Python a device has
        print(f"error: Python 3.10 or newer is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    try:
        manifest = check_archive(path)
    except DamageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: cannot read {path}: {error}", file=sys.stderr)
        return 2
    entry = importlib.import_module("runtime_stub.entry")
    return int(entry.main(path, manifest, sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
