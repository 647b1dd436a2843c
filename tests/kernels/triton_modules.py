"""Triton functions as their program has them, loaded into the testing process: under TRITON_INTERPRET=1,
which `tests/conftest.py` sets, numpy runs them on CPU tensors."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from occ.codegen.kernels import kernel_named
from occ.codegen.triton import TritonFunction, triton_module
from tests.kernels.native import specs_of


class Libdevice:
    """Functions of CUDA's library by way of numpy: the interpreter has none of them."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        renamed = {"acos": "arccos", "asin": "arcsin", "atan": "arctan", "atan2": "arctan2", "pow": "power"}

        def call(*args: Any) -> Any:
            import triton.language as tl
            from triton.runtime.interpreter import TensorHandle

            wide = np.broadcast_arrays(*(arg.handle.data for arg in args))
            if name == "erfc":
                from math import erfc

                found = np.vectorize(erfc, otypes=[wide[0].dtype])(wide[0])
            else:
                found = getattr(np, renamed.get(name, name))(*wide)
            whole = max((arg for arg in args), key=lambda arg: arg.handle.data.size)
            return tl.tensor(TensorHandle(found, whole.handle.dtype), whole.type)

        return call


@cache
def multiplying_bfloat16() -> None:
    """Let the interpreter multiply matrices of bfloat16, which it has as integers of their bits."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    original = InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return original(self, widened(a), widened(b), *rest)

    InterpreterBuilder.create_dot = create_dot


def loaded(functions: Iterable[TritonFunction]) -> ModuleType:
    """The module of these functions."""
    multiplying_bfloat16()
    text = triton_module(functions)
    folder = Path(tempfile.mkdtemp(prefix="occ-triton-"))
    path = folder / "triton_kernels.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("triton_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "libdevice"):
        module.__dict__["libdevice"] = Libdevice()
    return module


POINTERS = {
    **{"float64": "*fp64", "float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16", "bool": "*i1"},
    **{"int64": "*i64", "int32": "*i32", "int16": "*i16", "int8": "*i8", "uint8": "*u8"},
}
"""Triton's names of pointers to each type."""


@dataclass(frozen=True)
class Compiled:
    """What a kernel takes on a GPU: bytes of shared memory of a program, registers of a thread and bytes of
    its local memory, into which registers are spilled."""

    shared: int
    registers: int
    spilled: int


def compiled(functions: Mapping[TritonFunction, Sequence[str]]) -> dict[str, Compiled]:
    """Functions whose tensors are of these types (torch's names), compiled for a GPU by Triton itself, in a
    process that does not interpret them; by symbol."""
    wanted = {}
    for function, dtypes in functions.items():
        tree = ast.parse(function.source)
        [kernel] = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name == f"{function.symbol}_kernel"
        ]
        names = [argument.arg for argument in kernel.args.args]
        types = {name: POINTERS[dtype] for name, dtype in zip(names, dtypes, strict=True)}
        launch = re.search(r"num_warps=(\d+),\s+num_stages=(\d+)", function.source)
        assert launch is not None
        wanted[kernel.name] = {"types": types, "warps": int(launch[1]), "stages": int(launch[2])}
    with tempfile.TemporaryDirectory(prefix="occ-triton-") as folder:
        path = Path(folder, "triton_kernels.py")
        path.write_text(triton_module(functions))
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("triton_compiler.py"), path],
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": folder},
        )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    return {name.removesuffix("_kernel"): Compiled(**each) for name, each in found.items()}


def triton_of(
    kernel: str, args: Mapping[str, object], outs: Sequence[Tensor], scratch: Sequence[Tensor] = ()
) -> TritonFunction | None:
    """The Triton function of a call; None where the kernel has none."""
    generate = kernel_named(kernel).triton
    if generate is None:
        return None
    return generate({name: specs_of(arg) for name, arg in args.items()}, specs_of(outs), specs_of(scratch))
