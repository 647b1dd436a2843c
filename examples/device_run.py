"""Serve a compiled program: `python device_run.py model.occ`, requests on standard input (see measuring.py).

This is also how a device uses a program from Python of its own: put the file on `sys.path`, as one would a
zip, and import the runtime that travels in it. It refuses to run where occ itself can be imported, so that
what it shows needs nothing of it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from measuring import serve

if find_spec("occ") is not None:
    sys.exit("occ can be imported here, so this would not show that a program runs without it")

sys.path.insert(0, sys.argv[1])

from runtime_stub.program import load

serve(lambda: load(sys.argv[1]))
