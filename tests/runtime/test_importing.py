"""torch, imported by a command, and what the garbage collector then has to do with it."""

from __future__ import annotations

import subprocess
import sys

IMPORT = """
import gc
from occ.runtime_stub.importing import import_torch
import_torch()
import torch
print(gc.isenabled(), gc.get_freeze_count() > 100_000, len(gc.get_objects()) < 10_000)
import_torch()
"""

NO_TORCH = """
import sys
import occ.artifact, occ.replanning
import occ.report.text, occ.report.html, occ.report.ascii_map, occ.report.diff
print("torch" in sys.modules)
"""


def printed(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout


def test_torch_is_nothing_to_collect() -> None:
    assert printed(IMPORT) == "True True True\n"


def test_an_artifact_is_checked_shown_and_planned_anew_without_torch() -> None:
    """OpenMP reads its settings when torch is imported, and those of a program are in its artifact."""
    assert printed(NO_TORCH) == "False\n"
