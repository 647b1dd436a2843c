"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before anything imports Triton: without a GPU its kernels are run by its interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session", autouse=True)
def kept_measuring_processes() -> Iterator[None]:
    """Compiles in this process share those that measure kernels."""
    from tests.measuring_processes import KeptChild

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("occ.measure.Child", KeptChild)
        yield
