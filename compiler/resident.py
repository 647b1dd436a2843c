"""The resident memory of this process, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path


def resident_nbytes() -> int:
    """What is resident now, with the page tables that it takes; bytes."""
    return _status("VmRSS") + _status("VmPTE")


def peak_nbytes() -> int:
    """The most that was resident since `reset_peak`, or since the process began, with page tables; bytes."""
    return _status("VmHWM") + _status("VmPTE")


def reset_peak() -> None:
    """Set the peak to what is resident now. Raises OSError where the kernel does not offer it."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
