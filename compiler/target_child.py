"""The process that measures reading, and computing beside it; `occ.target` talks to it."""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch

from occ.child import Answer, serve
from occ.contention import Contention
from occ.numbers import CACHES_NBYTES, in_huge_pages
from occ.reading import REQUESTS_NBYTES, Sample
from occ.runtime_stub.arena import Arena
from occ.runtime_stub.jobs import Tile
from occ.runtime_stub.loader import Loader
from occ.runtime_stub.storage import WeightFile

WINDOW = 0.1
"""Seconds that computing is measured for in each round, alone and beside reading."""

LAYERS = 16
"""So many that their weights, 4 MiB each, do not stay in the caches."""

BETWEEN = 4
TILES = 64
TILE_NBYTES = REQUESTS_NBYTES[0]
LOAD_ROUNDS = 7


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

    def __call__(self, between: Callable[[], object] = lambda: None) -> None:
        """Compute; `between` is called BETWEEN times between kernels."""
        up, down = self.weights[self.calls % LAYERS]
        self.calls += 1
        torch.mm(self.x, up.view(512, 1024), out=self.wide)
        torch.clamp_min(self.wide, 0, out=self.wide)
        torch.mm(self.wide, down.view(1024, 512), out=self.narrow)
        for _ in range(BETWEEN):
            between()
            torch.add(self.narrow, self.x, out=self.narrow)
            torch.tanh(self.narrow, out=self.narrow)
        torch.ops.aten._softmax.out(self.narrow, -1, False, out=self.narrow)


class Loads:
    """A program's loader over a file, whose tiles are asked for one after another, the smallest there are."""

    def __init__(self, path: str) -> None:
        file = WeightFile(path)
        arena = Arena(TILES * TILE_NBYTES)
        places = range(0, TILES * TILE_NBYTES, TILE_NBYTES)
        tiles = []
        for index, place in enumerate(places):
            content = arena.memory[place : place + TILE_NBYTES]
            file.read_pages(content, place)
            tiles.append(Tile(index, place, TILE_NBYTES, place, zlib.crc32(content)))
        self._loader = Loader(file, arena)
        self._loader.define(tiles, ())
        self._next = 0

    def __call__(self) -> None:
        """Ask for a tile and wait for the one half of all tiles before it, which has long arrived."""
        self._loader.load(self._next % TILES)
        self._next += 1
        self._loader.wait((self._next + TILES // 2) % TILES)

    def lone_seconds(self, layers: Layers) -> float:
        """Seconds until a tile is there that is asked for between layers, and waited for at once."""
        self._loader.settle()
        found = []
        for tile in range(TILES):
            layers()
            began = perf_counter()
            self._loader.load(tile)
            self._loader.wait(tile)
            found.append(perf_counter() - began)
        return statistics.fmean(found)

    def seconds(self, layers: Layers) -> float:
        """Seconds that one load takes from the layers it is asked for between; they are computed with and
        without loads in turns."""
        found = [mean_seconds(partial(layers, self)) - mean_seconds(layers) for _ in range(LOAD_ROUNDS)]
        self._loader.settle()
        return statistics.median(found) / BETWEEN


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
    started: list[tuple[Sample, Layers, Loads]] = []

    def handle(request: Answer) -> Answer:
        if request["do"] == "start":
            torch.set_num_threads(request["threads"])
            started.append((Sample(request["path"]), Layers(), Loads(request["path"])))
            return {}
        [(sample, layers, loads)] = started
        with torch.inference_mode():
            if request["do"] == "compute":
                contention = Contention()
                with contention.watched():
                    alone = mean_seconds(layers)
                return {
                    "alone": alone,
                    "contended": contention.share,
                    "beside": sample.beside(lambda: mean_seconds(layers)),
                    "streaming": mean_seconds(partial(layers, loads)),
                }
            return {
                "requests": sample.request_seconds(layers),
                "load_nbytes": TILE_NBYTES,
                "load_seconds": loads.seconds(layers),
                "lone_seconds": loads.lone_seconds(layers),
                "product_rate": product_rate(),
                "memory_rate": memory_rate(),
            }

    serve(handle)
