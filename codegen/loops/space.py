"""The dimensions that a loop runs over, merged and in the order of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from occ.codegen.specs import Spec
from occ.errors import InternalError


@dataclass(frozen=True, slots=True)
class Axis:
    """`size` iterations, each a stride (in elements, 0 where it does not move) further in every tensor."""

    size: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """Axes outside of rows and inside, outermost first; strides are those of operands, then results."""

    outer: tuple[Axis, ...]
    inner: tuple[Axis, ...]

    @property
    def row_elements(self) -> int:
        return prod(axis.size for axis in self.inner)

    @property
    def rows(self) -> int:
        return prod(axis.size for axis in self.outer)


def full_shape(tensors: Sequence[Spec]) -> tuple[int, ...]:
    """The shape that tensors broadcast to. Raises InternalError where they do not."""
    rank = max(len(tensor.shape) for tensor in tensors)
    shape = [1] * rank
    for tensor in tensors:
        for dim, size in enumerate(tensor.shape, rank - len(tensor.shape)):
            if size != 1 and shape[dim] not in (1, size):
                raise InternalError(f"{tensor.shape} does not broadcast with {tuple(shape)}")
            shape[dim] = size if size != 1 else shape[dim]
    return tuple(shape)


def space_of(tensors: Sequence[Spec], row: int, leading: int) -> Space:
    """The space of a loop over `tensors`, rows being the last `row` dimensions.

    Axes are in the order of memory of tensor `leading`, which spans the whole space. Those whose strides
    allow it in every tensor are one.
    """
    shape = full_shape(tensors)
    if row > len(shape):
        raise InternalError(f"rows of {row} dimensions in {shape}")
    axes = []
    for dim, size in enumerate(shape):
        strides = []
        for tensor in tensors:
            place = dim - len(shape) + len(tensor.shape)
            strides.append(tensor.strides[place] if place >= 0 and tensor.shape[place] != 1 else 0)
        axes.append(Axis(size, tuple(strides)))
    split = len(shape) - row
    return Space(_merged(axes[:split], leading), _merged(axes[split:], leading))


def _merged(axes: Sequence[Axis], leading: int) -> tuple[Axis, ...]:
    """The axes in the order of memory, neighbours merged where strides follow each other in every tensor."""
    ordered = sorted((axis for axis in axes if axis.size != 1), key=lambda axis: -axis.strides[leading])
    found: list[Axis] = []
    for axis in ordered:
        if found and all(
            outer == axis.size * inner for outer, inner in zip(found[-1].strides, axis.strides, strict=True)
        ):
            found[-1] = Axis(found[-1].size * axis.size, axis.strides)
        else:
            found.append(axis)
    return tuple(found)
