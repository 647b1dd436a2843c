"""What a compiled file says about itself, read from its archive without running anything of it."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Facts:
    """Sizes in bytes. `total` is what the budget limits: arena, outputs, loader and workspace."""

    weights: int
    demand: int
    arena: int
    total: int


def facts(artifact: Path) -> Facts:
    """Read an artifact's plan."""
    with zipfile.ZipFile(artifact) as archive:
        plan: dict[str, Any] = json.loads(archive.read("plan.json"))["plan"]
    program, budget = plan["program"], plan["budget"]
    return Facts(
        weights=program["weights_nbytes"],
        demand=program["weights_nbytes"] + program["activation_peak"],
        arena=budget["arena"],
        total=budget["arena"] + budget["outputs"] + budget["loader"] + budget["workspace"],
    )


def drop_from_page_cache(path: Path) -> None:
    """Make the next read of a file go to storage."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
