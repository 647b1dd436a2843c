"""The arena's memory, as the operating system sees it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from occ.runtime_stub.arena import HUGE_PAGE, PAGE, Arena

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
