"""`python model.occ` in a process that has torch and cannot import occ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from occ.codegen.bundle import write_artifact
from occ.runtime_stub.errors import InputError
from occ.runtime_stub.npy import read_npy, write_npy
from tests.tiny_plans import EXAMPLES, Example, bare_environment, mlp, run_program, save_inputs


def write(example: Example, path: Path) -> Path:
    write_artifact(path, example.plan, example.plan.program, example.weight_bytes)
    return path


def test_the_bare_process_cannot_import_occ() -> None:
    code = "import importlib.util as u; print(u.find_spec('occ'), u.find_spec('torch') is None)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=bare_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "None False\n"


@pytest.mark.parametrize("name", ["mlp", "embedding"])
def test_runs_alone(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]()
    path = write(example, tmp_path / "model.occ")
    target, trace = tmp_path / "y.npy", tmp_path / "trace.json"
    done = run_program(
        path,
        *save_inputs(example, tmp_path),
        *("--output", f"y={target}", "--stats", "--trace", str(trace)),
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("arena ")
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["arena", "workspace"]
    assert numpy.array_equal(numpy.load(target), example.expected[0].numpy())
    assert json.loads(trace.read_text())["traceEvents"]


def test_users_mistakes_are_one_line_and_code_2(tmp_path: Path) -> None:
    path = write(mlp(), tmp_path / "model.occ")
    numpy.save(tmp_path / "x.npy", numpy.zeros((4, 255), numpy.float32))
    for arguments, message in (
        (["--input", f"x={tmp_path}/x.npy"], "must be a float32 tensor of shape (4, 256)"),
        (["--input", "x=none.npy"], "cannot read input 'x' from none.npy"),
        (["--input", "z=x.npy"], "--input 'z' is unknown; the model has x"),
        ([], "input 'x' is missing; add --input x=FILE.npy"),
        (["--bogus"], "unrecognized arguments"),
    ):
        done = run_program(path, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_damaged_member_is_code_4(tmp_path: Path) -> None:
    path = write(mlp(), tmp_path / "model.occ")
    content = bytearray(path.read_bytes())
    place = content.index(b"program.py") + len("program.py") + 100
    content[place] ^= 4
    path.write_bytes(content)
    done = run_program(path, *save_inputs(mlp(), tmp_path))
    assert done.returncode == 4
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_damaged_tile_is_code_4_and_writes_no_result(tmp_path: Path) -> None:
    path = write(mlp(), tmp_path / "model.occ")
    content = bytearray(path.read_bytes())
    content[524288] ^= 4
    path.write_bytes(content)
    target = tmp_path / "y.npy"
    done = run_program(path, *save_inputs(mlp(), tmp_path), "--output", f"y={target}")
    assert done.returncode == 4
    assert "tile 1 " in done.stderr
    assert done.stderr.count("\n") == 1
    assert not target.exists()


def test_without_torch_it_says_so(tmp_path: Path) -> None:
    path = write(mlp(), tmp_path / "model.occ")
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(path), "--input", "x=x.npy"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install torch==" in done.stderr
    assert done.stderr.count("\n") == 1


def test_openmp_is_set_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import os, sys; from occ.runtime_stub.machine import set_openmp;"
        "set_openmp({'threads': 1, 'spin': '1000'}); assert 'torch' not in sys.modules;"
        "print(os.environ['GOMP_SPINCOUNT'], os.environ['OMP_NUM_THREADS'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1000 1\n"


def test_npy_files(tmp_path: Path) -> None:
    path = str(tmp_path / "a.npy")
    spec = {"name": "a", "dtype": "bfloat16"}
    value = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    write_npy(path, value)
    assert numpy.load(path).dtype == numpy.float32
    assert torch.equal(read_npy(path, spec), value)
    write_npy(path, torch.tensor(True))
    assert read_npy(path, {"name": "a", "dtype": "bool"}).item() is True
    numpy.save(path, numpy.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot read input 'a'"):
        read_npy(path, spec)
    with pytest.raises(InputError, match="cannot write"):
        write_npy(str(tmp_path / "none" / "a.npy"), value)
