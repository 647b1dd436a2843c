"""The process that measures reading, and computing beside it; `occ.target` talks to it."""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from occ.child import Answer, serve
from occ.numbers import CACHES_NBYTES, in_huge_pages
from occ.runtime_stub.arena import Arena
from occ.runtime_stub.jobs import REQUEST_NBYTES
from occ.runtime_stub.loader import THREADS
from occ.runtime_stub.storage import WeightFile

PASSES = 5
REQUESTS_NBYTES = (256 << 10, 1 << 20, REQUEST_NBYTES)
"""Sizes of the requests that reading is measured with."""

ROUNDS = 3
WINDOW = 0.1
"""Seconds that computing is measured for in each round, alone and beside reading."""


class Sample:
    """A file read as the loader reads weights: by its number of threads, which always have work."""

    def __init__(self, path: str) -> None:
        self._file = WeightFile(path)
        self._nbytes = os.stat(path).st_size
        self._arena = Arena(THREADS * REQUEST_NBYTES)

    def request_seconds(self) -> list[tuple[int, float]]:
        """Bytes of a request, and the seconds that each one of that size adds to reading the file: the median
        of passes over it, the sizes in turns."""
        times: dict[int, list[float]] = {nbytes: [] for nbytes in REQUESTS_NBYTES}
        for _ in range(PASSES):
            for nbytes, seconds in times.items():
                begin = perf_counter()
                for thread in self._readers(lambda: True, nbytes, endless=False):
                    thread.join()
                seconds.append((perf_counter() - begin) * nbytes / self._nbytes)
        return [(nbytes, statistics.median(seconds)) for nbytes, seconds in times.items()]

    def beside(self, action: Callable[[], float]) -> float:
        """`action()` while the file is being read over and over."""
        done = threading.Event()
        threads = self._readers(lambda: not done.is_set(), REQUEST_NBYTES, endless=True)
        try:
            return action()
        finally:
            done.set()
            for thread in threads:
                thread.join()

    def _readers(self, wanted: Callable[[], bool], nbytes: int, endless: bool) -> list[threading.Thread]:
        """Started threads that read the file in requests of `nbytes` bytes, each every THREADS-th one."""

        def read(first: int) -> None:
            place = first * REQUEST_NBYTES
            memory = self._arena.memory[place : place + nbytes]
            while True:
                for offset in range(first * nbytes, self._nbytes, THREADS * nbytes):
                    if not wanted():
                        return
                    self._file.read_pages(memory, offset)
                if not endless:
                    return

        threads = [threading.Thread(target=read, args=(index,), daemon=True) for index in range(THREADS)]
        for thread in threads:
            thread.start()
        return threads


class Layer:
    """What networks are made of, at a small size: two products, a softmax, and element-wise kernels, each
    10 us to 1 ms long, the range in which it matters how threads wait."""

    def __init__(self) -> None:
        self.x = torch.randn(64, 512)
        self.up, self.down = torch.randn(512, 1024) / 32, torch.randn(1024, 512) / 32
        self.wide, self.narrow = torch.empty(64, 1024), torch.empty(64, 512)

    def __call__(self) -> Tensor:
        torch.mm(self.x, self.up, out=self.wide)
        torch.clamp_min(self.wide, 0, out=self.wide)
        torch.mm(self.wide, self.down, out=self.narrow)
        for _ in range(4):
            torch.add(self.narrow, self.x, out=self.narrow)
            torch.tanh(self.narrow, out=self.narrow)
        return torch.ops.aten._softmax.out(self.narrow, -1, False, out=self.narrow)


def mean_seconds(layer: Callable[[], object]) -> float:
    """Mean seconds of one call over WINDOW: whatever disturbs a call counts with its weight."""
    for _ in range(3):
        layer()
    calls = 0
    begin = now = perf_counter()
    while now - begin < WINDOW:
        layer()
        calls += 1
        now = perf_counter()
    return (now - begin) / calls


def product_rate() -> float:
    """Floating-point operations a second of a matrix product whose operands fit the caches."""
    size = 512
    x, y, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    return 2 * size**3 / mean_seconds(lambda: torch.mm(x, y, out=out))


def memory_rate() -> float:
    """Bytes a second that an element-wise kernel reads and writes, of operands larger than the caches."""
    x, out = in_huge_pages(CACHES_NBYTES).view(torch.float32), torch.empty(CACHES_NBYTES // 4)
    return 2 * CACHES_NBYTES / mean_seconds(lambda: torch.neg(x, out=out))


def main() -> None:
    samples: list[Sample] = []

    def handle(request: Answer) -> Answer:
        if request["do"] == "start":
            torch.set_num_threads(request["threads"])
            samples.append(Sample(request["path"]))
            return {}
        [sample] = samples
        if request["do"] == "read":
            return {"requests": sample.request_seconds()}
        with torch.inference_mode():
            layer = Layer()
            rounds = [
                (mean_seconds(layer), sample.beside(lambda: mean_seconds(layer))) for _ in range(ROUNDS)
            ]
            rates = {"product_rate": product_rate(), "memory_rate": memory_rate()}
        alone, beside = map(statistics.median, zip(*rounds, strict=True))
        return {"alone": alone, "beside": beside, **rates}

    serve(handle)
