"""Kernels that the artifact carries as Python text, which a compiler on the device reads again."""

from __future__ import annotations

import linecache
import sys
from types import ModuleType

from .errors import MachineError


def module_of(text: str, filename: str, name: str) -> ModuleType:
    """A module with the functions of `text`; `filename` is what they say they come from.

    Triton compiles a function from its source lines, which come from `linecache`, as do those of a traceback;
    it looks for the module among `sys.modules`. `forget` ends both. Raises MachineError where the text needs
    a package that is missing.
    """
    module = ModuleType(name)
    module.__file__ = filename
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    sys.modules[name] = module
    try:
        exec(compile(text, filename, "exec", dont_inherit=True), module.__dict__)
    except ImportError as error:
        forget(module)
        raise MachineError(
            f"the program's kernels need a package that cannot be imported ({error}); pip install triton"
        ) from error
    return module


def forget(module: ModuleType) -> None:
    """Take back what `module_of` has put into the interpreter's tables."""
    linecache.cache.pop(str(module.__file__), None)
    sys.modules.pop(module.__name__, None)
