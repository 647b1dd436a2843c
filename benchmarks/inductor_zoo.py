"""Serve a network of the zoo through torch.compile with frozen weights: `python inductor_zoo.py NAME`.

Requests on standard input; the first one compiles.
"""

from __future__ import annotations

import sys

import torch._inductor.config
from measuring import serve
from zoo_models import build

torch._inductor.config.freezing = True
serve(lambda: torch.compile(build(sys.argv[1]).module))
