"""Memory that readers write to directly: private, anonymous, and in huge pages where the system has them."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress

from .errors import NotEnoughMemoryError
from .memory import available_nbytes

PAGE = 4096
HUGE_PAGE = 2 << 20
_MADV_POPULATE_WRITE = 23


class HugePages:
    """`nbytes` bytes (a multiple of 4096) of address space at `address`, which `touch` takes from the system;
    refused where there is less memory left. `purpose` and `option` are what an error calls them, and which
    option makes them fewer.

    A direct read into huge pages needs a few long requests instead of one piece for every small page, which
    is faster and leaves the processor to the kernels. What the last one has beyond `nbytes` is given back,
    so the end lies in small pages, but side by side.

    `memory` are the bytes for readers and checksums. Raises NotEnoughMemoryError.
    """

    def __init__(self, nbytes: int, purpose: str, option: str = "--budget") -> None:
        left, where = available_nbytes()
        if left is not None and nbytes > left:
            raise NotEnoughMemoryError(
                f"{purpose} takes {nbytes} bytes and {left} are available {where};"
                f" free memory or plan again with a smaller {option}"
            )
        self.nbytes = max(nbytes, PAGE)
        self._over = -self.nbytes % HUGE_PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            # Address space; what lies before and after the huge pages in it is never touched.
            self._map = mmap.mmap(-1, self.nbytes + self._over + HUGE_PAGE, flags=flags)
        except OSError as error:
            raise NotEnoughMemoryError(f"the system refuses {nbytes} bytes for {purpose}: {error}") from error
        mapped_at = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        begin = -mapped_at % HUGE_PAGE
        with suppress(OSError):  # of a kernel built without them
            self._map.madvise(mmap.MADV_HUGEPAGE, begin, self.nbytes + self._over)
        self.address = mapped_at + begin
        self.memory = memoryview(self._map)[begin : begin + self.nbytes]

    def touch(self, begin: int, end: int) -> None:
        """Take the pages of bytes [begin, end) from the system, without changing a byte of them; both are
        multiples of 4096.

        The kernel does that for a whole range at once, which is ten times as fast as threads that meet in its
        huge pages; one before 5.14 cannot.
        """
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if madvise(self.address + begin, end - begin, _MADV_POPULATE_WRITE) != 0:
            for place in range(begin, end, PAGE):
                self.memory[place] |= 0
        if end == self.nbytes and self._over:
            # Of the last huge page only its first part is kept; it must not grow to a whole one again.
            madvise(self.address + end, self._over, mmap.MADV_DONTNEED)
            madvise(self.address + end, self._over, mmap.MADV_NOHUGEPAGE)

    def close(self) -> None:
        """Give the memory back to the system. Whatever still shows it reads as zeros."""
        self.memory.release()
        # The pages go now. The address range goes with the last tensor over it, which may outlive this call
        # (in a traceback, say): torch keeps the mapping object alive, and unmapping under it would crash.
        self._map.madvise(mmap.MADV_DONTNEED)
        del self._map
