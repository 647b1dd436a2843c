"""The process that measures what a process takes besides a program's budget; `occ.footprint` talks to it.

It does what `python model.occ` does and imports no more: what it imports is what is measured.
"""

from __future__ import annotations

from occ.runtime_stub.machine import set_allocator, trim_heap

# As in a program's process: before torch, and before any thread.
set_allocator()

import gc  # noqa: E402
from collections.abc import Iterator  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from occ.child import Answer, serve  # noqa: E402
from occ.resident import peak_nbytes, reset_peak, resident_nbytes  # noqa: E402
from occ.runtime_stub import entry, kernels, npy, program  # noqa: E402, F401
from occ.runtime_stub.arena import Arena  # noqa: E402
from occ.runtime_stub.cells import run_cells  # noqa: E402
from occ.runtime_stub.packed import pack_convolution, packed, probe  # noqa: E402
from occ.warm_up import warm_up  # noqa: E402

FEW, MANY = 200, 2000
"""Steps of the programs that are measured, in sections of SECTION_STEPS as an artifact has them."""

SECTION_STEPS = 100
SHAPES = 48
"""Convolutions of different shapes that are made."""


def program_nbytes(steps: int) -> int:
    """Bytes that loading and running a program of so many steps takes at its peak besides its arena: its
    text, the code compiled from it, its views of the arena, and what is left over from making them."""
    arena = Arena(1 << 20)
    namespace: dict[str, object] = {"arena": arena, "add": torch.add, "torch": torch, "wait": abs}
    with torch.inference_mode():
        before = _settled()
        reset_peak()
        text = "".join(_cells(steps))
        for _ in run_cells(text, "<measured>", namespace):
            pass
        trim_heap()
        for name, function in list(namespace.items()):
            if name.startswith("steps_") and callable(function):
                function()
        taken = peak_nbytes() - before
    namespace.clear()
    arena.close()
    return taken


def shape_nbytes() -> float:
    """Bytes that oneDNN keeps for one more shape of a convolution: its machine code and its description."""
    with torch.inference_mode():
        calls = [_convolution(16 + 8 * (n % 7), 16 + 16 * (n % 5), 8 + n) for n in range(SHAPES)]
        before = _settled()
        for x, _, weight, out in calls:
            kernels.convolution(x, weight, None, (1, 1), (1, 1), (1, 1), 1, True, None, out)
        return (_settled() - before) / SHAPES


def _convolution(inputs: int, outputs: int, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Operands of a packed 3x3 convolution: x, the weight's bytes, the weight over them, out."""
    x = torch.ones(1, inputs, side, side).contiguous(memory_format=torch.channels_last)
    out = torch.ones(1, outputs, side, side).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(outputs, inputs, 3, 3)
    memory, layout = pack_convolution(weight, (1, 1), (1, 1), (1, 1), 1, x.shape)
    return x, memory, packed(memory, weight.dtype, weight.shape, layout), out


def _cells(steps: int) -> Iterator[str]:
    """A program as an artifact has it: a tile, three values and a statement or two for each step."""
    yield (
        "# %%\nTILES = (\n"
        + "".join(
            f"    ({4096 * n:#x}, 4096, {64 * n:#x}),  # {n}: transformer.layer_{n}.output.dense.weight\n"
            for n in range(steps)
        )
        + ")\n"
    )
    for begin in range(0, steps, SECTION_STEPS):
        numbers = range(begin, begin + SECTION_STEPS)
        yield "# %%\n" + "".join(
            f"transformer_layer_{n}_{name} = arena.view({64 * n:#x}, torch.float32, (1, 4, 4), (16, 4, 1))\n"
            for n in numbers
            for name in ("output_dense", "intermediate_dense", "dense_weight")
        )
        yield f"# %%\ndef steps_{begin}():\n" + "".join(
            f"    # transformer.layer.{n}.output.dense\n"
            f"    wait({n})           # transformer.layer_{n}.output.dense.weight\n"
            f"    add(transformer_layer_{n}_output_dense, transformer_layer_{n}_intermediate_dense,\n"
            f"        out=transformer_layer_{n}_dense_weight)                  # {n} 0x{64 * n:08x}\n"
            for n in numbers
        )


def _settled() -> int:
    gc.collect()
    trim_heap()
    return resident_nbytes()


def main() -> None:
    def handle(request: Answer) -> Answer:
        warm_up()
        process = peak_nbytes()
        few, many = program_nbytes(FEW), program_nbytes(MANY)
        step = (many - few) / (MANY - FEW)
        return {
            "process": process + few - FEW * step,
            "step": step,
            "shape": shape_nbytes() if probe() else 0,
        }

    serve(handle)
