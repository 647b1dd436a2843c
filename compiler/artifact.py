"""Opening an artifact that somebody else may have made: nothing of it runs before all of it is checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import occ
from occ.codegen.addresses import Addresses
from occ.codegen.bundle import NATIVE_SOURCE, TRITON_SOURCE, runtime_members
from occ.codegen.checksums import Checksums, Summing, Sums, compare
from occ.codegen.emit import emit, emit_native, emit_triton
from occ.codegen.manifest import manifest_json
from occ.codegen.weights import Advance
from occ.errors import ArtifactError, OccError, UsageError
from occ.ir import Plan, Program
from occ.runtime_stub.integrity import DamageError, check_archive, read_member
from occ.runtime_stub.jobs import table_pages
from occ.runtime_stub.native import MEMBER as NATIVE_LIBRARY
from occ.runtime_stub.storage import WeightFile
from occ.serialize import plan_from_json, program_from_json

_NATIVE = (NATIVE_SOURCE, NATIVE_LIBRARY)
_KERNELS = (*_NATIVE, TRITON_SOURCE)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A checked artifact. `plan` is what it runs, `source` the unsplit program that it was planned from,
    `text` the program's text, `page_crcs` the checksums of the tables that stay in the file."""

    path: str
    plan: Plan
    source: Program
    manifest: dict[str, Any]
    text: str
    page_crcs: bytes

    @property
    def checksums(self) -> Checksums:
        """Those of the weight part."""
        return Checksums.recorded(self.manifest, self.page_crcs)


def open_artifact(path: str | Path) -> Artifact:
    """Check an artifact's structure, plan, program, runtime and manifest; its weights are not read.

    Raises ArtifactError, in one line, for anything that is not exactly what occ writes, and UsageError where
    the file cannot be read.
    """
    path = str(path)
    try:
        manifest = check_archive(path)
        members = {
            name: read_member(path, name) for name in ("plan.json", "source.json", "program.py", "pages.crc")
        }
        native = {name: read_member(path, name) for name in _KERNELS if name in manifest["members"]}
        runtime = {
            name: read_member(path, name)
            for name in manifest["members"]
            if name not in members and name not in native
        }
    except DamageError as error:
        raise ArtifactError(str(error)) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if manifest.get("occ") != occ.__version__:
        raise ArtifactError(
            f"{path} was made by occ {manifest.get('occ')} and this is occ {occ.__version__};"
            " compile the model again"
        )
    try:
        plan = plan_from_json(members["plan.json"])
        source = program_from_json(members["source.json"])
        _verify(plan)
        _check_source(plan, source)
        text = emit(plan)
        kernels = emit_native(plan).encode() + emit_triton(plan).encode()
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    except (OccError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        # Whatever a made-up plan trips over, in the verifier or the printer, it is the plan's fault.
        raise ArtifactError(f"{path} holds a plan that is not sound: {error}") from error
    if text.encode() != members["program.py"]:
        raise ArtifactError(f"{path}: program.py is not the program of its plan; compile the model again")
    on_cpu = plan.machine.device == "cpu"
    kernel_source, expected = (NATIVE_SOURCE, _NATIVE) if on_cpu else (TRITON_SOURCE, (TRITON_SOURCE,))
    if native.get(kernel_source, b"") != kernels or set(native) != (set(expected) if kernels else set()):
        raise ArtifactError(
            f"{path}: {kernel_source} is not the text of its plan's kernels; compile the model again"
        )
    if runtime != runtime_members():
        raise ArtifactError(f"{path}: its runtime is not that of occ {occ.__version__}; compile it again")
    artifact = Artifact(path, plan, source, manifest, text, members["pages.crc"])
    _check_manifest(artifact)
    return artifact


def check_weights(artifact: Artifact, advance: Advance = lambda nbytes: None) -> None:
    """Read all weights of an artifact and compare them with its checksums; `advance` gets the bytes as they
    are read.

    Raises ArtifactError naming the first tile, state or page that differs, and UsageError where the file
    cannot be read.
    """
    with opened_weights(artifact.path) as weights, Summing(artifact.source, weights.read_pages) as summing:
        checked_sums(artifact, summing, advance)


@contextmanager
def opened_weights(path: str) -> Iterator[WeightFile]:
    """The weights of the artifact at `path`, to be read. Raises UsageError where it cannot be opened."""
    try:
        weights = WeightFile(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    with closing(weights):
        yield weights


def checked_sums(artifact: Artifact, summing: Summing, advance: Advance) -> Sums:
    """What `summing` finds in the weights of an artifact, when it has read them and they are what was
    recorded. Raises ArtifactError where they are not."""
    try:
        sums = summing.sums(advance)
    except DamageError as error:
        raise ArtifactError(str(error)) from error
    compare(artifact.path, artifact.plan, sums.of(artifact.plan), artifact.checksums)
    return sums


def _verify(plan: Plan) -> None:
    # Imported here, so that the data types and the writer do not pull the verifier in.
    from occ.verify import verify

    verify(plan)


def _check_source(plan: Plan, source: Program) -> None:
    """The unsplit program must be of the same model and the same weights as the plan."""
    for name in (
        "name",
        "grains",
        "file_nbytes",
        "weights_nbytes",
        "activation_peak",
        "input_tree",
        "output_tree",
    ):
        if getattr(plan.program, name) != getattr(source, name):
            raise ArtifactError(f"plan.json and source.json differ in {name}")


def _check_manifest(artifact: Artifact) -> None:
    """The manifest must be what occ writes for this plan, but for checksums, which only have to fit in."""
    manifest = artifact.manifest
    counts = (len(artifact.plan.sizing.tiles), len(artifact.plan.program.states))
    if not _is_crc(manifest.get("rest_crc")):
        raise ArtifactError(f"{artifact.path}: the manifest does not hold the checksum of the rest")
    sums = [manifest.get(key) for key in ("tile_crcs", "state_crcs")]
    for found, count in zip(sums, counts, strict=True):
        if not isinstance(found, list) or len(found) != count or not all(_is_crc(crc) for crc in found):
            raise ArtifactError(f"{artifact.path}: the manifest does not hold {count} checksums")
    pages = sum(
        len(table_pages(table.file_offset, table.row_nbytes, table.rows))
        for table in Addresses(artifact.plan).stored
    )
    if len(artifact.page_crcs) != 4 * pages:
        raise ArtifactError(f"{artifact.path}: pages.crc does not hold {pages} checksums")
    wanted = json.loads(manifest_json(artifact.plan, artifact.checksums, manifest["members"]))
    if manifest != wanted:
        raise ArtifactError(f"{artifact.path}: manifest.json is not the manifest of its plan")


def _is_crc(number: object) -> bool:
    return type(number) is int and 0 <= number < 1 << 32
