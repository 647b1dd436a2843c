"""The loader's bookkeeping from load to load of one tile."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from occ.runtime_stub import jobs
from occ.runtime_stub.arena import Arena
from occ.runtime_stub.integrity import DamageError
from occ.runtime_stub.jobs import REQUEST_NBYTES, Job, Tile
from occ.runtime_stub.loader import Loader
from occ.runtime_stub.storage import WeightFile

NBYTES = REQUEST_NBYTES + 4096
"""Of a tile: two requests."""


@pytest.fixture
def loader(tmp_path: Path) -> Iterator[Loader]:
    path = tmp_path / "weights"
    content = os.urandom(2 * NBYTES)
    path.write_bytes(content)
    arena = Arena(2 * NBYTES)
    made = Loader(WeightFile(str(path)), arena)
    places = (0, NBYTES)
    crcs = [zlib.crc32(content[place : place + NBYTES]) for place in places]
    made.define([Tile(n, p, NBYTES, p, crc) for n, (p, crc) in enumerate(zip(places, crcs, strict=True))], ())
    yield made
    made.close()


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each check."""
    found: list[int] = []

    class Counting:
        @staticmethod
        def crc32(content: memoryview, crc: int = 0) -> int:
            found.append(len(content))
            return zlib.crc32(content, crc)

    monkeypatch.setattr(jobs, "zlib", Counting)
    return found


def bytes_of(loader: Loader, tile: int) -> memoryview:
    return loader._arena.memory[tile * NBYTES : (tile + 1) * NBYTES]


def fetch(loader: Loader, tile: int) -> None:
    bytes_of(loader, tile)[:] = bytes(NBYTES)
    loader.load(tile)
    loader.wait(tile)
    assert zlib.crc32(bytes_of(loader, tile)) == loader._tiles[tile].crc


def test_a_tile_is_checked_once_and_again_after_the_file_was_touched(
    loader: Loader, checks: list[int]
) -> None:
    for _ in range(5):
        fetch(loader, 0)
        fetch(loader, 1)
    assert checks == [NBYTES] * 2
    os.utime(loader._file.path, ns=(1, 1))
    for _ in range(5):
        fetch(loader, 0)
    # One check finds that it changed, the next one takes the state that it then has.
    assert checks == [NBYTES] * 4


def test_damage_is_found_at_a_later_load(loader: Loader) -> None:
    for _ in range(3):
        fetch(loader, 0)
    with open(loader._file.path, "r+b") as file:
        file.seek(REQUEST_NBYTES + 7)
        file.write(b"damage")
    loader.load(0)
    with pytest.raises(DamageError, match="tile 0"):
        loader.wait(0)
    loader.drain()
    loader.load(0)
    with pytest.raises(DamageError, match="tile 0"):
        loader.wait(0)
    loader.drain()
    fetch(loader, 1)


def test_loads_that_were_forgotten_are_made_anew(loader: Loader) -> None:
    for _ in range(50):
        loader.load(0)
        loader.load(1)
        loader.drain()
        fetch(loader, 1)
        fetch(loader, 0)


def test_a_trace_keeps_its_own_jobs(loader: Loader) -> None:
    fetch(loader, 0)
    loader.jobs = traced = list[Job]()
    fetch(loader, 0)
    loader.jobs = None
    fetch(loader, 0)
    fetch(loader, 0)
    [job] = traced
    assert sorted(read.nbytes for read in job.reads) == [4096, REQUEST_NBYTES]
    assert not any(again.traced for again, _ in filter(None, loader._done))
