"""What steps take outside the arena on this machine, seen in the resident size of the process, or, on a
device, in the books of torch's allocator.

The kernel keeps the peak of the resident size and forgets it when asked to; blocks of BLOCK bytes and more
are made to come from the system and to go back to it, so that each step's own peak shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .trace import StepTrace

BLOCK = 64 << 10
M_MMAP_THRESHOLD = -3


class Runs(Protocol):
    """A loaded program."""

    text: str
    manifest: Mapping[str, Any]

    def writable_outputs(self) -> tuple[str, ...]: ...

    def run(self, inputs: Sequence[object], out: Mapping[str, Tensor] | None, trace: StepTrace) -> object: ...


class WorkspaceTrace(StepTrace):
    """Also records by how many bytes the resident size grew within each statement, at its peak."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.growths: list[tuple[str, int]] = []
        self._line = 0
        self._before = 0

    def mark(self, line: int) -> None:
        if self._line:
            growth = _status("VmHWM") - self._before
            self.growths.append((self._label(self._line), growth))
        self._line = line
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")


class DeviceWorkspaceTrace(StepTrace):
    """Also records how many bytes of the device's memory each statement took at its peak. What is allocated
    while steps are launched is what they need, whenever they run."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.growths: list[tuple[str, int]] = []
        self._line = 0
        self._before = 0

    def mark(self, line: int) -> None:
        if self._line:
            growth = torch.cuda.max_memory_allocated() - self._before
            self.growths.append((self._label(self._line), growth))
        self._line = line
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()


def largest_workspace(
    program: Runs, inputs: Sequence[object], outputs: Mapping[str, Tensor]
) -> tuple[str, int]:
    """The statement that took most memory outside the arena in one more run, and its bytes.

    The run writes into `outputs` of an earlier one, whose pages are there already. Raises OSError where the
    kernel does not tell.
    """
    trace: WorkspaceTrace | DeviceWorkspaceTrace
    if program.manifest["machine"]["device"] == "cuda":
        trace = DeviceWorkspaceTrace(program.text)
    else:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, BLOCK)
        trace = WorkspaceTrace(program.text)
    program.run(inputs, {name: outputs[name] for name in program.writable_outputs()}, trace)
    return max(trace.growths, key=lambda growth: growth[1], default=("no step", 0))


def _status(field: str) -> int:
    """A size in bytes from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
