"""The arena's memory, as the operating system sees it."""

from __future__ import annotations

import re
import struct
import threading
from pathlib import Path

import pytest
import torch

from occ.runtime_stub import hugepages
from occ.runtime_stub.arena import Arena
from occ.runtime_stub.hugepages import HUGE_PAGE, PAGE
from occ.runtime_stub.touching import BLOCK_NBYTES

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
NBYTES = 9 * HUGE_PAGE + 5 * PAGE


def mapped(address: int, nbytes: int = 1) -> dict[str, int]:
    """Bytes by field of the mappings that hold bytes from `address`, from /proc/self/smaps."""
    fields: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(head[1], 16) < address + nbytes and address < int(head[2], 16)
        elif inside and (field := re.match(r"(\w+):\s+(\d+) kB", line)):
            fields[field[1]] = fields.get(field[1], 0) + int(field[2]) * 1024
    return fields


def present(address: int, nbytes: int) -> int:
    """How many of `nbytes` bytes from `address` are in pages that this process has, from its page table."""
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(address // PAGE * 8)
        entries = pages.read(nbytes // PAGE * 8)
    return PAGE * sum(entry >> 63 for (entry,) in struct.iter_unpack("<Q", entries))


@pytest.mark.parametrize("nbytes", [PAGE, HUGE_PAGE - PAGE, HUGE_PAGE, HUGE_PAGE + PAGE, NBYTES])
def test_every_page_of_the_arena_is_there_and_none_beyond_it(nbytes: int) -> None:
    arena = Arena(nbytes)
    assert mapped(arena.address, nbytes)["Rss"] == nbytes
    assert present(arena.address, nbytes) == nbytes
    assert present(arena.address + nbytes, -nbytes % HUGE_PAGE) == 0
    arena.close()


@pytest.mark.parametrize("nbytes", [PAGE, 3 * BLOCK_NBYTES, 5 * BLOCK_NBYTES + 7 * PAGE])
@pytest.mark.parametrize("populates", [True, False])
def test_threads_take_the_pages_they_are_asked_for_first(
    nbytes: int, populates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not populates:  # as on a kernel before 5.14
        monkeypatch.setattr(hugepages, "_MADV_POPULATE_WRITE", -1)
    arena = Arena(nbytes, touched=False)
    assert mapped(arena.address)["Rss"] == 0
    last = nbytes - PAGE
    arena.begin_touching([(last, PAGE)], threads=2)
    arena.wait_for(last, PAGE)
    assert mapped(arena.address + last)["Rss"] > 0
    arena.memory[last : last + 4] = b"kept"
    arena.end_touching()
    assert mapped(arena.address, nbytes)["Rss"] == nbytes
    assert bytes(arena.memory[last : last + 4]) == b"kept"
    assert not any(thread.name.startswith("occ-touching") for thread in threading.enumerate())
    arena.close()


def test_an_arena_is_closed_while_its_pages_are_taken() -> None:
    arena = Arena(16 * BLOCK_NBYTES, touched=False)
    arena.begin_touching([], threads=2)
    arena.close()
    arena.close()


def test_whole_huge_pages_are_used_where_the_system_has_them() -> None:
    if not SETTING.exists() or "[never]" in SETTING.read_text():
        pytest.skip("NOT TESTED: this system has no transparent huge pages")
    arena = Arena(NBYTES)
    assert arena.address % HUGE_PAGE == 0
    huge = mapped(arena.address, NBYTES)["AnonHugePages"]
    if not huge:
        pytest.skip("NOT TESTED: memory is too fragmented for huge pages")
    assert huge <= NBYTES - NBYTES % HUGE_PAGE
    arena.close()


@pytest.mark.parametrize("nbytes", [0, PAGE, HUGE_PAGE - PAGE, HUGE_PAGE, HUGE_PAGE + PAGE])
def test_views_and_memory_are_the_same_bytes(nbytes: int) -> None:
    arena = Arena(nbytes)
    assert arena.memory.nbytes == max(nbytes, PAGE)
    for offset in {0, max(nbytes, PAGE) - 8}:
        arena.view(offset, torch.int64, (1,)).fill_(7)
        assert bytes(arena.memory[offset : offset + 8]) == (7).to_bytes(8, "little")
    arena.close()
