"""How the dimensions of two loops correspond, where one reads what the other writes.

A dimension is cut into digits, as a number is in a system of mixed bases: cutting one is possible in any
layout, and two views of the same dense bytes have the same digits in another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

Place = tuple[int, int]
"""A dimension, and by how many indices of it one of a digit moves."""


@dataclass(frozen=True, slots=True)
class Digit:
    """`size` indices; `first` and `second` are its places in either loop, None in one that lacks it."""

    size: int
    first: Place | None
    second: Place | None


@dataclass(frozen=True, slots=True)
class Frame:
    """The dimensions of two loops in one: those outside of rows, then those of rows. `starts` gives the first
    index along dimensions of the first loop of which the second needs a part."""

    outer: tuple[Digit, ...]
    row: tuple[Digit, ...]
    starts: tuple[tuple[int, int], ...] = ()

    @property
    def digits(self) -> tuple[Digit, ...]:
        return (*self.outer, *self.row)

    def of_first(self, meta: torch.Tensor) -> torch.Tensor:
        """A tensor of the first loop with these dimensions."""
        begin = sum(start * meta.stride(dim) for dim, start in self.starts if meta.shape[dim] != 1)
        return _seen(meta, [(digit.size, digit.first) for digit in self.digits], begin)

    def of_second(self, meta: torch.Tensor) -> torch.Tensor:
        """A tensor of the second loop with these dimensions."""
        return _seen(meta, [(digit.size, digit.second) for digit in self.digits], 0)


def _seen(
    meta: torch.Tensor, places: Iterable[tuple[int, tuple[int, int] | None]], begin: int
) -> torch.Tensor:
    shape, strides = [], []
    for size, place in places:
        moves = place is not None and meta.shape[place[0]] != 1
        shape.append(size if moves else 1)
        strides.append(meta.stride(place[0]) * place[1] if place is not None and moves else 1)
    return meta.as_strided(shape, strides, int(meta.storage_offset()) + begin)


@dataclass(frozen=True, slots=True)
class Region:
    """The dimensions of a loop: their sizes, and how many of the last are those of rows."""

    shape: tuple[int, ...]
    rows: int

    @property
    def first_row(self) -> int:
        return len(self.shape) - self.rows


def common_frame(written: torch.Tensor, one: Region, read: torch.Tensor, other: Region) -> Frame | None:
    """The frame of a loop over `one` that writes `written` and a loop over `other` that reads the same bytes
    as `read`. None where there is none in which every element is computed once."""
    if not _same_bytes(written, read):
        return None
    part = _digits(written, read)
    if part is None:
        return None
    digits, _ = part
    # Dimensions along which the second loop reads the same element again, and those that the first reduced.
    repeated = _lacking(read, other)
    reduced = _lacking(written, one)
    if not reduced:
        return None if repeated else _with_rows(digits, one, other)
    if any(digit.second is not None and digit.second[0] >= other.first_row for digit in digits):
        return None
    if repeated:
        row = _refined(reduced, repeated)
        if row is None:
            return None
    else:
        row = [Digit(size, (dim, 1), None) for dim, size in reduced]
    inside = {digit.second[0] for digit in row if digit.second is not None}
    if other.rows and inside != {d for d in range(other.first_row, len(other.shape)) if other.shape[d] > 1}:
        return None
    return Frame(_ordered(digits), _ordered(row))


def part_frame(written: torch.Tensor, read: torch.Tensor, other: Region) -> Frame | None:
    """The frame of a loop over `other` that computes by itself what it reads as `read`: elements that a loop
    without rows would write to `written`, all of them or some. None where the view does not show that."""
    part = _digits(written, read)
    if part is None:
        return None
    digits, starts = part
    digits = digits + [Digit(size, None, (dim, 1)) for dim, size in _lacking(read, other)]
    inside = [d for d in digits if d.second is not None and d.second[0] >= other.first_row and other.rows]
    return Frame(_ordered([d for d in digits if d not in inside]), _ordered(inside), starts)


def _lacking(meta: torch.Tensor, region: Region) -> list[tuple[int, int]]:
    """Dimensions of a region in which a tensor has one element, the innermost first, with their sizes."""
    dims = reversed(range(len(region.shape)))
    return [(d, region.shape[d]) for d in dims if meta.shape[d] == 1 and region.shape[d] > 1]


def _with_rows(digits: list[Digit], one: Region, other: Region) -> Frame | None:
    """Digits of elements that both loops visit, divided as the loops with rows have it."""
    of_first = {d for d in digits if one.rows and d.first is not None and d.first[0] >= one.first_row}
    of_second = {d for d in digits if other.rows and d.second is not None and d.second[0] >= other.first_row}
    if one.rows and other.rows and of_first != of_second:
        return None
    inside = of_first or of_second
    if (one.rows or other.rows) and not inside:
        return None
    return Frame(_ordered([d for d in digits if d not in inside]), _ordered(inside))


def _ordered(digits: Sequence[Digit] | set[Digit]) -> tuple[Digit, ...]:
    """In the order of the second loop's dimensions, those that only the first has last."""

    def key(digit: Digit) -> tuple[bool, int, int]:
        dim, moves = digit.second or digit.first or (0, 0)
        return (digit.second is None, dim, -moves)

    return tuple(sorted(digits, key=key))


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two views show the same dense bytes, each element once."""
    return (
        one.storage_offset() == other.storage_offset()
        and one.numel() == other.numel()
        and dense_dims(one) is not None
        and dense_dims(other) is not None
    )


def dense_dims(meta: torch.Tensor) -> list[int] | None:
    """The dimensions of more than one element of a tensor without gaps, the innermost in memory first; None
    of one that has some."""
    found = sorted((meta.stride(d), d) for d in range(meta.dim()) if meta.shape[d] != 1)
    reach = 1
    for stride, dim in found:
        if stride != reach:
            return None
        reach *= meta.shape[dim]
    return [dim for _, dim in found]


def _digits(
    written: torch.Tensor, read: torch.Tensor
) -> tuple[list[Digit], tuple[tuple[int, int], ...]] | None:
    """The digits of `read`, a view of the dense `written`, in the dimensions of both, and where it begins
    along those of `written`; None where its strides are not made of those."""
    dims = dense_dims(written)
    rest = int(read.storage_offset() - written.storage_offset())
    if dims is None or rest < 0:
        return None
    used: dict[int, int] = {}
    for dim in reversed(dims):
        used[dim], rest = divmod(rest, written.stride(dim))
    if rest:
        return None
    starts = tuple((dim, start) for dim, start in used.items() if start)
    digits: list[Digit] = []
    for dim in range(read.dim()):
        size, stride, moves = read.shape[dim], read.stride(dim), 1
        if size > 1 and stride == 0:
            digits.append(Digit(size, None, (dim, 1)))
            continue
        while size > 1:
            inside = [d for d in dims if written.stride(d) <= stride]
            if not inside or stride % written.stride(inside[-1]):
                return None
            place = inside[-1]
            step, extent = stride // written.stride(place), written.shape[place]
            if used[place] + step * (size - 1) < extent:
                digits.append(Digit(size, (place, step), (dim, moves)))
                used[place] += step * (size - 1)
                break
            # The rest of this dimension, and on in the next one outside of it.
            count = extent // step
            if used[place] or extent % step or size % count or count == 1:
                return None
            digits.append(Digit(count, (place, step), (dim, moves)))
            used[place] = step * (count - 1)
            size, stride, moves = size // count, written.stride(place) * extent, moves * count
    if any(start >= written.shape[dim] for dim, start in used.items()):
        return None
    return digits, starts


def _refined(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> list[Digit] | None:
    """The coarsest digits that two lists of dimensions and sizes are made of, the innermost first."""
    digits: list[Digit] = []
    left, right = list(one), list(other)
    moves = [1, 1]
    while left and right:
        (dim, size), (other_dim, other_size) = left[0], right[0]
        least = min(size, other_size)
        if size % least or other_size % least:
            return None
        digits.append(Digit(least, (dim, moves[0]), (other_dim, moves[1])))
        for side, rest, whole in ((0, left, size), (1, right, other_size)):
            if whole == least:
                rest.pop(0)
                moves[side] = 1
            else:
                rest[0] = (rest[0][0], whole // least)
                moves[side] *= least
    return None if left or right else digits


def simplest(metas: Sequence[torch.Tensor], row: int) -> tuple[list[torch.Tensor], int]:
    """The same tensors with neighbouring dimensions made one where all allow it, outside of rows and inside;
    and how many dimensions rows have then."""
    rank = metas[0].dim()
    groups: list[list[int]] = []
    for dim in range(rank):
        inside = dim != rank - row
        if groups and inside and all(_follow(meta, groups[-1][-1], dim) for meta in metas):
            groups[-1].append(dim)
        else:
            groups.append([dim])
    rows = sum(group[0] >= rank - row for group in groups)
    found = []
    for meta in metas:
        shape, strides = [], []
        for group in groups:
            size = 1
            for dim in group:
                size *= meta.shape[dim]
            shape.append(size)
            strides.append(meta.stride(group[-1]) if size > 1 else 1)
        found.append(meta.as_strided(shape, strides, meta.storage_offset()))
    return found, rows


def _follow(meta: torch.Tensor, outer: int, inner: int) -> bool:
    """Whether two dimensions are one with a constant stride."""
    if meta.shape[outer] == 1 and meta.shape[inner] == 1:
        return True
    if meta.shape[outer] == 1 or meta.shape[inner] == 1:
        return False
    return bool(meta.stride(outer) == meta.stride(inner) * meta.shape[inner])
