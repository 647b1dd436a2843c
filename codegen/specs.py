"""Operands as the code generation sees them: types and layouts, no memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spec:
    """Type and layout of a tensor: strides in elements. `packed` is the shape that packed bytes stand for."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    packed: tuple[int, ...] = ()


Operand = object
"""A Spec, or a literal (None, bool, number, string, or a tuple of operands)."""
