"""A program on a device with memory of its own, or on one that shares the host's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import torch

from .arena import Views
from .backend import ReadMember
from .device import Clock, Device
from .graphs import Graphs
from .mapped import MappedArena, MappedLoader
from .sources import forget, module_of
from .staged import StagedLoader
from .storage import WeightFile
from .store import StoreLoader

KERNELS = "triton_kernels"
"""The archive member with the program's own kernels, as Python text, is called so, with .py after it; the
program's text has the module under this name."""


class DeviceArena(Views):
    """`nbytes` bytes of the device's memory, one allocation. Raises NotEnoughMemoryError."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self.nbytes = nbytes
        super().__init__(device.allocate(nbytes))


class DeviceBackend:
    """A device, as `machine` of the manifest says: weights come from the file through a pinned ring
    (`stream_from` "ssd"), from pinned memory ("host"), or, where the memory is one, straight into it.

    A run returns when its steps are in the device's queue. It is in order with the stream that is current in
    the caller's thread, as a call of torch would be. Raises NotEnoughMemoryError.
    """

    def __init__(
        self, machine: Mapping[str, Any], file: WeightFile, arena_nbytes: int, device: Device
    ) -> None:
        ring_nbytes: int = machine["ring_nbytes"]
        self._device = device
        self._graphs = Graphs(device)
        self._kernels: ModuleType | None = None
        self.place = device.place
        self.sources = (device.place, torch.device("cpu"))
        self.arena: MappedArena | DeviceArena
        self.loader: MappedLoader | StagedLoader
        if device.integrated:
            self.arena = MappedArena(device, arena_nbytes)
        else:
            self.arena = DeviceArena(device, arena_nbytes)
        try:
            if isinstance(self.arena, MappedArena):
                self.loader = MappedLoader(file, self.arena, device)
            elif machine["stream_from"] == "host":
                self.loader = StoreLoader(file, self.arena, device, ring_nbytes)
            else:
                self.loader = StagedLoader(file, self.arena, device, ring_nbytes)
        except BaseException:
            self.arena.close()
            raise

    @property
    def host_nbytes(self) -> int:
        return self.loader.host_nbytes

    def names(self, members: Iterable[str], read: ReadMember) -> Mapping[str, Any]:
        found: dict[str, Any] = {"graphs": self._graphs}
        if f"{KERNELS}.py" in members:
            text = read(f"{KERNELS}.py").decode("utf-8")
            # A name of its own: Triton finds what a kernel calls by the name of its module.
            name = f"occ_{KERNELS}_{id(self):x}"
            self._kernels = found[KERNELS] = module_of(text, f"<{name}>", name)
        return found

    def fill(self, address: int, nbytes: int, read: Callable[[memoryview], None] | None) -> None:
        target = self.arena.bytes[address : address + nbytes]
        if read is None:
            self._device.fill(target, None)
            return
        content = bytearray(nbytes)
        read(memoryview(content))
        if content:
            self._device.fill(target, torch.frombuffer(content, dtype=torch.uint8))

    def take(self, tiles: Iterable[tuple[int, int, int]]) -> None:
        """There already: the device has no memory that it gives by the page."""

    def taken(self) -> None:
        """See `take`."""

    def running(self) -> AbstractContextManager[None]:
        return self._device.joined()

    def clock(self) -> Clock | None:
        return self._device.clock()

    def seconds(self, host: float) -> float:
        """On the device, from the first step's begin to the last one's end; waits for that."""
        return self._device.last_seconds()

    def close(self) -> None:
        self._device.idle()
        self._graphs.close()
        if self._kernels is not None:
            forget(self._kernels)
        self.arena.close()
        self._device.close()
