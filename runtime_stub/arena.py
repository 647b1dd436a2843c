"""The arena: the one allocation that holds every value, weight, state and scratch of a program."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from .errors import NotEnoughMemoryError
from .memory import available_nbytes
from .touching import Touching

PAGE = 4096
HUGE_PAGE = 2 << 20
_MADV_POPULATE_WRITE = 23


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
    """`nbytes` bytes (a multiple of 4096) of page-aligned, private, anonymous memory, refused where there is
    less of it left. It is taken from the system at once, or, without `touched`, by `begin_touching`.
    `purpose` and `option` are what an error calls it, and which option makes it smaller.

    It lies in huge pages where the system has them: a direct read then needs a few long requests instead of
    one piece for every small page, which is faster and leaves the processor to the kernels. What the last one
    has beyond the arena is given back, so the arena's end lies in small pages, but side by side.

    `memory` is the same bytes for readers and checksums. Raises NotEnoughMemoryError.
    """

    def __init__(
        self, nbytes: int, touched: bool = True, purpose: str = "the arena", option: str = "--budget"
    ) -> None:
        left, where = available_nbytes()
        if left is not None and nbytes > left:
            raise NotEnoughMemoryError(
                f"{purpose} takes {nbytes} bytes and {left} are available {where};"
                f" free memory or plan again with a smaller {option}"
            )
        self.nbytes = nbytes
        size = max(nbytes, PAGE)
        self._over = -size % HUGE_PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            # Address space; what lies before and after the arena's huge pages in it is never touched.
            self._map = mmap.mmap(-1, size + self._over + HUGE_PAGE, flags=flags)
        except OSError as error:
            raise NotEnoughMemoryError(f"the system refuses {nbytes} bytes for {purpose}: {error}") from error
        begin = -torch.frombuffer(self._map, dtype=torch.uint8).data_ptr() % HUGE_PAGE
        with suppress(OSError):  # of a kernel built without them
            self._map.madvise(mmap.MADV_HUGEPAGE, begin, size + self._over)
        self.memory = memoryview(self._map)[begin : begin + size]
        whole = torch.frombuffer(memoryview(self._map)[begin : begin + size], dtype=torch.uint8)
        super().__init__(whole)
        self.address = whole.data_ptr()
        self._touching: Touching | None = None
        if touched:
            self._touch(0, size)

    def begin_touching(self, first: Iterable[tuple[int, int]], threads: int) -> None:
        """Have `threads` threads take the arena's pages from the system, first those of the spans `first`
        (begin, bytes), in their order; returns at once."""
        self._touching = Touching(self._touch, self.nbytes, first, threads)

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

    def _touch(self, begin: int, end: int) -> None:
        """Take the pages of bytes [begin, end) from the system, without changing a byte of them; both are
        multiples of 4096.

        The kernel does that for a whole range at once, which is ten times as fast as threads that meet in its
        huge pages; one before 5.14 cannot.
        """
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if madvise(self.address + begin, end - begin, _MADV_POPULATE_WRITE) != 0:
            self.bytes[begin:end:PAGE].bitwise_or_(0)
        if end == self.bytes.numel() and self._over:
            # Of the last huge page the arena keeps its own part; it must not grow to a whole one again.
            madvise(self.address + end, self._over, mmap.MADV_DONTNEED)
            madvise(self.address + end, self._over, mmap.MADV_NOHUGEPAGE)

    def close(self) -> None:
        """Give the memory back to the system. Views that somebody still holds read as zeros."""
        if not self._typed:
            return
        self.end_touching()
        super().close()
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
