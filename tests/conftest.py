"""Set before anything imports Triton: without a GPU its kernels are run by its interpreter."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
