"""occ: an ahead-of-time memory-planning compiler for DNN inference.

`occ.compile(module, example_inputs, budget="512MB", output="m.occ")` writes one standalone program;
`occ.load("m.occ")` runs it, `occ.replan` makes it fit another budget. All are imported on first use, so that
plans can be made, checked and drawn without torch.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

_PUBLIC = {"compile": "occ.api", "load": "occ.api", "replan": "occ.replanning"}

__all__ = ["compile", "load", "replan"]

try:
    __version__ = metadata.version("occ-compiler")
except metadata.PackageNotFoundError:  # pragma: no cover - a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'occ' has no attribute {name!r}")
