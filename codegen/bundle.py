"""Writing an artifact: the weights from byte 0, then a small zip archive, in one file that appears at once.

The archive's offsets count from its own begin, as for any zip file with something in front of it, so they
stay small and Python imports from it however large the weights are.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from occ.codegen.checksums import Checksums, Summing
from occ.codegen.emit import emit, emit_native, emit_triton
from occ.codegen.manifest import manifest_json
from occ.codegen.native.compiler import build
from occ.codegen.pagewriter import PageWriter
from occ.codegen.weights import Advance, WeightBytes, WeightPart
from occ.errors import UsageError
from occ.ir import Plan, Program
from occ.runtime_stub.integrity import MANIFEST, MANIFEST_DIGEST
from occ.runtime_stub.native import MEMBER as NATIVE_LIBRARY
from occ.serialize import plan_to_json, program_to_json

RUNTIME = "runtime_stub"
NATIVE_SOURCE = "native.c"
TRITON_SOURCE = "triton_kernels.py"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_artifact(
    path: Path,
    plan: Plan,
    source: Program,
    weights: WeightBytes,
    advance: Advance = lambda nbytes: None,
) -> None:
    """Write the artifact of `plan`; `source` is the unsplit program, from which other budgets are planned.
    `advance` gets the bytes of weights as they are written.

    The file appears under its name only when it is complete and on the disk; after a failure or an interrupt
    nothing is left. Equal arguments (and compilers) give equal bytes. Raises UsageError where the file cannot
    be written, and where native kernels cannot be compiled.
    """
    native = native_members(plan)
    part = WeightPart(source, weights)
    with (
        named(path),
        new_file(path) as new,
        pages_of(new.file, source.file_nbytes) as pages,
        Summing(source, part.read, pages.write) as summing,
    ):
        members = archive_members(plan, source, native)
        append_archive(new.file, plan, members, summing.sums(advance).of(plan))
        new.keep()


def native_members(plan: Plan) -> dict[str, bytes]:
    """The program's own kernels: in C as text and compiled, in Triton as text alone, which the device
    compiles; nothing where it has none.

    Raises UsageError where there is no compiler.
    """
    if kernels := emit_triton(plan):
        return {TRITON_SOURCE: kernels.encode()}
    source = emit_native(plan)
    if not source:
        return {}
    return {NATIVE_SOURCE: source.encode(), NATIVE_LIBRARY: build(source, plan.machine.native)}


def runtime_members() -> dict[str, bytes]:
    """The runtime as it stands in this installation, by member name; `__main__.py` is its integrity check."""
    folder = resources.files("occ.runtime_stub")
    files = {
        entry.name: entry.read_bytes()
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".py")
    }
    members = {f"{RUNTIME}/{name}": content for name, content in files.items()}
    return {"__main__.py": files["integrity.py"], **members}


def pages_of(file: BinaryIO, nbytes: int) -> PageWriter:
    """A writer of the first `nbytes` bytes of a file, which has them from now on."""
    os.ftruncate(file.fileno(), nbytes)
    return PageWriter(file.fileno())


def archive_members(plan: Plan, source: Program, native: dict[str, bytes]) -> dict[str, bytes]:
    """The members of an artifact's archive but those that say what its weights are; `native` are its
    `native_members`."""
    runtime = runtime_members()
    return {
        "__main__.py": runtime.pop("__main__.py"),
        "program.py": emit(plan).encode(),
        **native,
        "plan.json": plan_to_json(plan).encode(),
        "source.json": program_to_json(source).encode(),
        **runtime,
    }


def append_archive(file: BinaryIO, plan: Plan, members: dict[str, bytes], sums: Checksums) -> None:
    """Write the archive of an artifact behind its weights; `members` are its `archive_members`."""
    members = {**members, "pages.crc": sums.pages}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    manifest = manifest_json(plan, sums, digests)
    digest_line = f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()
    file.seek(plan.program.file_nbytes)
    file.write(_archive({**members, MANIFEST: manifest, MANIFEST_DIGEST: digest_line}))


def _archive(members: dict[str, bytes]) -> bytes:
    """A zip archive whose bytes depend on nothing but `members`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return stream.getvalue()


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is being written, and the name it is to have."""

    file: BinaryIO
    path: Path

    def keep(self) -> None:
        """Give the file its name, once it is on the disk."""
        self.file.flush()
        os.fchmod(self.file.fileno(), 0o644)
        os.fsync(self.file.fileno())
        os.replace(self.file.name, self.path)
        _sync_folder(self.path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[NewFile]:
    """A file beside `path`, which is gone when the block ends, unless it was kept."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    try:
        with open(temporary, "r+b") as file:
            yield NewFile(file, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Raise UsageError where the system refuses what the block does to write `path`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def check_writable(output: Path) -> None:
    """Raise UsageError where a file cannot take the name `output`: before the work, not after it."""
    if output.exists() and not output.is_file():
        raise UsageError(f"cannot write {output}: it is not a file; give the artifact another name")
    try:
        with tempfile.TemporaryFile(dir=output.absolute().parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make the new name durable too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
