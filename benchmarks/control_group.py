"""A control group that limits memory, of either version of the interface."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """What the kernel calls a group's files. `swap` limits memory and swap together where `memsw`, else swap
    alone; where it is missing there is no swap to limit. Writing to `peak` resets it."""

    root: Path
    limit: str
    swap: str
    memsw: bool
    usage: str
    peak: str


VERSIONS = (
    Files(
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        True,
        "memory.usage_in_bytes",
        "memory.max_usage_in_bytes",
    ),
    Files(Path("/sys/fs/cgroup"), "memory.max", "memory.swap.max", False, "memory.current", "memory.peak"),
)


class NotPermittedError(Exception):
    """This process may not make a memory control group."""


class ControlGroup:
    """Processes that together take no more memory than allowed, page cache included and without swap; bytes.
    Whoever needs more and cannot have it is killed (SIGKILL)."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self._files = files

    def joined(self, command: Sequence[str]) -> list[str]:
        """A command that does the same in the group."""
        return ["sh", "-c", f'echo $$ > "{self.path}/cgroup.procs" && exec "$@"', "sh", *command]

    def allow(self, nbytes: int) -> None:
        """Set the limit. Raises OSError where the group takes more already and cannot give it up."""
        swap = self.path / self._files.swap
        if not swap.exists():
            self._write(self._files.limit, nbytes)
        elif not self._files.memsw:
            self._write(self._files.swap, 0)
            self._write(self._files.limit, nbytes)
        else:
            # Memory alone may never be allowed more than memory and swap together.
            limits = (self._files.limit, self._files.swap)
            growing = nbytes > int(swap.read_text())
            for name in reversed(limits) if growing else limits:
                self._write(name, nbytes)

    def usage(self) -> int:
        """What the group takes now."""
        return int((self.path / self._files.usage).read_text())

    def peak(self) -> int:
        """The most it took since `reset_peak`, or since it was made."""
        return int((self.path / self._files.peak).read_text())

    def reset_peak(self) -> None:
        """Forget the peak; where the kernel cannot, it stays that since the group was made."""
        with suppress(OSError):
            self._write(self._files.peak, 0)

    def _write(self, name: str, number: int) -> None:
        (self.path / name).write_text(str(number))


@contextmanager
def control_group() -> Iterator[ControlGroup]:
    """A new group without a limit, gone afterwards. Raises NotPermittedError."""
    for files in VERSIONS:
        path = files.root / f"occ-{uuid.uuid4().hex[:12]}"
        try:
            path.mkdir()
        except OSError:
            continue
        if not (path / files.limit).exists():
            path.rmdir()
            continue
        try:
            yield ControlGroup(path, files)
        finally:
            path.rmdir()
        return
    raise NotPermittedError("this process may not make a memory control group")
