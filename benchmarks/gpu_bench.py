"""One network on the GPU that is here, at many budgets: `make gpu-bench MODEL=gpt2_medium`.

Latency beside eager mode and torch.compile, with all weights on the device and with shares of the demand,
streamed from the host's memory and from the SSD.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import overlay  # noqa: F401  before occ
import torch

SHARES = (0.75, 0.5, 0.25, 0.1)


def main() -> int:
    """Print the table; the exit code."""
    from gpu_models import NETWORKS, build

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=sorted(NETWORKS))
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes long")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "there is no CUDA device here; run this on a machine that has one (torch and Triton are enough)"
        )
        return 2
    module, inputs = build(options.model, getattr(torch, options.dtype))
    with tempfile.TemporaryDirectory(prefix="occ-gpu-") as folder:
        bench(options.model, module, inputs, Path(folder), compiled=not options.no_compile)
    return 0


def bench(
    name: str, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, *, compiled: bool
) -> None:
    """Print one line for each way of running a network."""
    from gpu_programs import Compiler, Network, accelerator_of, device_target, eager, latency

    from occ.errors import BudgetError

    given = tuple(x.cuda() for x in inputs)
    target = device_target()
    accelerator = accelerator_of(target)
    print(f"{name} on {accelerator.name}; copies at {accelerator.copy_bandwidth / 1e9:.1f} GB/s")
    print(f"{'':<28} {'latency':>11} {'predicted':>11} {'device':>11} {'host':>11} {'streamed':>11}")
    compiler = Compiler(Network(name, module, inputs), target, folder)
    print(f"{'eager':<28} {1e3 * eager(module, given)[1]:>8.3f} ms", flush=True)
    if compiled:
        print(f"{'torch.compile':<28} {1e3 * eager(module, given, compiled=True)[1]:>8.3f} ms", flush=True)
    torch.cuda.empty_cache()
    sources = [(None, "ssd"), *((share, source) for source in ("host", "ssd") for share in SHARES)]
    for share, source in sources:
        label = "all on the device" if share is None else f"{100 * share:.0f} % from {source}"
        budget = None if share is None else int(share * compiler.demand)
        try:
            plan = compiler.plan(budget, source)
        except BudgetError as error:
            print(f"{label:<28} needs at least {error.smallest / 1e6:.0f} MB")
            continue
        with compiler.program(plan) as program:
            seconds = latency(lambda: program(*given))
        print(
            f"{label:<28} {1e3 * seconds:>8.3f} ms {1e3 * plan.prediction.latency:>8.3f} ms"
            f" {plan.budget.total / 1e6:>8.1f} MB {plan.budget.host / 1e6:>8.1f} MB"
            f" {plan.prediction.streamed_nbytes / 1e6:>8.1f} MB",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
