"""Artifacts: written whole or not at all, and refused when one byte of them is not what it was."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import compress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from occ.artifact import check_weights, open_artifact
from occ.codegen.addresses import Addresses
from occ.codegen.bundle import runtime_members, write_artifact
from occ.codegen.checksums import Summing
from occ.codegen.crc32 import joined
from occ.codegen.weights import WeightPart
from occ.errors import ArtifactError, BudgetError, InternalError, OccError, UsageError
from occ.replanning import replan_artifact, replanning
from occ.runtime_stub.jobs import table_pages
from tests.tiny_plans import EXAMPLES, Example, mlp


def write(example: Example, path: Path) -> Path:
    write_artifact(path, example.plan, example.plan.program, example.weight_bytes)
    return path


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write(mlp(), tmp_path / "mlp.occ")


@pytest.mark.parametrize("name", EXAMPLES)
def test_written_artifacts_open(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]()
    path = write(example, tmp_path / "model.occ")
    opened = open_artifact(path)
    assert opened.plan == example.plan
    assert opened.source == example.plan.program
    check_weights(opened)


def test_equal_plans_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (write(mlp(), tmp_path / name).read_bytes() for name in ("a.occ", "b.occ"))
    assert first == second


def test_weights_lie_where_the_grains_say(artifact: Path) -> None:
    example, content = mlp(), artifact.read_bytes()
    for grain in example.plan.program.grains:
        piece = example.weight_bytes(grain.weight)[grain.first : grain.end]
        assert content[grain.file_offset : grain.file_offset + grain.nbytes] == piece


def test_overlapping_and_short_weights_are_bugs() -> None:
    example = mlp()
    program = example.plan.program
    moved = replace(program.grains[1], file_offset=0)
    overlapping = replace(program, grains=(program.grains[0], moved))
    with pytest.raises(InternalError, match="before byte"):
        WeightPart(overlapping, example.weight_bytes)
    with pytest.raises(InternalError, match="has 4 bytes"):
        WeightPart(program, lambda buffer: memoryview(bytes(4))).read(memoryview(bytearray(4096)), 0)


def test_any_changed_byte_of_a_member_is_found(artifact: Path) -> None:
    content = artifact.read_bytes()
    random = Random(0)
    begin = mlp().plan.program.file_nbytes
    with zipfile.ZipFile(io.BytesIO(content[begin:])) as archive:
        members = archive.infolist()
    for member in members:
        # The member's bytes follow a header of 30 bytes and its name.
        first = begin + member.header_offset + 30 + len(member.filename)
        for _ in range(4 if member.compress_size else 0):
            damaged = bytearray(content)
            damaged[first + random.randrange(member.compress_size)] ^= 1 << random.randrange(8)
            artifact.write_bytes(content)
            assert_refused_or_same(artifact, bytes(damaged))


def assert_refused_or_same(path: Path, damaged: bytes) -> None:
    """Bytes that no reader uses (time stamps, the padding of a compressed stream) may differ; what the
    members say may not, and nothing but an ArtifactError of one line may come out."""
    before = open_artifact(path)
    contents = members_of(path)
    path.write_bytes(damaged)
    try:
        opened = open_artifact(path)
    except ArtifactError as error:
        if "\n" in str(error):
            raise AssertionError("an error of several lines") from error
    else:
        assert opened == before
        assert members_of(path) == contents


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_damage_anywhere_in_the_archive_is_no_other_exception(artifact: Path) -> None:
    content = artifact.read_bytes()
    begin = mlp().plan.program.file_nbytes
    random = Random(1)
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(random.choice((1, 1, 8))):
            damaged[random.randrange(begin, len(damaged))] = random.randrange(256)
        artifact.write_bytes(content)
        assert_refused_or_same(artifact, bytes(damaged))


def test_truncated_and_extended_files_are_refused(artifact: Path) -> None:
    content = artifact.read_bytes()
    lengths = [0, 1, 21, 22, 4096, 659456, len(content) - 1, *range(659456, len(content), 997)]
    for length in lengths:
        artifact.write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            open_artifact(artifact)
    for wrong in (content + b"\0", content[4096:], b"\0" * 4096 + content):
        artifact.write_bytes(wrong)
        with pytest.raises(ArtifactError):
            open_artifact(artifact)


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        open_artifact(tmp_path / "none.occ")


def forge(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change members and make every digest right again, as an attacker would."""
    members = members_of(path)
    change(members)
    manifest = json.loads(members["manifest.json"])
    others = [name for name in members if name not in ("manifest.json", "manifest.sha256")]
    manifest["members"] = {name: hashlib.sha256(members[name]).hexdigest() for name in others}
    members["manifest.json"] = json.dumps(manifest).encode()
    members["manifest.sha256"] = hashlib.sha256(members["manifest.json"]).hexdigest().encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    weights = path.read_bytes()[: manifest["weights_nbytes"]]
    path.write_bytes(weights + stream.getvalue())


def _append(name: str, text: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: members.get(name, b"") + text})


def _replace(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        assert old in members[name]
        members[name] = members[name].replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_append("program.py", b"\nimport os\n"), "not the program of its plan"),
        (_append("runtime_stub/loader.py", b"\n# hello\n"), "its runtime is not that"),
        (_append("__main__.py", b"\n"), "its runtime is not that"),
        (_append("runtime_stub/extra.py", b"\n"), "its runtime is not that"),
        (_append("pages.crc", b"1234"), "checksums"),
        (_replace("plan.json", b'"relu"', b'"bogus"'), "not sound"),
        (_replace("plan.json", b'"issue":1', b'"issue":0'), "not sound"),
        (_replace("plan.json", b'["self",', b'["other",'), "not sound"),
        (_replace("plan.json", b"[0,0,524288]", b"[4096,0,524288]"), "not sound"),
        (_replace("source.json", b'"name": "mlp"', b'"name": "mlq"'), "differ in name"),
        (_replace("manifest.json", b'"arena_nbytes": 540672', b'"arena_nbytes": 4096'), "not the manifest"),
        (_replace("manifest.json", b'"tile_crcs": [', b'"tile_crcs": [1, '), "checksums"),
        (_replace("manifest.json", b'"rest_crc": ', b'"rest_crc": 0.'), "checksum of the rest"),
    ],
)
def test_forged_artifacts_are_refused(
    artifact: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    forge(artifact, lambda members: None)
    open_artifact(artifact)
    forge(artifact, change)
    with pytest.raises(ArtifactError, match=message):
        open_artifact(artifact)


def test_damaged_weights_are_named(artifact: Path) -> None:
    opened = open_artifact(artifact)
    content = bytearray(artifact.read_bytes())
    content[524288 + 77] ^= 1
    artifact.write_bytes(content)
    with pytest.raises(ArtifactError, match="tile 1 "):
        check_weights(opened)


def test_damage_in_weights_that_the_plan_does_not_read_is_found(tmp_path: Path) -> None:
    """As another plan may read them. Here it is a page behind all others."""
    example = mlp()
    end = example.plan.program.file_nbytes
    longer = replace(example.plan.program, file_nbytes=end + 4096)
    example = replace(example, plan=replace(example.plan, program=longer))
    path = write(example, tmp_path / "mlp.occ")
    opened = open_artifact(path)
    check_weights(opened)
    content = bytearray(path.read_bytes())
    content[end + 99] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="does not read have changed"):
        check_weights(opened)
    with pytest.raises(ArtifactError, match="does not read have changed"):
        replan_artifact(opened, tmp_path / "new.occ", example.plan)
    assert os.listdir(tmp_path) == ["mlp.occ"]


@pytest.mark.parametrize("refused", ["when opened", "when written"])
def test_file_systems_without_direct_writes(
    refused: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, buffered."""
    really_open, really_pwrite, direct = os.open, os.pwrite, set[int]()

    def opened(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_DIRECT and flags & os.O_WRONLY and refused == "when opened":
            raise OSError(errno.EINVAL, "Invalid argument")
        descriptor = really_open(path, flags, *args, **kwargs)
        if flags & os.O_DIRECT:
            direct.add(descriptor)
        return descriptor

    def written(descriptor: int, content: memoryview, offset: int) -> int:
        if descriptor in direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        return really_pwrite(descriptor, content, offset)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "pwrite", written)
    assert write(mlp(), tmp_path / "again.occ").read_bytes() == artifact.read_bytes()


@pytest.mark.parametrize("name", EXAMPLES)
def test_checksums_are_those_of_the_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the blocks are in which they are read, and for several plans at once."""
    monkeypatch.setattr("occ.codegen.checksums.BLOCK_NBYTES", 3 * 4096)
    example = EXAMPLES[name]()
    plan = example.plan
    coarse = replace(plan, sizing=replace(plan.sizing, tiles=plan.sizing.tiles[:1]))
    content = memoryview(bytearray(plan.program.file_nbytes))
    part = WeightPart(plan.program, example.weight_bytes)
    part.read(content, 0)
    written = memoryview(bytearray(len(content)))

    def write(block: memoryview, offset: int) -> None:
        written[offset : offset + len(block)] = block

    with Summing(plan.program, part.read, write) as summing:
        sums = summing.sums()
    assert written == content
    for each in (plan, coarse):
        found = sums.of(each)
        tiles = [(tile.file_offset, tile.nbytes) for tile in each.sizing.tiles]
        states = [
            (state.file_offset, plan.program.buffers[state.buffer].nbytes)
            for state in plan.program.states
            if state.file_offset is not None
        ]
        pages = [
            (page, 4096)
            for table in Addresses(each).stored
            for page in table_pages(table.file_offset, table.row_nbytes, table.rows)
        ]
        assert found.tiles == tuple(zlib.crc32(content[first:][:nbytes]) for first, nbytes in tiles)
        assert [crc for crc in found.states if crc] == [zlib.crc32(content[f:][:n]) for f, n in states]
        assert found.pages == b"".join(
            zlib.crc32(content[first:][:nbytes]).to_bytes(4, "little") for first, nbytes in pages
        )
        uncovered = bytearray(b"\1" * len(content))
        for first, nbytes in (*tiles, *states, *pages):
            uncovered[first : first + nbytes] = bytes(nbytes)
        assert found.rest == zlib.crc32(bytes(compress(content, uncovered)))


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_checksums_of_parts_are_joined(parts: list[bytes]) -> None:
    crc = 0
    for part in parts:
        crc = joined(crc, zlib.crc32(part), len(part))
    assert crc == zlib.crc32(b"".join(parts))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    example = mlp()
    target = tmp_path / "mlp.occ"
    target.write_bytes(b"the one before")

    def failing(buffer: int) -> memoryview:
        if buffer == 3:
            raise KeyboardInterrupt
        return example.weight_bytes(buffer)

    with pytest.raises(KeyboardInterrupt):
        write_artifact(target, example.plan, example.plan.program, failing)
    assert os.listdir(tmp_path) == ["mlp.occ"]
    assert target.read_bytes() == b"the one before"


def test_a_folder_that_does_not_exist_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        write(mlp(), tmp_path / "none" / "mlp.occ")


def test_replanning_keeps_the_weights(artifact: Path, tmp_path: Path) -> None:
    plan = mlp().plan
    roomier = replace(
        plan,
        sizing=replace(plan.sizing, resident=(0, 1, 2), loads=(), pool_nbytes=679936),
        tile_offsets=(0, 540672, 524288),
        budget=replace(plan.budget, arena=679936),
        prediction=replace(plan.prediction, streamed_nbytes=0),
    )
    target = tmp_path / "roomier.occ"
    replan_artifact(open_artifact(artifact), target, roomier)
    opened = open_artifact(target)
    assert opened.plan == roomier
    check_weights(opened)
    nbytes = plan.program.file_nbytes
    assert target.read_bytes()[:nbytes] == artifact.read_bytes()[:nbytes]


def test_a_plan_that_cannot_be_made_leaves_nothing(artifact: Path, tmp_path: Path) -> None:
    """Its weights may have been copied by then, and another file may have the name already."""
    target = tmp_path / "new.occ"
    target.write_bytes(b"the one before")

    def refused() -> None:
        with replanning(open_artifact(artifact), target) as copying:
            copying.settle()
            raise BudgetError("too small", 1)

    with pytest.raises(BudgetError):
        refused()
    assert sorted(os.listdir(tmp_path)) == ["mlp.occ", "new.occ"]
    assert target.read_bytes() == b"the one before"


def test_replanning_takes_plans_of_the_same_program_alone(artifact: Path, tmp_path: Path) -> None:
    other = next(example for make in EXAMPLES.values() if (example := make()).plan.program.name != "mlp")
    with pytest.raises(InternalError, match="expects other weights"):
        replan_artifact(open_artifact(artifact), tmp_path / "new.occ", other.plan)
    assert os.listdir(tmp_path) == ["mlp.occ"]


def test_replanning_does_not_bless_damage(artifact: Path, tmp_path: Path) -> None:
    content = bytearray(artifact.read_bytes())
    content[99] ^= 1
    artifact.write_bytes(content)
    with pytest.raises(OccError, match="damaged"):
        replan_artifact(open_artifact(artifact), tmp_path / "new.occ", mlp().plan)
    assert os.listdir(tmp_path) == ["mlp.occ"]


def test_python_imports_from_an_archive_behind_five_gigabytes(tmp_path: Path) -> None:
    """Sparse, so it takes no space; zip offsets of 64 bits would not be importable."""
    example = mlp()
    big = 5 * 2**30
    path = write(example, tmp_path / "mlp.occ")
    archive = path.read_bytes()[example.plan.program.file_nbytes :]
    with open(path, "wb") as file:
        file.seek(big)
        file.write(archive)
    code = f"import sys; sys.path.insert(0, {str(path)!r}); import runtime_stub.cells as c; print(c.MARK)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "# %%\n"
    with pytest.raises(ArtifactError, match=f"its weights take {big} bytes"):
        open_artifact(path)


def test_the_main_module_is_the_integrity_check() -> None:
    members = runtime_members()
    assert members["__main__.py"] == members["runtime_stub/integrity.py"]
