"""Blocks of places in tensors: what a program of a kernel computes, as lines of Triton."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from occ.codegen.loops.space import Axis
from occ.codegen.specs import Spec

PROGRAMS = 256
"""Programs that keep a large GPU busy: blocks are made smaller rather than fewer programs."""

WIDE = 2**31 - 65536
"""Places from which on numbers of 32 bits might not do."""


@dataclass(frozen=True, slots=True)
class Places:
    """Places along `axes`, numbered through: `name` is a vector of the numbers of `block` of them. `expand`
    puts it at its dimension of a block of two."""

    name: str
    axes: tuple[Axis, ...]
    block: int
    expand: str = ""

    @property
    def total(self) -> int:
        return math.prod(axis.size for axis in self.axes)

    @property
    def masked(self) -> bool:
        """Whether the last block has numbers beyond the last place."""
        return self.total % self.block != 0

    @property
    def names(self) -> list[str]:
        """What the place along each axis is called."""
        single = len(self.axes) == 1
        return [self.name if single else f"{self.name}{n}" for n in range(len(self.axes))]

    def divided(self) -> Iterator[str]:
        """Statements that give the place along each axis."""
        if len(self.axes) < 2:
            return
        inner = self.total
        for n, (name, axis) in enumerate(zip(self.names, self.axes, strict=True)):
            inner //= axis.size
            over = f"{self.name} // {inner}" if inner > 1 else self.name
            yield f"{name} = {over}" + (f" % {axis.size}" if n else "")

    def vector(self, first: str, wide: bool = False) -> str:
        """The statement that gives the numbers from `first` on (from 0 where it is empty), in 64 bits where
        `wide`."""
        numbers = f"tl.arange(0, {self.block}){self.expand}"
        numbers = f"{numbers}.to(tl.int64)" if wide else numbers
        return f"{self.name} = {first} + {numbers}" if first else f"{self.name} = {numbers}"

    def of_program(self, program: str, wide: bool = False) -> str:
        """The statement that gives the numbers of block `program`."""
        return self.vector(program if self.block == 1 else f"{program} * {self.block}", wide)

    def terms(self, tensor: int) -> list[str]:
        """What a tensor's elements are away from its first, as terms of a sum."""
        return [
            name if axis.strides[tensor] == 1 else f"{name} * {axis.strides[tensor]}"
            for name, axis in zip(self.names, self.axes, strict=True)
            if axis.strides[tensor]
        ]


def pointer(name: str, terms: list[str]) -> str:
    """The pointer `name`, moved by the sum of `terms`."""
    if len(terms) > 1:
        return f"{name} + ({' + '.join(terms)})"
    return f"{name} + {terms[0]}" if terms else name


def program_number(wide: bool) -> str:
    return "tl.program_id(0).to(tl.int64)" if wide else "tl.program_id(0)"


def reach(spec: Spec) -> int:
    """The number of elements from a tensor's first to its last."""
    return sum((size - 1) * stride for size, stride in zip(spec.shape, spec.strides, strict=True))


def power(number: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << max(number - 1, 0).bit_length()
