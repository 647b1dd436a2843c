"""Importing torch in a process that is a command of its own."""

from __future__ import annotations

import gc
import sys
from importlib import import_module


def import_torch() -> None:
    """Import torch with the garbage collector off, and keep the collector away from it for good.

    Its 1,300 modules live as long as the process. The collector would look through them again and again
    while they are imported, at every full collection later, and when the process ends, which alone takes a
    fifth of a short command's time.
    """
    if "torch" in sys.modules:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        import_module("torch")
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
