"""What every entry allocates in a call on large operands. Run as a script under the malloc counter, it writes
JSON: for each case the most bytes it had allocated at once."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from occ.counter import preloaded_counter
from occ.lower.draft import dense_strides
from tests.kernels.cases import CASES, Case, tensors
from tests.kernels.layouts import plain_layouts, results_of, scratch_of
from tests.kernels.memory import Memory, call_of

LARGE = 512 << 10
"""Bytes that the operands of a large call take, at least."""


def enlarged(case: Case) -> Case | None:
    """The case with its first dimension repeated; None where its operands do not go together then."""
    operands = list(tensors(case.args))
    if not operands or not operands[0].dim():
        return None
    rows = operands[0].shape[0]
    nbytes = max(tensor.nbytes for tensor in operands if tensor.dim() and tensor.shape[0] == rows)
    times = -(-LARGE // nbytes)

    def repeat(arg: Any) -> Any:
        if isinstance(arg, tuple):
            return tuple(map(repeat, arg))
        if not isinstance(arg, Tensor) or not arg.dim() or arg.shape[0] != rows:
            return arg
        large = arg.repeat(times, *[1] * (arg.dim() - 1))
        strides = dense_strides(large.shape, arg.stride())
        return torch.empty_strided(large.shape, strides, dtype=arg.dtype).copy_(large)

    larger = replace(case, args={name: repeat(arg) for name, arg in case.args.items()})
    try:
        larger.expected(**larger.args)
    except (RuntimeError, IndexError):
        return None
    return larger


def large_cases() -> Iterator[tuple[str, Case]]:
    """One large case of each entry and operator, of float32 where there is one."""
    seen: set[tuple[str, str]] = set()
    for name, case in CASES.items():
        if (case.kernel, case.op) not in seen and (larger := enlarged(case)) is not None:
            seen.add((case.kernel, case.op))
            yield name, larger


def placed(args: Mapping[str, Any], memory: Memory) -> dict[str, Any]:
    def place(arg: Any) -> Any:
        if isinstance(arg, Tensor):
            return memory.holding(arg, dense_strides(arg.shape, arg.stride()))
        return tuple(map(place, arg)) if isinstance(arg, tuple) else arg

    return {name: place(arg) for name, arg in args.items()}


def main() -> None:
    counter = preloaded_counter()
    assert counter is not None, "the malloc counter is not preloaded"
    torch.set_num_threads(1)
    memory = Memory(64 << 20)
    gc.collect()
    gc.disable()
    found: dict[str, int] = {}
    for name, case in large_cases():
        memory.used = 64
        wanted = results_of(case)
        args = placed(case.args, memory)
        layouts = plain_layouts(case, args, wanted)
        outs = [memory.new(w.dtype, w.shape, s) for w, s in zip(wanted, layouts, strict=True)]
        _, call = call_of(case.kernel, args, outs, scratch_of(case, args, outs[0], memory))
        with torch.inference_mode():
            call()  # the first call of a kernel makes what it keeps
            counter.reset()
            call()
        found[name] = counter.peak()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
