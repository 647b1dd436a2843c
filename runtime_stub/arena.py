"""The arena: the one allocation that holds every value, weight, state and scratch of a program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .hugepages import HugePages
from .touching import Touching


class Views:
    """Typed, strided views of `whole`, a row of uint8."""

    def __init__(self, whole: Tensor) -> None:
        self._typed: dict[torch.dtype, Tensor] = {torch.uint8: whole}

    def view(
        self,
        offset: int,
        dtype: torch.dtype,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
    ) -> Tensor:
        """The tensor at byte `offset`; `strides` in elements, contiguous where they are not given."""
        whole = self._typed.get(dtype)
        if whole is None:
            whole = self._typed[dtype] = self.bytes.view(dtype)
        if offset % dtype.itemsize:
            raise ValueError(f"offset {offset} is not aligned to {dtype}")
        if strides is None:
            strides = contiguous_strides(shape)
        return whole.as_strided(tuple(shape), tuple(strides), offset // dtype.itemsize)

    @property
    def bytes(self) -> Tensor:
        """All of them. Raises ValueError after `close`."""
        if not self._typed:
            raise ValueError("the arena is closed")
        return self._typed[torch.uint8]

    def close(self) -> None:
        """Let go of the bytes; views that somebody still holds stay."""
        self._typed.clear()


class Arena(Views):
    """`nbytes` bytes (a multiple of 4096) of memory in huge pages (`HugePages`). They are taken from the
    system at once, or, without `touched`, by `begin_touching`. `purpose` and `option` are what an error calls
    them, and which option makes them fewer.

    `memory` is the same bytes for readers and checksums. Raises NotEnoughMemoryError.
    """

    def __init__(
        self, nbytes: int, touched: bool = True, purpose: str = "the arena", option: str = "--budget"
    ) -> None:
        self._pages = HugePages(nbytes, purpose, option)
        self.nbytes = nbytes
        self.address = self._pages.address
        self.memory = self._pages.memory
        # A slice of its own: `memory` is released when the arena is closed, and a tensor may outlive that.
        super().__init__(torch.frombuffer(self.memory[:], dtype=torch.uint8))
        self._touching: Touching | None = None
        if touched:
            self._pages.touch(0, self._pages.nbytes)

    def begin_touching(self, first: Iterable[tuple[int, int]], threads: int) -> None:
        """Have `threads` threads take the arena's pages from the system, first those of the spans `first`
        (begin, bytes), in their order; returns at once."""
        self._touching = Touching(self._pages.touch, self.nbytes, first, threads)

    def wait_for(self, begin: int, nbytes: int) -> None:
        """Return when `nbytes` bytes from `begin` are taken from the system."""
        touching = self._touching
        if touching is not None:
            touching.wait_for(begin, nbytes)

    def end_touching(self) -> None:
        """Return when all of the arena is taken from the system."""
        if self._touching is not None:
            self._touching.join()
            self._touching = None

    def close(self) -> None:
        """Give the memory back to the system. Views that somebody still holds read as zeros."""
        if not self._typed:
            return
        self.end_touching()
        super().close()
        self._pages.close()


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a dense row-major tensor."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
