"""One cold start, timed: `python cold_worker.py program MODEL.occ`, or with `eager NAME FILE`.

Imports what it needs, prints `imported` and waits for a JSON object with the names of two files: `inputs`,
the arguments, and `outputs`, for the result's tensors. Then it loads the weights, runs once and prints how
many `seconds` that took, as JSON.

Eager has no weights to initialise first: the network is built on the meta device and takes the tensors of
the safetensors file as they are (`assign=True`). `eager` maps the file (`safetensors.torch.load_file`),
`eager-read` reads it whole into memory first; which is faster depends on the network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from time import perf_counter

Run = Callable[..., object]


def program(path: str) -> Callable[[], Run]:
    """A loader of the artifact at `path`, with what a program imports imported."""
    sys.path.insert(0, path)
    from runtime_stub.integrity import check_archive
    from runtime_stub.machine import set_allocator, set_openmp

    set_allocator()
    set_openmp(check_archive(path)["machine"])
    from runtime_stub.program import load

    return lambda: load(path)


def eager(name: str, path: str, way: str) -> Callable[[], Run]:
    """A loader of the zoo's network `name` from a safetensors file (see `export_weights.py`)."""
    import torch
    from export_weights import aliases_of
    from safetensors.torch import load, load_file
    from torch import nn
    from zoo_models import ZOO

    def loaded() -> nn.Module:
        with torch.device("meta"):
            module = ZOO[name]().module
        if way == "eager":
            tensors = load_file(path)
        else:
            with open(path, "rb") as file:
                tensors = load(file.read())
        for alias, original in aliases_of(path).items():
            tensors[alias] = tensors[original]
        module.load_state_dict(tensors, assign=True, strict=False)
        # Buffers that a state dict leaves out.
        for owner_name, owner in module.named_modules():
            for buffer_name, buffer in owner.named_buffers(recurse=False):
                if buffer.is_meta:
                    full = f"{owner_name}.{buffer_name}" if owner_name else buffer_name
                    owner._buffers[buffer_name] = tensors[full]
        return module.eval()

    return loaded


def main(way: str, *arguments: str) -> None:
    loader = program(*arguments) if way == "program" else eager(*arguments, way)
    import torch
    from measuring import tensors_of

    print("imported", flush=True)
    request: dict[str, str] = json.loads(sys.stdin.readline())
    args, kwargs = torch.load(request["inputs"], weights_only=True)
    began = perf_counter()
    model = loader()
    with torch.inference_mode():
        result = model(*args, **kwargs)
    seconds = perf_counter() - began
    torch.save([tensor.clone() for tensor in tensors_of(result)], request["outputs"])
    print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
