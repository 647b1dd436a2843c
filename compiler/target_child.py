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

WINDOW = 0.1
"""Seconds that computing is measured for in each round, alone and beside reading."""

LAYERS = 16
"""So many that their weights, 4 MiB each, do not stay in the caches."""


class Sample:
    """A file read as the loader reads weights: by its number of threads, which always have work."""

    def __init__(self, path: str) -> None:
        self._file = WeightFile(path)
        self._nbytes = os.stat(path).st_size
        self._arena = Arena(THREADS * REQUEST_NBYTES)

    def request_seconds(self, meanwhile: Callable[[], object]) -> list[tuple[int, float]]:
        """Bytes of a request, and the seconds that each one of that size adds to reading the file while
        `meanwhile` is called over and over: the median of passes over the file, the sizes in turns."""
        times: dict[int, list[float]] = {nbytes: [] for nbytes in REQUESTS_NBYTES}
        for _ in range(PASSES):
            for nbytes, seconds in times.items():
                begin = perf_counter()
                threads = self._readers(lambda: True, nbytes, endless=False)
                while any(thread.is_alive() for thread in threads):
                    meanwhile()
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


class Layers:
    """What networks are made of, at a small size: two products, a softmax, and element-wise kernels, each
    10 us to 1 ms long, the range in which it matters how threads wait. A call computes the next layer, whose
    weights come from memory."""

    def __init__(self) -> None:
        self.x = torch.randn(64, 512)
        self.weights = in_huge_pages(LAYERS * 4 << 20).view(torch.float32).view(LAYERS, 2, -1)
        self.weights.normal_(std=1 / 32)
        self.wide, self.narrow = torch.empty(64, 1024), torch.empty(64, 512)
        self.calls = 0

    def __call__(self) -> Tensor:
        up, down = self.weights[self.calls % LAYERS]
        self.calls += 1
        torch.mm(self.x, up.view(512, 1024), out=self.wide)
        torch.clamp_min(self.wide, 0, out=self.wide)
        torch.mm(self.wide, down.view(1024, 512), out=self.narrow)
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
    started: list[tuple[Sample, Layers]] = []

    def handle(request: Answer) -> Answer:
        if request["do"] == "start":
            torch.set_num_threads(request["threads"])
            started.append((Sample(request["path"]), Layers()))
            return {}
        [(sample, layers)] = started
        with torch.inference_mode():
            if request["do"] == "compute":
                return {
                    "alone": mean_seconds(layers),
                    "beside": sample.beside(lambda: mean_seconds(layers)),
                }
            return {
                "requests": sample.request_seconds(layers),
                "product_rate": product_rate(),
                "memory_rate": memory_rate(),
            }

    serve(handle)
