"""The arena: the one allocation that holds every value, weight, state and scratch of a program."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import NotEnoughMemoryError
from .memory import available_nbytes

PAGE = 4096


class Arena:
    """`nbytes` bytes (a multiple of 4096) of page-aligned, private, anonymous memory, all of it touched at
    once, so that too little memory is an error at the start and not in the middle of a run.

    `memory` is the same bytes for readers and checksums. Raises NotEnoughMemoryError.
    """

    def __init__(self, nbytes: int) -> None:
        left, where = available_nbytes()
        if left is not None and nbytes > left:
            raise NotEnoughMemoryError(
                f"the arena takes {nbytes} bytes and {left} are available {where};"
                " free memory or plan again with a smaller --budget"
            )
        self.nbytes = nbytes
        try:
            self._map = mmap.mmap(-1, max(nbytes, PAGE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise NotEnoughMemoryError(f"the system refuses an arena of {nbytes} bytes: {error}") from error
        self.memory = memoryview(self._map)
        self._bytes: Tensor | None = torch.frombuffer(self._map, dtype=torch.uint8)
        self._bytes[::PAGE] = 0
        self._typed: dict[torch.dtype, Tensor] = {torch.uint8: self._bytes}
        self.address = self._bytes.data_ptr()

    def view(
        self,
        offset: int,
        dtype: torch.dtype,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
    ) -> Tensor:
        """The tensor at byte `offset`; `strides` in elements, contiguous where they are not given."""
        if self._bytes is None:
            raise ValueError("the arena is closed")
        whole = self._typed.get(dtype)
        if whole is None:
            whole = self._typed[dtype] = self._bytes.view(dtype)
        if offset % dtype.itemsize:
            raise ValueError(f"offset {offset} is not aligned to {dtype}")
        if strides is None:
            strides = contiguous_strides(shape)
        return whole.as_strided(tuple(shape), tuple(strides), offset // dtype.itemsize)

    def close(self) -> None:
        """Give the memory back to the system. Views that somebody still holds read as zeros."""
        if self._bytes is None:
            return
        self._bytes = None
        self._typed.clear()
        self.memory.release()
        # The pages go now. The address range goes with the last view of it, which may outlive this call (in
        # a traceback, say): torch keeps the mapping object alive, and unmapping under a view would crash.
        self._map.madvise(mmap.MADV_DONTNEED)
        del self._map


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a dense row-major tensor."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
