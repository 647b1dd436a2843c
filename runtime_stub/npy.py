"""Tensors from and to .npy files.

NumPy has no bfloat16: such a tensor is read from and written as float32.
"""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from .errors import InputError


def read_npy(path: str, spec: dict[str, Any]) -> Tensor:
    """The tensor in `path` for the input that `spec` describes ("name", "dtype").

    Raises InputError where the file cannot be read as one array. Nothing is unpickled.
    """
    try:
        with open(path, "rb") as file:
            array = numpy.lib.format.read_array(file, allow_pickle=False)
        tensor = torch.from_numpy(numpy.require(array, requirements="W"))
    except (OSError, ValueError, TypeError, EOFError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"cannot read input {spec['name']!r} from {path}: {reason}") from error
    if spec["dtype"] == "bfloat16" and tensor.dtype is torch.float32:
        return tensor.to(torch.bfloat16)
    return tensor


def write_npy(path: str, tensor: Tensor) -> None:
    """Write a tensor, from whatever device. Raises InputError where the file cannot be written."""
    plain = tensor.detach().cpu()
    if plain.dtype is torch.bfloat16:
        plain = plain.float()
    try:
        with open(path, "wb") as file:
            numpy.save(file, plain.resolve_conj().resolve_neg().numpy(), allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
