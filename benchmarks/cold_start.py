"""Cold start beside eager PyTorch: `python benchmarks/cold_start.py [--models a,b] [--folder DIR]`.

Writes docs/cold-start.md. Imports done, weights not in the page cache: how long it takes to load the weights
and run once. Every start is a process of its own; program and eager take turns.
"""

from __future__ import annotations

import json
import mmap
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from compiled import EXAMPLES, HERE, Compiled, drop_from_page_cache, environment
from device import without_occ
from measuring import WAIT_POLICIES, largest_difference
from share_table import ShareTable, fill_table

MODELS = "resnet152,gpt2_medium"
SHARES = "100,25,10"
EAGER = ("eager", "eager-read")
"""Ways to load the weights in eager, see cold_worker.py."""

PREFACE = """# Cold start

From the beginning of loading the weights to the first outputs, everything imported, the weights not in the
page cache; batch 1, medians, each start in a fresh process, by turns. Eager: the network built on the meta
device, its tensors from a safetensors file, mapped (`load_file`) or read whole, under either of OpenMP's wait
policies; the fastest of these. A virtual machine hands freed memory back to its host, and to get it again can
take longer than to read a file into it; so that all find memory at hand, right before each start twice the
weights' bytes are taken in small pages and as many in huge ones, and freed. Each further cell: a program at
that share of demand (at its smallest feasible budget where that is larger, marked *): time; share of eager's.
How to repeat it: [benchmarks.md](benchmarks.md)."""


def export(name: str, folder: Path) -> Path:
    """The network's weights as safetensors."""
    path = folder / "weights.safetensors"
    command = [sys.executable, str(HERE / "export_weights.py"), name, str(path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return path


def bring_back_memory(nbytes: int) -> None:
    """Take `nbytes` bytes in small pages and as many in huge ones, and free all of them: the system then has
    as much of either kind that its host need not give it first."""
    with ExitStack() as taken:
        for advice in (mmap.MADV_NOHUGEPAGE, mmap.MADV_HUGEPAGE):
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            taken.enter_context(memory)
            with suppress(OSError):  # of a kernel built without huge pages
                memory.madvise(advice)
            for page in range(0, nbytes, mmap.PAGESIZE):
                memory[page] = 1


def seconds_of(
    command: Sequence[str], settings: Mapping[str, str], weights: Path, inputs: Path, outputs: Path
) -> float:
    """Seconds of one cold start. Raises RuntimeError where it fails."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(settings)
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "imported\n":
            raise RuntimeError(f"`{' '.join(command)}` ended early with code {process.wait()}")
        drop_from_page_cache(weights)
        bring_back_memory(2 * weights.stat().st_size)
        process.stdin.write(json.dumps({"inputs": str(inputs), "outputs": str(outputs)}) + "\n")
        process.stdin.flush()
        reply = process.stdout.readline()
        process.communicate()
    finally:
        process.kill()
        process.wait()
    if not reply:
        raise RuntimeError(f"`{' '.join(command)}` failed with code {process.returncode}")
    return float(json.loads(reply)["seconds"])


def measure(network: Compiled, folder: Path, rounds: int, runs: int) -> list[str]:
    """The row of a compiled network: `rounds` times `runs` starts of each."""
    worker = str(HERE / "cold_worker.py")
    weights = export(network.name, folder)
    starts = {
        f"{way}, {policy}": ([sys.executable, worker, way, network.name, str(weights)], settings, weights)
        for way in EAGER
        for policy, settings in ((policy, environment() | extra) for policy, extra in WAIT_POLICIES.items())
    }
    python, device = without_occ(folder / "device")
    device["PYTHONPATH"] += f":{EXAMPLES}"
    artifacts = {str(plan.artifact): plan.artifact for plan in network.plans}
    starts |= {
        name: ([*python, worker, "program", name], device, artifact) for name, artifact in artifacts.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in starts}
    outputs = {name: folder / f"{index}.pt" for index, name in enumerate(starts)}
    for _ in range(rounds * runs):
        for name, (command, settings, file) in starts.items():
            seconds[name].append(seconds_of(command, settings, file, network.inputs, outputs[name]))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    eager = min((name for name in medians if name not in artifacts), key=medians.__getitem__)
    cells = [network.name, f"{network.weights / 1e6:.1f} MB", f"{medians[eager] * 1e3:.0f} ms ({eager})"]
    for plan in network.plans:
        mark = network.mark(plan)
        difference, size = largest_difference(outputs[str(plan.artifact)], outputs[eager])
        if not difference <= 1e-2 * size:
            raise RuntimeError(f"{network.name} at {plan.share:g} % is {difference / size:g} from eager")
        ours = medians[str(plan.artifact)]
        cells.append(f"{ours * 1e3:.0f} ms{mark}; {ours / medians[eager]:.2f}")
    return cells


TABLE = ShareTable(
    about=__doc__ or "",
    page="cold-start.md",
    preface=PREFACE,
    columns=("network", "weights", "eager"),
    measure=measure,
    models=MODELS,
    shares=SHARES,
    rounds=3,
    runs=1,
)

if __name__ == "__main__":
    sys.exit(fill_table(TABLE, sys.argv[1:]))
