"""What kernels that are written by hand in C share: vectors of floats, tensors of any float type."""

from __future__ import annotations

from importlib import resources

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL"}
"""The names that `vectors.h` gives to types of tensors."""


def header(name: str) -> str:
    """The text of a C file of this package: definitions of static functions, a helper of native functions."""
    return (resources.files("occ.codegen.native") / name).read_text()


def row(numbers: tuple[int, ...]) -> str:
    """Numbers as the initialiser of an array."""
    return "{" + ", ".join(map(str, numbers)) + "}"
