"""Programs with enough memory beside eager PyTorch and torch.compile: `python benchmarks/speed.py`.

Writes docs/speed.md. Everything about one network is measured in the same run, by turns: the program with all
weights resident, eager PyTorch and torch.compile with frozen weights, these two under both of OpenMP's wait
policies.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from compiled import (
    HERE,
    RESIDENT,
    CompileError,
    compile_network,
    program_worker,
    zoo_workers,
)
from markdown_table import MarkdownTable
from measuring import in_turns
from zoo_models import ZOO

MODELS = (
    "resnet50,resnet152,vgg19,mobilenet_v3_large,efficientnet_b0,convnext_base,vit_b_16,bert_base,gpt2_medium"
)

PREFACE = """# Speed with enough memory

Medians, by turns in one run; batch 1; all weights resident. Eager PyTorch and torch.compile (Inductor,
weights frozen) each in the faster of OpenMP's two wait policies. The last row has the geometric means of the
ratios above it. How it is measured, and how to repeat it: [benchmarks.md](benchmarks.md)."""
HEADER = ("network", "program", "eager", "torch.compile", "over eager", "over torch.compile")
MEANS = "geometric mean"


@dataclass(frozen=True)
class Speed:
    """Seconds a run."""

    program: float
    eager: float
    inductor: float

    @property
    def cells(self) -> list[str]:
        """The cells of a row after the network's name."""
        seconds = (self.program, self.eager, self.inductor)
        ratios = (self.program / self.eager, self.program / self.inductor)
        return [*(f"{taken * 1e3:.1f} ms" for taken in seconds), *(f"{ratio:.2f}" for ratio in ratios)]


def measure(name: str, folder: Path, rounds: int, runs: int, threads: int | None) -> Speed:
    """Compile and measure one network. Raises CompileError and RuntimeError."""
    network = compile_network(name, folder, [RESIDENT], threads)
    with ExitStack() as stack:
        workers = [stack.enter_context(program_worker(network.plans[0].artifact, folder))]
        for script in ("eager_zoo.py", "inductor_zoo.py"):
            workers += [stack.enter_context(worker) for worker in zoo_workers(network, script)]
        program, *others = (m.median for m in in_turns(workers, network.inputs, rounds, runs))
    half = len(others) // 2
    return Speed(program, min(others[:half]), min(others[half:]))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default=MODELS, help="names of the zoo, separated by commas")
    parser.add_argument("--threads", type=int, help="threads that compute; one per processor by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each process in every round")
    parser.add_argument("--folder", type=Path, help="where the artifacts go; a temporary folder by default")
    parser.add_argument("--table", type=Path, default=HERE.parent / "docs" / "speed.md")
    options = parser.parse_args(arguments)
    names = options.models.split(",")
    if unknown := [name for name in names if name not in ZOO]:
        parser.error(f"no network {', '.join(unknown)}; the zoo has {', '.join(ZOO)}")
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    page = MarkdownTable(options.table, PREFACE, HEADER)
    failures = 0
    for name in names:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            try:
                speed = measure(name, Path(folder), options.rounds, options.runs, options.threads)
                row = [name, *speed.cells]
            except (CompileError, RuntimeError) as error:
                failures += 1
                row = [name, f"FAILED: {error}", *[""] * (len(HEADER) - 2)]
        page.put(row, list(ZOO))
        put_means(page)
        print(" | ".join(row), flush=True)
    return 1 if failures else 0


def put_means(page: MarkdownTable) -> None:
    """Write the row of means over the page's other rows that have numbers."""
    measured = [cells for cells in page.cells() if cells[0] != MEANS and cells[-1]]
    if measured:
        means = [f"{geometric_mean(float(cells[column]) for cells in measured):.2f}" for column in (-2, -1)]
        page.put([MEANS, "", "", "", *means], list(ZOO))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
