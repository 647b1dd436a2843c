"""How much memory this process can still take: the machine's, and that of its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_GROUP_ROOTS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
_LIMIT_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


def available_nbytes() -> tuple[int | None, str]:
    """The least of what the machine and each control group has left, and which of them that is.

    Page cache counts as available: the kernel gives it up. None where the kernel tells nothing.
    """
    found: list[tuple[int, str]] = []
    machine = _machine_available()
    if machine is not None:
        found.append((machine, "on this machine"))
    found.extend((left, f"in control group {group}") for group, left in _group_available())
    return min(found) if found else (None, "unknown")


def _machine_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _group_available() -> Iterator[tuple[str, int]]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        for root in _GROUP_ROOTS:
            folder = root / name.lstrip("/")
            while True:
                left = _left_in(folder)
                if left is not None:
                    yield str(folder), left
                if folder == root or root not in folder.parents:
                    break
                folder = folder.parent


def _left_in(folder: Path) -> int | None:
    for limit_file, usage_file, cache_fields in _LIMIT_FILES:
        try:
            limit = int((folder / limit_file).read_text())
            usage = int((folder / usage_file).read_text())
            fields = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cache = sum(int(field[1]) for field in fields if field[0] in cache_fields)
        except (OSError, ValueError, IndexError):  # no such file, or the limit is the word "max"
            continue
        return max(0, limit - usage + cache)
    return None
