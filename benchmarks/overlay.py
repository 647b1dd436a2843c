"""Makes `import occ` work from a checkout where nothing may be installed.

The folders of the repository are one package under other names, which an installation arranges. Here links in
a temporary folder do, while the process runs; helper processes find it as they find any installation.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("passes", "codegen", "runtime_stub")


def make_importable() -> None:
    """Have `occ` come from this checkout, unless it is installed."""
    if find_spec("occ") is None:
        folder = overlay()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        sys.path.insert(0, str(folder))


def overlay() -> Path:
    """A new folder with the package `occ` in it, as links to the checkout's files."""
    folder = Path(tempfile.mkdtemp(prefix="occ-import-"))
    package = folder / "occ"
    package.mkdir()
    for entry in (ROOT / "compiler").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for name in PACKAGES:
        (package / name).symlink_to(ROOT / name)
    return folder


make_importable()
