"""The process that runs kernels to see what they cost; `occ.measure` talks to it."""

from __future__ import annotations

import base64
import ctypes
import gc
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from occ.child import Answer, serve
from occ.counter import preloaded_counter
from occ.numbers import CACHES_NBYTES, Pool, tensor_at
from occ.reading import Sample
from occ.runtime_stub import kernels
from occ.runtime_stub.native import Native
from occ.runtime_stub.tensors import dtype_named, view_of
from occ.sequence_child import sequence_seconds

COLD_NBYTES = 1 << 20
"""A weight larger than this comes from storage, not from a cache, when its step begins."""

MOST_RUNS = 40
ENOUGH_SECONDS = 0.02
"""A kernel is timed until it has run for so long in all, or so often."""

M_MMAP_THRESHOLD = -3

RESIDENT_ERROR = 512 << 10
"""Bytes by which a difference of resident sizes may be too small: each processor counts pages in batches, of
32 on most machines, and two of them compute here."""

Action = Callable[[], object]


class Libraries:
    """The functions of all libraries of native kernels loaded so far, as attributes."""

    def __init__(self) -> None:
        self._loaded: list[Native] = []

    def add(self, library: bytes) -> None:
        self._loaded.append(Native(library))

    def __getattr__(self, symbol: str) -> Callable[..., None]:
        for library in self._loaded:
            try:
                return getattr(library, symbol)  # type: ignore[no-any-return]
            except AttributeError:
                continue
        raise AttributeError(symbol)


SCOPE: dict[str, Any] = {
    "torch": torch,
    "aten": torch.ops.aten,
    "kernels": kernels,
    "inf": math.inf,
    "nan": math.nan,
    "view_of": view_of,
}
"""The names that the text of a call may use, beside `native`."""


class Operands:
    """The buffers of one case, and its values in them."""

    def __init__(self, request: Answer, pool: Pool) -> None:
        self._request = request
        self._pool = pool
        self._values: list[list[Any]] = request["values"]
        self._weights = self._buffers_of(request["weights"])
        self._memory = {
            buffer: self._allocated(buffer)
            for buffer in range(len(request["buffers"]))
            if buffer not in self._weights
        }
        self._copies = self._weight_copies()
        # An operand that the kernel overwrites would drift from call to call, to denormals for example.
        overwritten = self._buffers_of(request["reads"]) & self._buffers_of(request["writes"])
        self._restored = [
            (self._memory[buffer], self._memory[buffer].clone())
            for buffer in sorted(overwritten)
            if buffer in self._memory
        ]

    def sets(self) -> list[list[Tensor]]:
        """The values once for each copy of the weights; used in turn, the weights are cold."""
        return [
            [_tensor({**self._memory, **weights}, value) for value in self._values]
            for weights in self._copies
        ]

    def restore(self) -> None:
        """Give overwritten operands their first contents back."""
        for memory, contents in self._restored:
            memory.copy_(contents)

    def fill_integers(self, number: int) -> None:
        """Set every integer operand that is no weight to `number`."""
        for values in self.sets():
            for index in self._request["reads"]:
                tensor = values[index]
                if index in self._request["weights"]:
                    continue
                if not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
                    tensor.fill_(number)
        self._restored = [(memory, memory.clone()) for memory, _ in self._restored]

    def _buffers_of(self, values: Sequence[int]) -> set[int]:
        return {self._values[index][0] for index in values}

    def _nbytes(self, buffer: int) -> int:
        nbytes: int = self._request["buffers"][buffer]
        return nbytes

    def _weight_copies(self) -> list[dict[int, Tensor]]:
        """The memory of the weights: so many copies of the largest that its last use is out of the caches."""
        largest = max(self._weights, key=self._nbytes, default=None)
        if largest is None or self._nbytes(largest) <= COLD_NBYTES:
            return [{buffer: self._allocated(buffer) for buffer in self._weights}]
        others = {buffer: self._allocated(buffer) for buffer in self._weights - {largest}}
        count = 1 + CACHES_NBYTES // self._nbytes(largest)
        return [
            {**others, largest: memory}
            for memory in self._pool.copies(self._nbytes(largest), self._dtype(largest), count)
        ]

    def _allocated(self, buffer: int) -> Tensor:
        memory = torch.empty(self._nbytes(buffer), dtype=torch.uint8)
        self._pool.fill(memory, self._dtype(buffer))
        return memory

    def _dtype(self, buffer: int) -> torch.dtype:
        """The type that the buffer's numbers are of, in the first value over it."""
        first = next(value for value in self._values if value[0] == buffer)
        _, _, dtype, _, _, packing = first
        return dtype_named(packing[0] if packing else dtype)


def _tensor(memory: dict[int, Tensor], value: list[Any]) -> Tensor:
    buffer, offset, *facts = value
    return tensor_at(memory[buffer], offset, *facts)


class PeakMemory:
    """The most memory that a call takes at once: counted, or seen in the process's resident size."""

    def __init__(self) -> None:
        self._counter = preloaded_counter()
        if self._counter is None:
            # Large blocks then come from the system and go back to it, which the resident size shows.
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 64 << 10)

    def of(self, action: Action) -> int:
        """Bytes that `action` had allocated at once, above what was there before; its result counts."""
        if self._counter is not None:
            self._counter.reset()
            result = action()
            peak = self._counter.peak()
            del result
            return max(0, peak)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        result = action()
        peak = _status("VmHWM") - before + RESIDENT_ERROR
        del result
        return max(0, peak)


def measured(request: Answer, pool: Pool, memory: PeakMemory, scope: Mapping[str, Any]) -> Answer:
    """Seconds and workspace of one case, or the text of the error it raised; `scope` has the names that its
    call uses."""
    operands = Operands(request, pool)
    names = ", ".join(f"v{index}" for index in range(len(request["values"])))
    call: Callable[..., object] = eval(f"lambda {names}: {request['text']}", dict(scope))
    sets = operands.sets()
    try:
        call(*sets[0])
    except Exception:
        # Integers are zero, which no division takes; one is as good an index where there are two rows.
        operands.fill_integers(1)
        call(*sets[0])
    workspace = 0
    for _ in range(2):
        operands.restore()
        workspace = max(workspace, memory.of(lambda: call(*sets[0])))
    return {"seconds": _seconds(call, sets, operands), "workspace": workspace}


def _seconds(call: Callable[..., object], sets: list[list[Tensor]], operands: Operands) -> float:
    """The median of a few calls; of many, where they are short."""
    times: list[float] = []
    while sum(times) < ENOUGH_SECONDS and len(times) < MOST_RUNS:
        operands.restore()
        values = sets[(len(times) + 1) % len(sets)]
        begin = perf_counter()
        call(*values)
        times.append(perf_counter() - begin)
    return statistics.median(times)


def _status(field: str) -> int:
    """A size in bytes from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Answer requests; the first sets the number of threads, one with a sample the file that is read beside
    programs from then on."""
    # A collection in between would be timed with the kernel it falls on.
    gc.disable()
    pool = Pool()
    memory = PeakMemory()
    libraries = Libraries()
    scope = {**SCOPE, "native": libraries}
    samples: list[Sample] = []

    def handle(request: Answer) -> Answer:
        if "threads" in request:
            torch.set_num_threads(request["threads"])
            return {}
        try:
            if "sample" in request:
                samples.append(Sample(request["sample"]))
                return {}
            if "library" in request:
                libraries.add(base64.b64decode(request["library"]))
                return {}
            with torch.inference_mode():
                if "steps" in request:
                    sample = samples[-1] if samples else None
                    return asdict(sequence_seconds(request, pool, scope, sample))
                return measured(request, pool, memory, scope)
        except Exception as error:
            lines = str(error).strip().splitlines()
            return {"error": f"{type(error).__name__}: {lines[0] if lines else '(no text)'}"}

    serve(handle)
