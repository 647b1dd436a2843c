"""Serve a network of the zoo in eager PyTorch: `python eager_zoo.py NAME`, requests on standard input."""

from __future__ import annotations

import sys

from measuring import serve
from zoo_models import build

serve(lambda: build(sys.argv[1]).module)
