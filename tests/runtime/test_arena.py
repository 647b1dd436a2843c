"""The arena's memory, as the operating system sees it."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import torch

from occ.runtime_stub import arena as arena_module
from occ.runtime_stub.arena import HUGE_PAGE, PAGE, Arena
from occ.runtime_stub.touching import BLOCK_NBYTES

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
NBYTES = 9 * HUGE_PAGE + 5 * PAGE


def mapping_at(address: int) -> dict[str, int]:
    """Bytes by field of the mapping that holds `address`, from /proc/self/smaps."""
    fields: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(head[1], 16) <= address < int(head[2], 16)
        elif inside and (field := re.match(r"(\w+):\s+(\d+) kB", line)):
            fields[field[1]] = int(field[2]) * 1024
    return fields


def test_every_page_of_the_arena_is_there_and_none_beyond_it() -> None:
    arena = Arena(NBYTES)
    first, last = mapping_at(arena.address), mapping_at(arena.address + NBYTES - 1)
    assert first["Rss"] + last["Rss"] == NBYTES
    arena.close()


@pytest.mark.parametrize("nbytes", [PAGE, 3 * BLOCK_NBYTES, 5 * BLOCK_NBYTES + 7 * PAGE])
@pytest.mark.parametrize("populates", [True, False])
def test_threads_take_the_pages_they_are_asked_for_first(
    nbytes: int, populates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not populates:  # as on a kernel before 5.14
        monkeypatch.setattr(arena_module, "_MADV_POPULATE_WRITE", -1)
    arena = Arena(nbytes, touched=False)
    assert mapping_at(arena.address)["Rss"] == 0
    last = nbytes - PAGE
    arena.begin_touching([(last, PAGE)], threads=2)
    arena.wait_for(last, PAGE)
    assert mapping_at(arena.address + last)["Rss"] > 0
    arena.memory[last : last + 4] = b"kept"
    arena.end_touching()
    begins = {mapping_at(arena.address)["Rss"], mapping_at(arena.address + last)["Rss"]}
    assert sum(begins) == nbytes or begins == {nbytes}
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
    huge = mapping_at(arena.address)["AnonHugePages"]
    if not huge:
        pytest.skip("NOT TESTED: memory is too fragmented for huge pages")
    assert huge <= NBYTES - NBYTES % HUGE_PAGE
    assert mapping_at(arena.address + NBYTES - 1)["AnonHugePages"] == 0
    arena.close()


@pytest.mark.parametrize("nbytes", [0, PAGE, HUGE_PAGE - PAGE, HUGE_PAGE, HUGE_PAGE + PAGE])
def test_views_and_memory_are_the_same_bytes(nbytes: int) -> None:
    arena = Arena(nbytes)
    assert arena.memory.nbytes == max(nbytes, PAGE)
    for offset in {0, max(nbytes, PAGE) - 8}:
        arena.view(offset, torch.int64, (1,)).fill_(7)
        assert bytes(arena.memory[offset : offset + 8]) == (7).to_bytes(8, "little")
    arena.close()
