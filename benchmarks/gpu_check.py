"""Whether programs for CUDA do on the GPU that is here what they promise: `make gpu-check`, in five minutes.

Nothing is installed, and nothing but torch (with Triton) is needed. Prints one table and ends with 0 where
every line holds, 1 where one does not, 2 where there is no GPU.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import overlay  # noqa: F401  before occ
import torch
from torch import Tensor

if TYPE_CHECKING:
    from occ.ir import Plan

TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference from eager mode over the largest value."""

MEMORY_RUNS = 100
STREAM_SHARES = (0.25, 0.1)
"""Shares of a network's demand that it is given where it streams."""

STREAMING = 1.15
"""Times the larger of computing and copying that a program may take that streams from the host."""

ROW_SHARE = 0.8
"""Share of a copy's bandwidth that norms and element-wise kernels reach."""

PRODUCT_SHARE = 0.5
"""Share of a matrix product's rate that attention reaches at heads of 128 and 8192 tokens."""

ATTENTION_SHARE = 0.9
"""Share of the speed of torch's attention that ours reaches."""

BLOCK = 512
"""Bytes whose multiples torch's allocator gives."""

SECONDS = 280.0
"""After so long no further network is begun."""


@dataclass
class Table:
    """Lines of what was checked."""

    began: float = field(default_factory=time.perf_counter)
    failed: int = 0

    def head(self) -> None:
        print(f"{'check':<44} {'measured':>14} {'wanted':>14}  {'':<6} {'at':>6}", flush=True)

    def line(self, name: str, measured: str, wanted: str, holds: bool | None) -> None:
        """Print one line; None for what is only told."""
        verdict = "" if holds is None else "ok" if holds else "FAILED"
        self.failed += holds is False
        print(f"{name:<44} {measured:>14} {wanted:>14}  {verdict:<6} {self.seconds:>5.0f}s", flush=True)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began


def main() -> int:
    """Run all checks; the exit code."""
    if not torch.cuda.is_available():
        print(
            "there is no CUDA device here; run this on a machine that has one (torch and Triton are enough)"
        )
        return 2
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    table = Table()
    table.head()
    with tempfile.TemporaryDirectory(prefix="occ-gpu-") as folder:
        for check in checks(Path(folder)):
            try:
                check(table)
            except Exception as error:
                traceback.print_exc()
                table.line(type(error).__name__, "", "", False)
            torch.cuda.empty_cache()
    print(f"{table.failed} failed" if table.failed else "all hold", f"in {table.seconds:.0f} s")
    return 1 if table.failed else 0


def checks(folder: Path) -> Iterator[Callable[[Table], None]]:
    """What is run, in order."""
    from gpu_models import NETWORKS
    from gpu_programs import device_target

    yield kernel_rates
    yield attention_rates
    target = device_target()
    for dtype in TOLERANCE:
        for name in NETWORKS:

            def check(table: Table, name: str = name, dtype: torch.dtype = dtype) -> None:
                if table.seconds < SECONDS:
                    network(table, name, dtype, folder, target)
                else:
                    table.line(f"{name} {str(dtype)[6:]}", "no time left", "", None)

            yield check


# Kernels ---------------------------------------------------------------------------------------------------


def kernel_rates(table: Table) -> None:
    """Element-wise chains, norms and softmax against the rate of a copy of as many bytes."""
    from gpu_kernels import copy_rate, loop_rates

    copy = copy_rate()
    table.line("copy on the device", f"{copy / 1e9:.0f} GB/s", "", None)
    for name, rate, error in loop_rates():
        table.line(name, f"{rate / copy:.2f}", f">= {ROW_SHARE}", rate >= ROW_SHARE * copy and error < 2e-2)


def attention_rates(table: Table) -> None:
    """Our attention against torch's, and against a matrix product."""
    from gpu_kernels import attention_cases, product_rate

    rate = product_rate(torch.bfloat16)
    table.line("bf16 product, 8192 cubed", f"{rate / 1e12:.0f} TFLOP/s", "", None)
    for case in attention_cases():
        name = f"attention {case.tokens} x {case.size}{' causal' if case.causal else ''}"
        share = case.torch_seconds / case.seconds
        holds = share >= ATTENTION_SHARE and case.error < 2e-2
        table.line(f"{name}, of torch's", f"{share:.2f}", f">= {ATTENTION_SHARE}", holds)
        if case.tokens == 8192 and case.size == 128:
            reached = case.operations / case.seconds / rate
            table.line(
                f"{name}, of a product", f"{reached:.2f}", f">= {PRODUCT_SHARE}", reached >= PRODUCT_SHARE
            )


# Networks --------------------------------------------------------------------------------------------------


def network(table: Table, name: str, dtype: torch.dtype, folder: Path, target: object) -> None:
    """One network in one type: memory, values and latency without a limit, then streamed from the host."""
    from gpu_models import build
    from gpu_programs import Compiler, Network, accelerator_of, difference, eager, latency

    from occ.errors import BudgetError
    from occ.target import Target

    assert isinstance(target, Target)
    module, inputs = build(name, dtype)
    given = tuple(x.cuda() for x in inputs)
    label = f"{name} {str(dtype)[6:]}"
    compiler = Compiler(Network(name, module, inputs), target, folder)
    whole = compiler.plan(None)
    before = torch.cuda.memory_allocated()
    with compiler.program(whole) as program:
        # The first run compiles kernels, the second records graphs, the third replays them.
        found = [program(*given) for _ in range(3)]
        memory(table, label, lambda: program(*given), before, len(found), whole)
        seconds = latency(lambda: program(*given))
        refused = len(program._globals["graphs"].refused)
    table.line(f"{label}: stretches that no graph takes", f"{refused}", "0", None)
    wanted, eager_seconds = eager(module, given)
    error = max(difference(each, wanted) for each in found if isinstance(each, Tensor))
    most = TOLERANCE[dtype]
    table.line(f"{label}: off from eager", f"{error:.1e}", f"<= {most:g}", error <= most)
    ratio = seconds / eager_seconds
    measured = f"{ratio:.2f} ({1e3 * seconds:.2f} ms)"
    table.line(f"{label}: latency of eager's", measured, "<= 1.00", ratio <= 1.0)
    if dtype is not torch.float16:
        return
    for share in STREAM_SHARES:
        try:
            part = compiler.plan(int(share * compiler.demand), "host")
        except BudgetError as error:
            part = compiler.plan(error.smallest, "host")
        with compiler.program(part) as program:
            streamed = latency(lambda: program(*given))
            off = difference(cast(Tensor, program(*given)), wanted)
        least = max(seconds, part.prediction.streamed_nbytes / accelerator_of(target).copy_bandwidth)
        measured = f"{streamed / least:.2f} ({1e3 * streamed:.2f} ms)"
        holds = streamed <= STREAMING * least and off <= most
        given_share = part.budget.total / compiler.demand
        table.line(f"{label}: in {given_share:.0%}, of least", measured, f"<= {STREAMING}", holds)


def memory(table: Table, label: str, run: Callable[[], object], before: int, kept: int, plan: Plan) -> None:
    """What MEMORY_RUNS runs take of the device above the `before` bytes that others have, and whether they
    ask the driver for any; the outputs of `kept` runs are still there."""
    outputs = kept * plan.budget.outputs
    torch.cuda.synchronize()
    segments = torch.cuda.memory_stats()["segment.all.allocated"]
    peaks = []
    for _ in range(MEMORY_RUNS):
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() - before - outputs)
    asked = torch.cuda.memory_stats()["segment.all.allocated"] - segments
    outs = [buffer.nbytes for buffer in plan.program.buffers if buffer.kind.value == "output"]
    rounding = sum(-nbytes % BLOCK for nbytes in outs)
    most, planned = max(peaks) - kept * rounding, plan.budget.total + rounding
    measured = f"{most / 1e6:.1f} MB"
    table.line(f"{label}: bytes on the device", measured, f"<= {planned / 1e6:.1f} MB", most <= planned)
    growth = max(peaks) - min(peaks)
    holds = growth == 0 and asked == 0
    table.line(f"{label}: growth in {MEMORY_RUNS} runs", f"{growth} B", "0 B", holds)


if __name__ == "__main__":
    sys.exit(main())
