"""Taking memory from the system by several threads, in the order in which it is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from .threads import started

BLOCK_NBYTES = 8 << 20
"""Whole huge pages: two threads that meet in one would each clear it. Larger blocks keep readers waiting."""


class Touching:
    """`touch(begin, end)` is called for each block of `nbytes` bytes by `threads` threads, first for those
    that hold one of the spans `first` (begin, bytes), in their order.

    Clearing pages is work for a processor, and where a virtual machine has to get them from its host, it
    takes longer than to read as many bytes from storage; reads of the early blocks go on beside it.
    """

    def __init__(
        self, touch: Callable[[int, int], None], nbytes: int, first: Iterable[tuple[int, int]], threads: int
    ) -> None:
        self._touch = touch
        self._nbytes = nbytes
        blocks = range(-(-nbytes // BLOCK_NBYTES))
        self._touched = [threading.Event() for _ in blocks]
        early = (block for begin, size in first for block in _blocks_of(begin, size))
        self._left = iter(list(dict.fromkeys([*early, *blocks])))
        self._taking = threading.Lock()
        self._threads = started([self._serve] * min(threads, len(blocks)), "touching")

    def wait_for(self, begin: int, nbytes: int) -> None:
        """Return when `nbytes` bytes from `begin` are there."""
        for block in _blocks_of(begin, nbytes):
            self._touched[block].wait()

    def join(self) -> None:
        """Return when all bytes are there."""
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            with self._taking:
                block = next(self._left, None)
            if block is None:
                return
            begin = block * BLOCK_NBYTES
            self._touch(begin, min(begin + BLOCK_NBYTES, self._nbytes))
            self._touched[block].set()


def _blocks_of(begin: int, nbytes: int) -> range:
    return range(begin // BLOCK_NBYTES, -(-(begin + nbytes) // BLOCK_NBYTES))
