"""What a loaded program runs on: memory, a loader, kernels, and how a run begins and ends there."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .arena import Arena, Views
from .jobs import Job, Table, Tile
from .loader import Loader
from .machine import planned_threads
from .native import MEMBER as NATIVE_LIBRARY
from .native import Native
from .storage import WeightFile

if TYPE_CHECKING:
    from .device import Clock

ReadMember = Callable[[str], bytes]
"""The bytes of an archive member by its name."""


class AnyLoader(Protocol):
    """What the program and its text ask of a loader; `loader.Loader` says what each means."""

    stall: float
    jobs: list[Job] | None
    clock: Clock | None

    @property
    def nbytes_read(self) -> int: ...
    def define(self, tiles: Sequence[Tile], tables: Sequence[Table]) -> None: ...
    def load(self, tile: int) -> None: ...
    def load_residents(self, tiles: Sequence[int]) -> None: ...
    def wait(self, tile: int) -> None: ...
    def gather(self, table: int, indices: Tensor, out: Tensor, scratch: Tensor) -> None: ...
    def settle(self) -> None: ...
    def drain(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


class Backend(Protocol):
    """Where a program runs."""

    @property
    def place(self) -> torch.device:
        """Where its tensors are."""

    @property
    def sources(self) -> tuple[torch.device, ...]:
        """Where its inputs may be."""

    @property
    def arena(self) -> Views: ...

    @property
    def loader(self) -> AnyLoader: ...

    @property
    def host_nbytes(self) -> int:
        """Bytes of the host's memory that are taken besides the arena, all of them pinned."""

    def names(self, members: Iterable[str], read: ReadMember) -> Mapping[str, Any]:
        """What the program's text expects to find under names of its own: kernels that the artifact carries
        among its `members`, and more. Raises MachineError."""

    def fill(self, address: int, nbytes: int, read: Callable[[memoryview], None] | None) -> None:
        """Have `read` write `nbytes` bytes at `address` of the arena, or zero them; after all runs so far."""

    def take(self, tiles: Iterable[tuple[int, int, int]]) -> None:
        """Begin to take the arena's memory, first that of `tiles` (file offset, bytes, address), in their
        order."""

    def taken(self) -> None:
        """Return when the arena's memory is taken."""

    def running(self) -> AbstractContextManager[None]:
        """The steps of a run are called within the block."""

    def clock(self) -> Clock | None:
        """The clock that steps are traced by; None for the host's."""

    def seconds(self, host: float) -> float:
        """How long the last run took, where it took the host `host` seconds to call its steps."""

    def close(self) -> None:
        """Give all memory back, when the loader is closed."""


class CpuBackend:
    """The processor. Raises NotEnoughMemoryError."""

    place = torch.device("cpu")
    sources = (place,)
    host_nbytes = 0

    def __init__(self, machine: Mapping[str, Any], file: WeightFile, arena_nbytes: int) -> None:
        self._threads: int = machine["threads"]
        self._native: Native | None = None
        self.arena = Arena(arena_nbytes, touched=False)
        self.loader = Loader(file, self.arena)

    def names(self, members: Iterable[str], read: ReadMember) -> Mapping[str, Any]:
        if NATIVE_LIBRARY not in members:
            return {}
        self._native = Native(read(NATIVE_LIBRARY))
        return {"native": self._native}

    def fill(self, address: int, nbytes: int, read: Callable[[memoryview], None] | None) -> None:
        self.arena.wait_for(address, nbytes)
        if read is None:
            ctypes.memset(self.arena.address + address, 0, nbytes)
        else:
            read(self.arena.memory[address : address + nbytes])

    def take(self, tiles: Iterable[tuple[int, int, int]]) -> None:
        self.arena.begin_touching([(address, nbytes) for _, nbytes, address in tiles], self._threads)

    def taken(self) -> None:
        self.arena.end_touching()

    def running(self) -> AbstractContextManager[None]:
        return planned_threads(self._threads)

    def clock(self) -> Clock | None:
        return None

    def seconds(self, host: float) -> float:
        return host

    def close(self) -> None:
        if self._native is not None:
            self._native.close()
        self.arena.close()
