"""Compiles networks of the zoo for CUDA, without a GPU, down to their last line.

`python gpu_compile_zoo.py [NAME ...]`: each in its own type and in 16 bits, without a budget and in the
smallest. The plan is proven, the artifact is opened again, and its program and its kernels are compiled by
Python. Prints one line for each; ends with 1 where one failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from zoo_models import ZOO, build

import occ
from occ.artifact import open_artifact
from occ.runtime_stub.integrity import read_member
from occ.target import Target, read_target

PROFILE = Path(__file__).parent / "targets" / "h100-nominal.json"
TYPES = {"own": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> int:
    """Compile what was asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=sorted(ZOO))
    parser.add_argument("--types", default="own,bfloat16", help=f"among {', '.join(TYPES)}")
    parser.add_argument("--budgets", default="unlimited,min", help="as occ compile takes them")
    options = parser.parse_args()
    target = read_target(PROFILE)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="occ-zoo-") as folder:
        for name in options.names:
            for word in options.types.split(","):
                for budget in options.budgets.split(","):
                    began = time.perf_counter()
                    label = f"{name:<22} {word:<9} {budget:<10}"
                    try:
                        found = compiled(name, TYPES[word], budget, Path(folder), target)
                    except Exception as error:
                        failed += 1
                        found = f"FAILED {type(error).__name__}: {error}"
                    print(f"{label} {time.perf_counter() - began:>6.1f} s  {found}", flush=True)
    return 1 if failed else 0


def compiled(name: str, dtype: torch.dtype | None, budget: str, folder: Path, target: Target) -> str:
    """Compile one network, look at all that came of it, and say what it is."""
    model = build(name)
    module, inputs = model.module, model.example_inputs
    if dtype is not None:
        module = module.to(dtype)
        inputs = tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)
    made = occ.compile(module, inputs, budget, folder / "model.occ", name=name, target=target)
    artifact = open_artifact(made.path)
    compile(artifact.text, "program.py", "exec")
    kernels = ""
    if "triton_kernels.py" in artifact.manifest["members"]:
        kernels = read_member(str(made.path), "triton_kernels.py").decode()
        compile(kernels, "triton_kernels.py", "exec")
    counts = Counter(step.kernel for step in made.plan.program.steps)
    fallbacks = f", {counts['fallback']} through the fallback" if counts["fallback"] else ""
    return (
        f"{len(made.plan.program.steps)} steps, {kernels.count('@triton.jit')} kernels,"
        f" device {made.plan.budget.total / 1e6:.1f} MB, host {made.plan.budget.host / 1e6:.1f} MB,"
        f" predicted {1e3 * made.plan.prediction.latency:.2f} ms{fallbacks}"
    )


if __name__ == "__main__":
    sys.exit(main())
