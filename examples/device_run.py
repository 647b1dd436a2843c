"""Serve a compiled program: `python device_run.py model.occ`, requests on standard input (see measuring.py).

This is also how a device uses a program from Python of its own: put the file on `sys.path`, as one would a
zip, and import the runtime that travels in it. It refuses to run where occ itself can be imported, so that
what it shows needs nothing of it.
"""

# ruff: noqa: E402  OpenMP's settings bind only before torch is imported.

from __future__ import annotations

import sys
from importlib.util import find_spec

if find_spec("occ") is not None:
    sys.exit("occ can be imported here, so this would not show that a program runs without it")

artifact = sys.argv[1]
sys.path.insert(0, artifact)

from runtime_stub.integrity import check_archive
from runtime_stub.machine import set_openmp

set_openmp(check_archive(artifact)["machine"])

from measuring import serve

from runtime_stub.program import load

serve(lambda: load(artifact))
