"""The scripts for a machine with a GPU: what of them can be run without one, from a checkout that is not
installed."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

PLANNED = """
import sys
sys.path[:0] = [{scripts!r}, *{packages!r}]
import overlay
import occ
assert "occ-import-" in occ.__file__, occ.__file__
from dataclasses import replace
from pathlib import Path
import torch
import gpu_bench, gpu_check, gpu_kernels
from gpu_models import NETWORKS, Block
from gpu_programs import NOMINAL, Compiler, Network
from occ.target import read_target
torch.manual_seed(0)
block = Block(64, 4, causal=True, before=True, gelu="tanh").eval().to(torch.bfloat16)
x = torch.randn(1, 8, 64).to(torch.bfloat16)
compiler = Compiler(Network("block", block, (x,)), read_target(NOMINAL), Path({folder!r}))
for budget, source in ((None, "ssd"), (compiler.plan(None).budget.workspace + compiler.demand, "host")):
    plan = compiler.plan(budget, source)
    assert plan.machine.stream_from == source
print(sorted(NETWORKS), plan.budget.total)
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, check=False, timeout=300
    )


def test_programs_are_planned_without_an_installation(tmp_path: Path) -> None:
    packages = [folder for folder in site.getsitepackages() if Path(folder).is_dir()]
    code = PLANNED.format(scripts=str(ROOT / "benchmarks"), packages=packages, folder=str(tmp_path))
    done = run("-S", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "gpt2_medium" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", [("gpu_check.py",), ("gpu_bench.py", "resnet50")])
def test_without_a_gpu_one_line_says_so(script: tuple[str, ...]) -> None:
    name, *arguments = script
    done = run(str(ROOT / "benchmarks" / name), *arguments)
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert "there is no CUDA device here" in done.stdout
