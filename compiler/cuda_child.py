"""The process that measures a CUDA device and kernels on it; `occ.devices` and `occ.cuda_measure` talk to it.

Every time is that of the device, between two events. Kernels are timed as programs run them: recorded in a
CUDA graph, where the host's part of a launch costs nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from occ.accelerator import PRODUCT_DTYPES
from occ.child import Answer, serve
from occ.numbers import tensor_at
from occ.runtime_stub import kernels
from occ.runtime_stub.sources import forget, module_of
from occ.runtime_stub.tensors import dtype_named
from occ.target import fitted, rounded

Action = Callable[[], object]

PRODUCT_SIZE = 4096
MEMORY_NBYTES = 256 << 20
COPY_NBYTES = (256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
CALLS = 20
"""Calls between two events."""

PASSES = 5
"""Times that are measured; the median counts."""

COLD_NBYTES = 128 << 20
"""Bytes of the copies of a weight that are read in turns, so that none is left in the device's caches."""

LARGE_NBYTES = 1 << 20
"""Bytes from which a weight is cold when its step begins."""

CONVOLUTIONS = (
    ((1, 3, 224, 224), (64, 3, 7, 7), 2),
    ((1, 64, 56, 56), (64, 64, 3, 3), 1),
    ((1, 512, 7, 7), (512, 512, 3, 3), 1),
    ((1, 512, 28, 28), (512, 512, 3, 3), 1),
    ((1, 3, 224, 224), (1024, 3, 16, 16), 16),
)
"""Convolutions (input, weight, stride) whose workspaces stand for others'."""

HOPPER = (9, 0)


class Gpu(Protocol):
    """What measuring needs of a device. Tests have one without any."""

    place: torch.device

    def seconds(self, calls: Callable[[], None], count: int) -> float:
        """Seconds that the device takes for one of the `count` calls that `calls` makes."""
        ...

    def peak_nbytes(self, action: Action) -> int:
        """Bytes that `action` has allocated at once, above what was there before."""
        ...


class Cuda:
    """The current CUDA device."""

    place = torch.device("cuda")

    def seconds(self, calls: Callable[[], None], count: int) -> float:
        """The median of PASSES replays of a graph of the calls."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            calls()
            calls()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            calls()
        graph.replay()
        return self.eager_seconds(graph.replay) / count

    def eager_seconds(self, action: Action) -> float:
        """Seconds from the begin of an action's work on the device to its end; the median of PASSES."""
        times: list[float] = []
        for _ in range(PASSES):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            action()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return statistics.median(times)

    def peak_nbytes(self, action: Action) -> int:
        action()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = action()
        torch.cuda.synchronize()
        del result
        return max(0, int(torch.cuda.max_memory_allocated()) - int(before))


class Case:
    """One step with memory of its own: `request` is that of `occ.measure`, and `memory` makes its buffers."""

    def __init__(self, request: Answer, gpu: Gpu, scope: dict[str, Any]) -> None:
        self._request = request
        self._gpu = gpu
        names = ", ".join(f"v{index}" for index in range(len(request["values"])))
        self._call: Callable[..., object] = eval(f"lambda {names}: {request['text']}", scope)
        weights = {request["values"][index][0] for index in request["weights"]}
        fixed = {
            buffer: self._memory(buffer) for buffer in range(len(request["buffers"])) if buffer not in weights
        }
        nbytes = sum(request["buffers"][buffer] for buffer in weights)
        count = 1 if nbytes < LARGE_NBYTES else max(2, min(CALLS, COLD_NBYTES // nbytes))
        self.sets = [
            self._values({**fixed, **{buffer: self._memory(buffer) for buffer in weights}})
            for _ in range(count)
        ]

    def run(self) -> None:
        """Call it CALLS times, on one copy of the weights after the other."""
        for number in range(CALLS):
            self._call(*self.sets[number % len(self.sets)])

    def once(self) -> object:
        """Call it once."""
        return self._call(*self.sets[0])

    def _memory(self, buffer: int) -> Tensor:
        """A buffer of small numbers, in the type of the first value over it."""
        _, _, dtype, *_ = next(value for value in self._request["values"] if value[0] == buffer)
        nbytes: int = self._request["buffers"][buffer]
        memory = torch.zeros(nbytes, dtype=torch.uint8, device=self._gpu.place)
        kind = dtype_named(dtype)
        whole = nbytes // kind.itemsize * kind.itemsize
        if kind.is_floating_point and whole:
            memory[:whole].view(kind).normal_()
        elif whole:
            memory[:whole].view(kind).fill_(1)
        return memory

    def _values(self, memory: dict[int, Tensor]) -> list[Tensor]:
        return [
            tensor_at(memory[buffer], offset, *facts) for buffer, offset, *facts in self._request["values"]
        ]


def measured(request: Answer, gpu: Gpu, module: ModuleType | None) -> Answer:
    """Seconds and workspace of one case; `module` has its kernels in Triton."""
    scope: dict[str, Any] = {
        **{"torch": torch, "aten": torch.ops.aten, "kernels": kernels, "triton_kernels": module},
        **{"inf": math.inf, "nan": math.nan},
    }
    case = Case(request, gpu, scope)
    workspace = gpu.peak_nbytes(case.once)
    return {"seconds": gpu.seconds(case.run, CALLS), "workspace": workspace}


def profile(gpu: Cuda) -> Answer:
    """The figures of the current CUDA device, as `occ.accelerator` reads them."""
    found = torch.cuda.get_device_properties(0)
    torch.zeros(1, device=gpu.place)
    rates = {dtype: rounded(_product_rate(gpu, dtype), 2) for dtype in PRODUCT_DTYPES}
    capability = torch.cuda.get_device_capability(0)
    convolutions = max(_convolution_nbytes(gpu, *case) for case in CONVOLUTIONS)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    one = torch.zeros(1, device=gpu.place)
    source = torch.randn(MEMORY_NBYTES // 4, device=gpu.place)
    target = torch.empty_like(source)
    copy_bandwidth, copy_overhead, slowdown = _copies(gpu)
    return {
        "name": found.name,
        "capability": f"{capability[0]}.{capability[1]}",
        "total_nbytes": total,
        "context_nbytes": max(0, total - free - torch.cuda.memory_reserved()),
        "product_rates": rates,
        "memory_rate": rounded(2 * MEMORY_NBYTES / _each(gpu, lambda: torch.neg(source, out=target)), 2),
        "launch": rounded(_each(gpu, lambda: one.add_(1)), 2),
        "copy_bandwidth": rounded(copy_bandwidth, 2),
        "copy_overhead": rounded(copy_overhead, 2),
        "copy_slowdown": slowdown,
        "cublas_workspace_nbytes": (32 << 20) if capability >= HOPPER else (8 << 20),
        "convolution_nbytes": max(convolutions, 16 << 20),
        "measured": True,
        "integrated": bool(found.is_integrated),
    }


def _each(gpu: Gpu, action: Action) -> float:
    def calls() -> None:
        for _ in range(CALLS):
            action()

    return gpu.seconds(calls, CALLS)


def _product_rate(gpu: Gpu, dtype: str) -> float:
    kind = dtype_named(dtype)
    one, other, out = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=gpu.place).to(kind) for _ in range(3))
    return 2.0 * PRODUCT_SIZE**3 / _each(gpu, lambda: torch.mm(one, other, out=out))


def _convolution_nbytes(gpu: Gpu, source: tuple[int, ...], filters: tuple[int, ...], stride: int) -> int:
    """The workspace of one convolution in 16 bits, channels_last."""
    last = torch.channels_last
    x = torch.randn(source, device=gpu.place).half().contiguous(memory_format=last)
    weight = torch.randn(filters, device=gpu.place).half().contiguous(memory_format=last)
    out = torch.nn.functional.conv2d(x, weight, stride=stride)
    pair = (stride, stride)
    return gpu.peak_nbytes(lambda: kernels.cudnn_convolution(x, weight, pair, (0, 0), (1, 1), 1, out))


def _copies(gpu: Cuda) -> tuple[float, float, float]:
    """Bandwidth and overhead of copies from pinned memory, and how much slower products are beside them."""
    most = max(COPY_NBYTES)
    host = torch.empty(most, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(most, dtype=torch.uint8, device=gpu.place)
    stream = torch.cuda.Stream()

    def copied(nbytes: int) -> float:
        def action() -> None:
            for _ in range(CALLS):
                device[:nbytes].copy_(host[:nbytes], non_blocking=True)

        return gpu.eager_seconds(action) / CALLS

    requests = [(nbytes, copied(nbytes)) for nbytes in COPY_NBYTES]
    bandwidth, overhead = fitted(requests)
    half = [torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=gpu.place).half() for _ in range(3)]

    def products() -> None:
        for _ in range(CALLS):
            torch.mm(half[0], half[1], out=half[2])

    alone = gpu.eager_seconds(products)
    rounds = math.ceil(2.0 * alone * bandwidth / most)

    def beside() -> None:
        with torch.cuda.stream(stream):
            for _ in range(rounds):
                device.copy_(host, non_blocking=True)
        products()

    return bandwidth, overhead, max(1.0, round(gpu.eager_seconds(beside) / alone, 2))


class Server:
    """Answers requests: a profile, a module of kernels, a case."""

    def __init__(self, gpu: Cuda) -> None:
        self._gpu = gpu
        self._module: ModuleType | None = None
        self._modules = 0

    def answer(self, request: Answer) -> Answer:
        """What a request asks for, or the text of the error that it met."""
        try:
            with torch.inference_mode():
                if request.get("do") == "profile":
                    return profile(self._gpu)
                if "kernels" in request:
                    self._load(request["kernels"])
                    return {}
                return measured(request, self._gpu, self._module)
        except Exception as error:
            lines = str(error).strip().splitlines()
            return {"error": f"{type(error).__name__}: {lines[0] if lines else '(no text)'}"}

    def _load(self, text: str) -> None:
        if self._module is not None:
            forget(self._module)
        self._modules += 1
        name = f"measured_kernels_{self._modules}"
        self._module = module_of(text, f"<{name}>", name)


def main() -> None:
    """Answer requests until standard input ends."""
    serve(Server(Cuda()).answer)
