"""Which device a program is for, and the profile of the one that is here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from occ.accelerator import Accelerator, accelerator_from_json
from occ.child import Child, ChildError
from occ.errors import InternalError, UsageError
from occ.progress import SILENT, Progress
from occ.target import Target, keep_target, known_target, local_target, openmp_settings

SECONDS = 300.0


def device_of(device: str | None, target: Target | None) -> str:
    """The device that was asked for, by default that of the target, or the CPU.

    Raises UsageError where the target is of another kind.
    """
    if target is None:
        return device or "cpu"
    if device is not None and device != target.device:
        raise UsageError(
            f"the target profile {target.name} is for {target.device} and the program for {device};"
            f" make a profile with occ profile --device {device}"
        )
    return target.device


def cuda_name() -> str | None:
    """The name of the CUDA device here, None where torch finds none."""
    import torch

    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None


def check_device(device: str, target: Target | None) -> None:
    """Raise UsageError where a program is for CUDA, and neither a profile nor a device is there."""
    if device == "cuda" and target is None and cuda_name() is None:
        raise UsageError(
            "there is no CUDA device on this machine; pass --target with a profile that occ profile"
            " --device cuda made where there is one"
        )


def target_for(
    device: str,
    directory: str | Path,
    threads: int | None = None,
    packing: str = "",
    progress: Progress = SILENT,
) -> Target:
    """This machine with its CPU or its GPU; measured once and kept in the cache (see `local_target`, also for
    `packing` and `progress`).

    Raises UsageError where there is no such device.
    """
    check_device(device, None)
    if device == "cpu":
        return local_target(directory, threads, packing, progress)
    host = local_target(directory, threads, progress=progress)
    place = f"accelerator-{host.digest[:16]}.json"
    known = known_target(place)
    if known is not None and known.accelerator is not None:
        return known
    with progress.stage("measuring the GPU"):
        found = replace(host, name=f"{host.name}-cuda", accelerator=_measured(), kernels={})
    keep_target(place, found)
    return found


def _measured() -> Accelerator:
    """The GPU of this machine, measured by a process of its own."""
    try:
        with Child("occ.cuda_child", openmp_settings(1, "default")) as child:
            found = child.ask({"do": "profile"}, SECONDS)
    except ChildError as error:
        raise InternalError(f"the process that measures the CUDA device {error}") from error
    if "error" in found:
        raise InternalError(f"the CUDA device cannot be measured: {found['error']}")
    return accelerator_from_json(found)
