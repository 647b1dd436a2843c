"""Every entry with a Triton kernel against its cases, in every layout, run by the interpreter; and that the
kernels compile for a GPU, which need not be there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from occ.codegen import kernels as table
from occ.codegen.steps import step_text, triton_functions
from occ.codegen.triton import TritonFunction, triton_module
from occ.errors import InternalError
from occ.ir import Ref, Step, Value
from tests.kernels.attention_calls import call
from tests.kernels.cases import CASES, Case
from tests.kernels.layouts import (
    LAYOUTS,
    close,
    gapped,
    placed,
    plain_layouts,
    result_layouts,
    results_of,
    scratch_of,
)
from tests.kernels.loop_trials import NUMBER, Trial, args_of
from tests.kernels.memory import Memory, same_place
from tests.kernels.native import tensors_of
from tests.kernels.triton_modules import compiled, loaded, triton_of

pytest.importorskip("triton", reason="NOT TESTED: there is no Triton")

ENTRIES = tuple(name for name in table.kernel_names() if table.kernel_named(name).triton is not None)


@dataclass(frozen=True, eq=False)
class Run:
    """A case in memory of its own, and its function."""

    case: Case
    memory: Memory
    args: dict[str, Any]
    outs: list[Tensor]
    scratch: list[Tensor]
    function: TritonFunction


def runs(case: Case) -> Iterator[Run]:
    """A case with operands in every layout, and results in every one that the entry writes; in the most
    different ones alone where the kernel has a test of its own."""
    wanted = results_of(case)
    taken = (LAYOUTS[0], gapped) if case.kernel.startswith("native_") else (*LAYOUTS, gapped)
    for layout in taken:
        for layouts in result_layouts(case, placed(case, Memory(), layout), wanted):
            memory = Memory()
            args = placed(case, memory, layout)
            outs = [memory.new(w.dtype, w.shape, s) for w, s in zip(wanted, layouts, strict=True)]
            scratch = scratch_of(case, args, outs[0], memory)
            function = triton_of(case.kernel, args, outs, scratch)
            if function is not None:
                yield Run(case, memory, args, outs, scratch, function)


def check(one: Run, module: Any) -> None:
    expected = one.memory.bytes.clone()
    with torch.inference_mode():
        getattr(module, one.function.symbol)(*tensors_of(one.args.values()), *one.outs, *one.scratch)
    for written in (*one.outs, *one.scratch):
        same_place(expected, written).copy_(written)
    assert torch.equal(one.memory.bytes, expected), (
        f"{one.case.name} wrote bytes that are none of its results"
    )
    for found, wanted in zip(one.outs, results_of(one.case), strict=True):
        close(found, wanted)


@pytest.mark.parametrize("kernel", [name for name in ENTRIES if name != "loop"])
def test_equals_eager(kernel: str) -> None:
    """(Loops have a test of their own.)"""
    made = [one for case in CASES.values() if case.kernel == kernel for one in runs(case)]
    assert made
    module = loaded(one.function for one in made)
    for one in made:
        check(one, module)


def test_rows_are_written_in_place() -> None:
    """The result may be the tensor itself, as for a cache of keys."""
    cache, rows = NUMBER(2, 3, 9, 5), NUMBER(2, 3, 2, 5)
    places = torch.tensor([7, 2])
    wanted = cache.index_copy(2, places, rows)
    args = {"self": cache, "dim": 2, "index": places, "source": rows}
    function = triton_of("index_copy", args, [cache])
    assert function is not None
    getattr(loaded([function]), function.symbol)(cache, places, rows, cache)
    assert torch.equal(cache, wanted)


def test_indices_outside_a_table_are_not_followed() -> None:
    table_, indices, out = NUMBER(4, 6), torch.tensor([3, -1, 4]), torch.empty(3, 6)
    function = triton_of("embedding", {"weight": table_, "indices": indices}, [out])
    assert function is not None
    getattr(loaded([function]), function.symbol)(table_, indices, out)
    assert torch.equal(out[0], table_[3])
    assert bool(out[1:].isnan().all())


def test_the_route_of_a_step_follows_the_device() -> None:
    values = tuple(Value(id, name, id, 0, "float32", (4,), (1,)) for id, name in enumerate(("x", "y")))
    loop = Step("s", "", "loop", (("x0", Ref(0)), ("body", "y0 = x0 * 2.0"), ("row", 0)), (1,))
    relu = Step("s", "", "relu", (("self", Ref(0)),), (1,))
    texts = {
        (step.kernel, device): step_text(values, step, lambda id: values[id].name, device)
        for step in (loop, relu)
        for device in ("cpu", "cuda")
    }
    [function] = triton_functions(values, (loop, relu, loop))
    assert texts["loop", "cuda"] == f"triton_kernels.{function.symbol}(x, y)"
    assert texts["loop", "cpu"].startswith("native.")
    assert texts["relu", "cuda"] == texts["relu", "cpu"] == "torch.clamp_min(x, 0, out=y)"


def test_two_functions_of_one_symbol_are_refused() -> None:
    with pytest.raises(InternalError, match="two Triton kernels"):
        triton_module([TritonFunction("a", "1"), TritonFunction("a", "2")])


def test_kernels_compile_for_a_gpu() -> None:
    """Sizes of real models; what registers do not hold of a program would lie in memory, and is nothing."""
    wide = NUMBER(1, 1024, dtype=torch.bfloat16)
    trials = [
        Trial("y0 = gelu(x0 + x1)", (NUMBER(64, 1024, dtype=torch.bfloat16), wide)),
        Trial(
            "d = x0 - mean(x0); y0 = d * rsqrt(mean(d * d) + 1e-5) * x1",
            (NUMBER(64, 1024), NUMBER(1, 1024)),
            1,
        ),
        Trial("e = exp(x0 - max(x0)); y0 = e / sum(e)", (NUMBER(2, 50257, dtype=torch.float16),), 1),
        Trial("y0 = where(x0 > 0, x0, x0 // 3) + 2", (NUMBER(40, dtype=torch.int64),)),
        Trial("y0 = pow(x0, 2.5) + tanh(x0)", (NUMBER(40),)),
    ]
    made: dict[TritonFunction, list[str]] = {}
    for trial in trials:
        outs = [torch.empty(w.shape, dtype=w.dtype) for w in trial.wanted()]
        function = triton_of("loop", args_of(trial), outs)
        assert function is not None
        made[function] = types_of([*trial.operands, *outs])
    for size, causal in ((64, False), (128, True)):
        one = call((2, 2), (256, 300), (size, size), torch.bfloat16, causal=causal)
        function = triton_of("native_attention", one.args, [one.out])
        assert function is not None
        made[function] = types_of([*tensors_of(one.args.values()), one.out])
    for case in CASES.values():
        if case.kernel in ("embedding", "index_copy", "native_max_pool", "native_avg_pool"):
            args = placed(case, Memory(), LAYOUTS[0])
            memory = Memory()
            wanted = results_of(case)
            layouts = plain_layouts(case, args, wanted)
            outs = [memory.new(w.dtype, w.shape, s) for w, s in zip(wanted, layouts, strict=True)]
            function = triton_of(case.kernel, args, outs)
            assert function is not None
            made[function] = types_of([*tensors_of(args.values()), *outs])
    for symbol, found in compiled(made).items():
        assert found.spilled == 0, symbol
        assert found.shared <= 227 << 10, symbol


def types_of(tensors: list[Tensor]) -> list[str]:
    return [str(tensor.dtype).removeprefix("torch.") for tensor in tensors]
