"""The CUDA device, by way of torch: streams, events, registered memory, graphs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .arena import Arena
from .device import RUNS_AHEAD, Event, Graph, Stream
from .errors import MachineError, NotEnoughMemoryError

_REGISTER_PORTABLE = 1
_REGISTER_MAPPED = 2


class CudaDevice:
    """The CUDA device that is current when this is made (`device.Device`).

    Kernels run in a stream of the program's own, so that cuBLAS takes one workspace for the program, whether
    its steps are launched or captured, whatever stream the caller uses. Raises MachineError where there is no
    device.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise MachineError(
                f"the program was compiled for cuda and torch {torch.__version__} finds no CUDA device here;"
                " run it on a machine with one, or compile with --device cpu"
            )
        self._index = torch.cuda.current_device()
        self.place = torch.device("cuda", self._index)
        properties: Any = torch.cuda.get_device_properties(self._index)
        self.integrated = bool(properties.is_integrated)
        self._compute = torch.cuda.Stream(self._index)
        self._copies = torch.cuda.Stream(self._index)
        self.compute: Stream = self._compute
        self.copies: Stream = self._copies
        self._free: deque[torch.cuda.Event] = deque()
        self._spans: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._pool: Any = None

    def allocate(self, nbytes: int) -> Tensor:
        """One block from torch's allocator, which `torch.cuda.max_memory_allocated` shows."""
        try:
            return torch.empty(max(nbytes, 1), dtype=torch.uint8, device=self.place)
        except torch.cuda.OutOfMemoryError as error:
            free, total = torch.cuda.mem_get_info(self._index)
            raise NotEnoughMemoryError(
                f"the arena takes {nbytes} bytes and {free} of the device's {total} are free;"
                " free memory or plan again with a smaller --budget"
            ) from error

    def register(self, host: Arena) -> None:
        runtime: Any = torch.cuda.cudart()
        flags = _REGISTER_PORTABLE | (_REGISTER_MAPPED if self.integrated else 0)
        code = int(runtime.cudaHostRegister(host.address, host.nbytes, flags))
        if code != 0:
            raise NotEnoughMemoryError(
                f"the CUDA driver refuses to pin {host.nbytes} bytes of host memory (error {code});"
                " raise the limit of locked memory (ulimit -l) or plan again with a smaller --host-budget"
            )

    def unregister(self, host: Arena) -> None:
        runtime: Any = torch.cuda.cudart()
        runtime.cudaHostUnregister(host.address)

    def mapped(self, host: Arena) -> Tensor:
        """By the CUDA array interface; with unified addressing the device's pointer is the host's."""
        return torch.as_tensor(_Bytes(host.address, host.nbytes), device=self.place)

    def record(self, stream: Stream) -> Event:
        event = self._event()
        event.record(_stream(stream))
        return event

    def wait(self, stream: Stream, event: Event) -> None:
        _stream(stream).wait_event(_event(event))

    def synchronize(self, event: Event) -> None:
        _event(event).synchronize()

    def release(self, event: Event) -> None:
        self._free.append(_event(event))

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        # Inference mode is a thread's own, and the arena's tensors are of that mode.
        with torch.inference_mode(), torch.cuda.stream(_stream(stream)):
            target.copy_(source, non_blocking=True)

    def fill(self, target: Tensor, source: Tensor | None) -> None:
        with torch.inference_mode(), torch.cuda.stream(self._compute):
            if source is None:
                target.zero_()
            else:
                target.copy_(source)

    def fetch(self, tensor: Tensor) -> Tensor:
        with torch.cuda.stream(self._compute):
            return tensor.cpu()

    @contextmanager
    def joined(self) -> Iterator[None]:
        if len(self._spans) >= RUNS_AHEAD:
            first, last = self._spans.popleft()
            last.synchronize()
        else:
            first, last = (_new_event(timing=True) for _ in range(2))
        caller = torch.cuda.current_stream(self._index)
        before = self._event()
        before.record(caller)
        self._compute.wait_event(before)
        self._free.append(before)
        first.record(self._compute)
        try:
            with torch.cuda.stream(self._compute):
                yield
        finally:
            last.record(self._compute)
            caller.wait_event(last)
            self._spans.append((first, last))

    def last_seconds(self) -> float:
        if not self._spans:
            return 0.0
        first, last = self._spans[-1]
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3

    def clock(self) -> CudaClock:
        self.idle()
        return CudaClock(self._compute)

    def capture(self, function: Callable[[], None]) -> Graph | None:
        """All graphs share one pool of memory, which steps that write into the arena leave empty."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph: Any = torch.cuda.CUDAGraph()
        try:
            # Other threads go on putting copies into their stream.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                function()
            finally:
                graph.capture_end()
        except RuntimeError:
            return None
        captured: Graph = graph
        return captured

    def idle(self) -> None:
        self._copies.synchronize()
        self._compute.synchronize()

    def close(self) -> None:
        self._free.clear()
        self._spans.clear()

    def _event(self) -> torch.cuda.Event:
        try:
            return self._free.pop()
        except IndexError:
            return _new_event()


class CudaClock:
    """Marks are events; they count from one whose time the host knows to within a few microseconds."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._origin = _new_event(timing=True)
        self._origin.record(stream)
        self._origin.synchronize()
        self._began = perf_counter()

    def now(self, stream: Stream | None = None) -> object:
        mark = _new_event(timing=True)
        mark.record(self._stream if stream is None else _stream(stream))
        return mark

    def seconds(self, mark: object) -> float:
        event = _event(mark)
        event.synchronize()
        return self._began + float(self._origin.elapsed_time(event)) / 1e3


class _Bytes:
    """Bytes of registered host memory, as libraries for CUDA hand arrays to each other."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def _new_event(timing: bool = False) -> torch.cuda.Event:
    """One that blocks: a thread that waits for a copy must not take a core from the one that launches."""
    make: Any = torch.cuda.Event
    made: torch.cuda.Event = make(enable_timing=timing, blocking=True)
    return made


def _stream(stream: Stream) -> torch.cuda.Stream:
    assert isinstance(stream, torch.cuda.Stream)
    return stream


def _event(event: Event) -> torch.cuda.Event:
    assert isinstance(event, torch.cuda.Event)
    return event
