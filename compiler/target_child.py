"""The process that measures reading, and computing beside it; `occ.target` talks to it."""

from __future__ import annotations

import mmap
import os
import random
import statistics
import threading
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from occ.child import Answer, serve
from occ.runtime_stub.jobs import REQUEST_NBYTES
from occ.runtime_stub.loader import THREADS
from occ.runtime_stub.storage import PAGE, WeightFile

PASSES = 3
SMALL_REQUESTS = 64
ROUNDS = 3
WINDOW = 0.1
"""Seconds that computing is measured for in each round, alone and beside reading."""


class Sample:
    """A file read as the loader reads weights: by its number of threads, in its largest requests."""

    def __init__(self, path: str) -> None:
        self._file = WeightFile(path)
        self._nbytes = os.stat(path).st_size

    def bandwidth(self) -> float:
        """Bytes a second over the whole file, the median of a few passes."""
        rates: list[float] = []
        for _ in range(PASSES):
            begin = perf_counter()
            for thread in self._readers(lambda: True, endless=False):
                thread.join()
            rates.append(self._nbytes / (perf_counter() - begin))
        return statistics.median(rates)

    def overhead(self) -> float:
        """Seconds to read one page anywhere, the median."""
        memory = memoryview(mmap.mmap(-1, PAGE))
        chance = random.Random(0)
        seconds: list[float] = []
        for _ in range(SMALL_REQUESTS):
            offset = chance.randrange(self._nbytes // PAGE) * PAGE
            begin = perf_counter()
            self._file.read_pages(memory, offset)
            seconds.append(perf_counter() - begin)
        return statistics.median(seconds)

    def beside(self, action: Callable[[], float]) -> float:
        """`action()` while the file is being read over and over."""
        done = threading.Event()
        threads = self._readers(lambda: not done.is_set(), endless=True)
        try:
            return action()
        finally:
            done.set()
            for thread in threads:
                thread.join()

    def _readers(self, wanted: Callable[[], bool], endless: bool) -> list[threading.Thread]:
        """Started threads that read every THREADS-th request of the file."""

        def read(first: int) -> None:
            memory = memoryview(mmap.mmap(-1, REQUEST_NBYTES))
            while True:
                for offset in range(first * REQUEST_NBYTES, self._nbytes, THREADS * REQUEST_NBYTES):
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


def main() -> None:
    samples: list[Sample] = []

    def handle(request: Answer) -> Answer:
        if request["do"] == "start":
            torch.set_num_threads(request["threads"])
            samples.append(Sample(request["path"]))
            return {}
        [sample] = samples
        if request["do"] == "read":
            return {"bandwidth": sample.bandwidth(), "overhead": sample.overhead()}
        with torch.inference_mode():
            layer = Layer()
            rounds = [
                (mean_seconds(layer), sample.beside(lambda: mean_seconds(layer))) for _ in range(ROUNDS)
            ]
        alone, beside = map(statistics.median, zip(*rounds, strict=True))
        return {"alone": alone, "beside": beside}

    serve(handle)
