"""Triton kernels compiled for a GPU that need not be there: `python triton_compiler.py MODULE.py` reads
{kernel: {"types": {parameter: type}, "warps": n, "stages": n}} from its input, compiles every kernel for
compute capability 9.0, and writes {kernel: {"shared": bytes, "registers": n, "spilled": bytes}}."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CAPABILITY = 90


def compiled(kernel: Any, types: dict[str, str], warps: int, stages: int) -> dict[str, int]:
    aligned = {
        (index,): [["tt.divisibility", 16]] for index, type in enumerate(types.values()) if type[0] == "*"
    }
    source = ASTSource(kernel, types, {}, aligned)
    target = GPUTarget("cuda", CAPABILITY, 32)
    made = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    used = resources(made.asm["cubin"])
    return {"shared": made.metadata.shared, "registers": used[0], "spilled": used[1]}


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory of a thread."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


def main() -> None:
    spec = importlib.util.spec_from_file_location("triton_kernels", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wanted = json.load(sys.stdin)
    print(json.dumps({name: compiled(getattr(module, name), **each) for name, each in wanted.items()}))


if __name__ == "__main__":
    main()
