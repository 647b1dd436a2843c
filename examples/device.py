"""A stand-in for a device: Python with torch and numpy, and without occ."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path


def without_occ(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The start of a command line, and an environment, that run Python where `import occ` fails.

    `folder` is filled with links to everything that is installed here but occ; `-S` keeps Python from reading
    the site-packages themselves, and with them the path files of an editable install.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("purelib", "platlib"):
        for entry in Path(sysconfig.get_paths()[kind]).iterdir():
            link = folder / entry.name
            if entry.name != "occ" and entry.suffix != ".pth" and not link.is_symlink():
                link.symlink_to(entry)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(folder)
    return [sys.executable, "-S"], environment
