"""Serve the reading of a program without its computing: `python read_alone.py model.occ` (see measuring.py).

A run submits the program's loads in their order, as fast as the loader takes them, and ends when the last one
is complete: what streaming costs where nothing has to be waited for but the storage.
"""

# ruff: noqa: E402  OpenMP's settings bind only before torch is imported.

from __future__ import annotations

import re
import sys
from typing import Any

artifact = sys.argv[1]
sys.path.insert(0, artifact)

from runtime_stub.integrity import check_archive
from runtime_stub.machine import set_openmp

set_openmp(check_archive(artifact)["machine"])

from measuring import serve

from runtime_stub.program import Program, load


class ReadAlone:
    """The loads of a loaded program."""

    def __init__(self, program: Program) -> None:
        self._program = program  # whose end would close the loader
        self._loader = program._loader
        self._tiles = [int(tile) for tile in re.findall(r"^ {4}load\((\d+)\)", program.text, re.MULTILINE)]
        # A tile is checked at its first load. Without the steps between them loads overwrite each other.
        for tile in self._tiles:
            self._loader.load(tile)
            self._loader.wait(tile)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        for tile in self._tiles:
            self._loader.load(tile)
        for tile in self._tiles:
            self._loader.wait(tile)


serve(lambda: ReadAlone(load(artifact)))
