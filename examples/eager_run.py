"""Serve the model of a MODEL.py in eager PyTorch: `python eager_run.py MODEL.py`, requests on standard input.

The model's imports count as the process's own memory, the model itself does not (see measuring.py).
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from measuring import serve

path = Path(sys.argv[1]).resolve()
sys.path.insert(0, str(path.parent))
definition = runpy.run_path(str(path))
serve(definition["model"])
