"""Reading the artifact's bytes straight into memory that exists already."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from .integrity import DamageError

PAGE = 4096


class WeightFile:
    """An artifact opened for reading.

    Direct reads (O_DIRECT) bypass the page cache; where the file system has none, reads are buffered and
    their pages dropped from the cache at once. `direct` says which it is.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._buffered = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._open = [self._buffered]
        try:
            self._direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            self._open.append(self._direct)
            self.direct = True
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                os.close(self._buffered)
                raise
            self.direct = False

    def signature(self) -> tuple[int, int, int]:
        """Changes whenever the file's bytes are changed through the file system (size, mtime, ctime)."""
        status = os.fstat(self._buffered)
        return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def read_pages(self, into: memoryview, offset: int) -> None:
        """Fill `into` from `offset`; address, length and offset are multiples of 4096.

        Raises DamageError where the file ends early or the device fails.
        """
        if self.direct:
            try:
                self._fill(self._direct, into, offset, PAGE)
                return
            except OSError as error:
                # Some file systems open a file for direct reads and then refuse each of them.
                if error.errno != errno.EINVAL:
                    raise self._failed(error, len(into), offset) from error
                self.direct = False
        self.read_bytes(into, offset)

    def read_bytes(self, into: memoryview, offset: int) -> None:
        """Fill `into` from `offset`, at any alignment, and drop the pages from the page cache."""
        try:
            self._fill(self._buffered, into, offset, 1)
            os.posix_fadvise(self._buffered, offset, len(into), os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._failed(error, len(into), offset) from error

    def drop_cached(self) -> None:
        """Drop the file's pages from the page cache: those of the archive, which was read the usual way."""
        with suppress(OSError):
            os.posix_fadvise(self._buffered, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file. No read may be under way."""
        while self._open:
            os.close(self._open.pop())

    def _fill(self, descriptor: int, into: memoryview, offset: int, unit: int) -> None:
        done = 0
        while done < len(into):
            count = os.preadv(descriptor, [into[done:]], offset + done)
            # A direct read may stop short only between pages; elsewhere it has met the end of the file.
            count -= count % unit if done + count < len(into) else 0
            if count <= 0:
                raise DamageError(
                    f"{self.path} is damaged: it ends at byte {os.fstat(descriptor).st_size},"
                    f" within the {len(into)} bytes of weights at {offset}; copy or compile it again"
                )
            done += count

    def _failed(self, error: OSError, nbytes: int, offset: int) -> DamageError:
        return DamageError(
            f"cannot read {nbytes} bytes at {offset} of {self.path}: {error.strerror or error}"
        )
