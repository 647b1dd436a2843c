"""What the runtime asks of a device with memory and streams of its own.

A stream runs what was put into it in order and beside other streams. An event stands for all that a stream
held when it was recorded; a stream, or the host, can wait for it. Nothing here blocks the host unless it says
so. `cuda.CudaDevice` is the real one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from .arena import Arena

Stream = object
"""A stream of a device, opaque to all but that device."""

Event = object
"""An event of a device, likewise."""


class Graph(Protocol):
    """Work that was captured once and can be launched as a whole."""

    def replay(self) -> None:
        """Put the work into the compute stream."""


class Clock(Protocol):
    """When streams reach places that were marked, on the host's clock."""

    def now(self, stream: Stream | None = None) -> object:
        """A mark at the end of what a stream, by itself the compute stream, holds now."""

    def seconds(self, mark: object) -> float:
        """When the device got there, in seconds of `time.perf_counter`; blocks until then."""


class Device(Protocol):
    """A device with one stream for kernels and one for copies from the host.

    Methods may be called by several threads. An event that `record` gave is used until `release`, after which
    it may be given again.
    """

    place: torch.device
    """Where its tensors are."""
    integrated: bool
    """Whether the device's memory is the host's."""
    compute: Stream
    copies: Stream

    def allocate(self, nbytes: int) -> Tensor:
        """`nbytes` bytes of device memory, uint8. Raises NotEnoughMemoryError."""

    def register(self, host: Arena) -> None:
        """Pin `host`, so that copies from it run beside the host; on an integrated device the kernels may use
        it too. Raises NotEnoughMemoryError where the driver refuses."""

    def unregister(self, host: Arena) -> None:
        """Undo `register`; no copy may be under way."""

    def mapped(self, host: Arena) -> Tensor:
        """Registered memory of the host as the device's, uint8: the same bytes (integrated devices only)."""

    def record(self, stream: Stream) -> Event:
        """An event for all that is in `stream` now."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Let what is put into `stream` from now on run after `event`."""

    def synchronize(self, event: Event) -> None:
        """Block the host until `event`."""

    def release(self, event: Event) -> None:
        """Give an event back; waits that were put into a stream stay as they are."""

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        """Put a copy of `source`, bytes of registered memory, into `target`, as many of the device, into
        `stream`."""

    def fill(self, target: Tensor, source: Tensor | None) -> None:
        """Copy `source`, any bytes of the host, into `target`, or zero it, when the compute stream has done
        all that it holds; `source` is free afterwards."""

    def fetch(self, tensor: Tensor) -> Tensor:
        """A copy on the host of a tensor as the compute stream leaves it; blocks the host."""

    def joined(self) -> AbstractContextManager[None]:
        """Within the block, calls of torch go to the compute stream, after all that the caller has put into
        the stream that is current outside; what the caller puts there after the block runs after all of it.

        Blocks the host where it is `RUNS_AHEAD` such blocks ahead of the device."""

    def last_seconds(self) -> float:
        """Seconds from the begin to the end of the last such block on the device; blocks until its end."""

    def clock(self) -> Clock:
        """A clock for marks that are made within a joined block; blocks until the streams are empty."""

    def capture(self, function: Callable[[], None]) -> Graph | None:
        """What `function` puts into the compute stream, without running it; None where that cannot be
        captured. To be called within a joined block."""

    def idle(self) -> None:
        """Block until both streams are empty."""

    def close(self) -> None:
        """Let go of events and streams, which are empty."""


RUNS_AHEAD = 2
"""Runs that the host may have put into the streams before the first of them has ended."""
