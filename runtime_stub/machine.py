"""What the machine must offer, and the settings that go with the plan. Imports torch only where it says."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import MachineError
from .importing import import_torch

KEPT_NBYTES = 4 << 20
"""Bytes from which a freed block goes back to the system. Smaller blocks are what kernels take and free at
every call: pages for them, fetched anew each time, would cost some models a fifth of their latency."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def set_openmp(machine: dict[str, Any]) -> None:
    """Set how OpenMP threads wait, and how many there are. It binds only before torch is imported.

    `spin` is "default" (leave it), "passive" (sleep at once) or a number (the spin count of libgomp).
    """
    os.environ["OMP_NUM_THREADS"] = str(machine["threads"])
    spin = machine["spin"]
    if spin == "default":
        return
    os.environ.pop("GOMP_SPINCOUNT", None)
    if spin == "passive":
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    else:
        os.environ["GOMP_SPINCOUNT"] = spin


def set_products(machine: dict[str, Any]) -> None:
    """Have cuBLAS take the workspace that the plan counts, where the environment does not say how much it may
    take. It binds only before the first product on the device."""
    kib = machine.get("product_nbytes", 0) // 1024
    if kib:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", f":{kib}:1")
        os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", str(kib))
        os.environ.setdefault("TORCH_CUBLASLT_UNIFIED_WORKSPACE", "1")


def set_allocator() -> None:
    """Have the C library return what is freed, for a process whose memory is to stay what the plan says.

    By itself glibc raises its thresholds with the largest block that was freed, up to 32 MB, and so keeps a
    run's outputs; and it gives each thread a heap with free memory of its own. Other C libraries have no such
    settings, and none are made there. It has its full effect before any other thread begins.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, KEPT_NBYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_NBYTES)
    mallopt(_M_ARENA_MAX, 1)


def trim_heap() -> None:
    """Return free pages of the heap to the system, where the C library can; less than a millisecond."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


@contextmanager
def planned_threads(threads: int) -> Iterator[None]:
    """Compute with `threads` threads within the block. oneDNN chooses its layouts by their number, and with
    another one it would reorder packed weights, outside the arena."""
    import torch

    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_machine(machine: dict[str, Any]) -> None:
    """Import torch; raise MachineError where it is missing or of another release than the plan's.

    For CUDA any release will do: no weights are packed there for one, and kernels are compiled on the device.
    """
    try:
        import_torch()
        import torch
    except ImportError as error:
        raise MachineError(
            f"torch {machine['torch']} is needed and cannot be imported ({error});"
            f" pip install torch=={machine['torch'].split('+')[0]}"
        ) from error
    if machine["device"] == "cuda":
        set_products(machine)
        return
    if _release(torch.__version__) != _release(machine["torch"]):
        raise MachineError(
            f"the program was compiled for torch {machine['torch']} and this is torch {torch.__version__};"
            " install that release or compile again with this one"
        )
    if machine.get("native"):
        from .native import check_level

        check_level(machine["native"])
    if machine.get("packing"):
        from .packed import probe

        if probe() != machine["packing"]:
            raise MachineError(
                f"the program's weights are packed for {machine['packing']} and this machine is"
                f" {probe() or 'one without packed weights'}; compile with --target for it, or --portable"
            )


def _release(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]
