"""Artifacts with native kernels: altered ones, other processors, machines without a compiler."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
import torch

import occ as package
from occ.artifact import open_artifact
from occ.codegen.native import compiler
from occ.errors import ArtifactError
from occ.runtime_stub import native
from occ.runtime_stub.errors import MachineError
from tests.codegen.test_artifact import forge
from tests.commands import assert_refused, occ, occ_process, smallest_budget, write_model

MODEL = """
model = nn.Sequential(nn.Linear(64, 256), nn.LayerNorm(256), nn.GELU(), nn.Linear(256, 64), nn.Softmax(-1))
example_inputs = (torch.randn(8, 64),)
"""
NO_COMPILER = {"CC": "", "PATH": "/nowhere"}

pytestmark = pytest.mark.skipif(compiler.find_compiler() is None, reason="there is no gcc on this machine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.py, model.occ with native kernels, and x.npy."""
    folder = tmp_path_factory.mktemp("native")
    assert occ("compile", write_model(folder, "model", MODEL), "-o", folder / "model.occ").code == 0
    numpy.save(folder / "x.npy", torch.randn(8, 64, generator=torch.Generator().manual_seed(1)).numpy())
    return folder


@pytest.fixture
def artifact(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may alter."""
    path = tmp_path / "model.occ"
    path.write_bytes((folder / "model.occ").read_bytes())
    return path


def members(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_library_is_compared_with_its_source(artifact: Path) -> None:
    assert {"native.c", "native.so"} <= members(artifact)
    done = occ("verify", artifact, "--json")
    assert json.loads(done.out)["library"] is True


def test_another_source_is_refused(artifact: Path) -> None:
    forge(artifact, lambda found: found.update({"native.c": found["native.c"] + b"// hello\n"}))
    with pytest.raises(ArtifactError, match=r"native\.c is not the text of its plan's kernels"):
        open_artifact(artifact)
    assert_refused(occ("run", artifact, f"--input=input={artifact}"), 4, "native.c is not the text")


def test_another_library_is_refused_by_verify(artifact: Path) -> None:
    other = compiler.build("int nothing;", open_artifact(artifact).plan.machine.native)
    forge(artifact, lambda found: found.update({"native.so": other}))
    assert_refused(occ("verify", artifact), 4, "native.so is not what this machine's gcc")


def test_a_missing_library_is_refused(artifact: Path) -> None:
    forge(artifact, lambda found: found.pop("native.so"))
    with pytest.raises(ArtifactError, match=r"native\.c is not the text of its plan's kernels"):
        open_artifact(artifact)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the levels of other architectures need nothing")
def test_a_lesser_processor_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "processor_features", lambda: frozenset({"sse2"}))
    level = open_artifact(folder / "model.occ").plan.machine.native
    if not native.LEVELS[level].features:
        pytest.skip("this processor has nothing that another lacks")
    with pytest.raises(MachineError, match=r"this processor lacks .*; compile with --target for it, or"):
        package.load(folder / "model.occ")
    assert_refused(occ("run", folder / "model.occ", f"--input=input={folder / 'x.npy'}"), 2, level, "lacks")


def test_another_architecture_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.platform, "machine", lambda: "riscv64")
    with pytest.raises(MachineError, match="this machine is riscv64; compile with --target for it"):
        package.load(folder / "model.occ")


def test_a_machine_without_a_compiler_runs_what_another_compiled(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(folder / "model.occ"), f"--input=input={folder / 'x.npy'}"],
        env={**NO_COMPILER},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    done = occ_process("verify", folder / "model.occ", **NO_COMPILER)
    assert "its library was not compared with its source, which takes gcc" in done.out


def test_without_a_compiler_torch_computes(folder: Path, tmp_path: Path) -> None:
    done = occ_process("compile", folder / "model.py", "-o", tmp_path / "plain.occ", **NO_COMPILER)
    assert done.code == 0, done.err
    assert "there is no gcc: torch's kernels alone" in done.err + done.out
    assert not {"native.c", "native.so"} & members(tmp_path / "plain.occ")
    x = torch.from_numpy(numpy.load(folder / "x.npy"))
    with package.load(tmp_path / "plain.occ") as plain, package.load(folder / "model.occ") as fast:
        torch.testing.assert_close(plain(x), fast(x))


def test_replanning_native_kernels_needs_the_compiler(folder: Path, tmp_path: Path) -> None:
    budget = smallest_budget(folder / "model.py") + 65536
    arguments = ["replan", folder / "model.occ", "--budget", budget, "-o", tmp_path / "small.occ"]
    assert_refused(occ_process(*arguments, **NO_COMPILER), 2, "has native kernels and there is no gcc")
    assert not (tmp_path / "small.occ").exists()
    assert occ(*arguments).code == 0
