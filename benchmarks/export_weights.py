"""Write a network of the zoo as safetensors: `python export_weights.py NAME FILE`, seeded as everywhere else.

Buffers that a state dict leaves out are written too. Of tensors that are one (tied weights), one is written;
the file's metadata names the others.
"""

from __future__ import annotations

import json
import sys

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def aliases_of(path: str) -> dict[str, str]:
    """Names of tensors that are not in the file, with the name of the tensor there that they are."""
    with safe_open(path, "pt") as file:
        aliases: dict[str, str] = json.loads(file.metadata()["aliases"])
    return aliases


def main(name: str, path: str) -> None:
    from zoo_models import build

    module = build(name).module
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[int, tuple[int, ...]], str] = {}
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for tensor_name, tensor in named:
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and key in seen:
            aliases[tensor_name] = seen[key]
        else:
            seen[key] = tensor_name
            tensors[tensor_name] = tensor.detach().contiguous()
    save_file(tensors, path, {"aliases": json.dumps(aliases)})


if __name__ == "__main__":
    main(*sys.argv[1:])
