"""Bytes that are taken and given back in one order, round and round."""

from __future__ import annotations

from collections import deque


class Ring:
    """`nbytes` bytes from `begin` of some memory. Not safe for threads."""

    def __init__(self, begin: int, nbytes: int) -> None:
        if nbytes <= 0:
            raise ValueError(f"a ring of {nbytes} bytes holds nothing")
        self._begin = begin
        self._nbytes = nbytes
        self._head = 0
        self._taken: deque[int] = deque()
        self.free = nbytes

    def take(self, wanted: int) -> tuple[int, int] | None:
        """(address, bytes) of the next `wanted` bytes, or of fewer where the ring ends before; None where
        these are not free."""
        nbytes = min(wanted, self._nbytes - self._head)
        if nbytes > self.free:
            return None
        address = self._begin + self._head
        self._head = (self._head + nbytes) % self._nbytes
        self.free -= nbytes
        self._taken.append(nbytes)
        return address, nbytes

    def give_back(self) -> None:
        """Free what was taken first."""
        self.free += self._taken.popleft()

    def clear(self) -> None:
        """Free everything."""
        self._taken.clear()
        self._head = 0
        self.free = self._nbytes
