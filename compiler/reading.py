"""Reading a file as a program's loader does, to see how fast that is and what it costs kernels beside it."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from occ.errors import UsageError
from occ.runtime_stub.hugepages import HugePages
from occ.runtime_stub.jobs import REQUEST_NBYTES, THREADS
from occ.runtime_stub.storage import WeightFile
from occ.units import format_bytes

SAMPLE_NBYTES = 128 << 20

PASSES = 5
REQUESTS_NBYTES = (256 << 10, 1 << 20, REQUEST_NBYTES)
"""Sizes of the requests that reading is measured with."""

LATE = 0.95
"""Of a hundred requests so many are not later than what the profile calls late."""

Result = TypeVar("Result")


@contextmanager
def sample_file(directory: Path) -> Iterator[Path]:
    """A file of SAMPLE_NBYTES on the disk, gone afterwards."""
    block = os.urandom(8 << 20)
    try:
        with tempfile.NamedTemporaryFile(prefix=".occ-profile-", dir=directory) as file:
            for _ in range(SAMPLE_NBYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            yield Path(file.name)
    except OSError as error:
        raise UsageError(
            f"cannot write {format_bytes(SAMPLE_NBYTES)} to {directory} to measure how fast it is read:"
            f" {error.strerror}"
        ) from error


class Sample:
    """A file read as the loader reads weights: by its number of threads, which always have work."""

    def __init__(self, path: str) -> None:
        self._file = WeightFile(path)
        self._nbytes = os.stat(path).st_size
        self._pages = HugePages(THREADS * REQUEST_NBYTES, "reading a sample")
        self._pages.touch(0, self._pages.nbytes)

    def request_seconds(self, meanwhile: Callable[[], object]) -> list[tuple[int, float, float]]:
        """Bytes of a request, the seconds that each one of that size adds to reading the file while
        `meanwhile` is called over and over (the median of passes over the file, the sizes in turns), and
        those that LATE of them take at most, from begin to end."""
        shares: dict[int, list[float]] = {nbytes: [] for nbytes in REQUESTS_NBYTES}
        taken: dict[int, list[float]] = {nbytes: [] for nbytes in REQUESTS_NBYTES}
        for _ in range(PASSES):
            for nbytes in REQUESTS_NBYTES:
                begin = perf_counter()
                threads = self._readers(lambda: True, nbytes, endless=False, taken=taken[nbytes])
                while any(thread.is_alive() for thread in threads):
                    meanwhile()
                shares[nbytes].append((perf_counter() - begin) * nbytes / self._nbytes)
        return [
            (nbytes, statistics.median(shares[nbytes]), sorted(times)[int(LATE * len(times))])
            for nbytes, times in taken.items()
        ]

    def beside(self, action: Callable[[], Result]) -> Result:
        """`action()` while the file is being read over and over."""
        done = threading.Event()
        threads = self._readers(lambda: not done.is_set(), REQUEST_NBYTES, endless=True, taken=[])
        try:
            return action()
        finally:
            done.set()
            for thread in threads:
                thread.join()

    def _readers(
        self, wanted: Callable[[], bool], nbytes: int, endless: bool, taken: list[float]
    ) -> list[threading.Thread]:
        """Started threads that read the file in requests of `nbytes` bytes, each every THREADS-th one; the
        seconds of each go to `taken`."""

        def read(first: int) -> None:
            place = first * REQUEST_NBYTES
            memory = self._pages.memory[place : place + nbytes]
            while True:
                for offset in range(first * nbytes, self._nbytes, THREADS * nbytes):
                    if not wanted():
                        return
                    begin = perf_counter()
                    self._file.read_pages(memory, offset)
                    taken.append(perf_counter() - begin)
                if not endless:
                    return

        threads = [threading.Thread(target=read, args=(index,), daemon=True) for index in range(THREADS)]
        for thread in threads:
            thread.start()
        return threads
