"""Weights in the layout that oneDNN's kernels read, used where they lie in the arena.

A packed weight is plain bytes plus a description of their layout, which belongs to one processor, torch and
oneDNN. Everything here rests on private calls of torch and is probed before it is used: `probe` is asked when
a program is compiled and again when it is loaded.
"""

from __future__ import annotations

import base64
import ctypes
import os
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

_MKLDNN_LAYOUT = 3
_CPU = 0
_GAPS = (slice(108, 112), slice(316, 320))
"""Bytes between the fields of oneDNN's description, which hold whatever lay on the stack."""


def pack_convolution(
    weight: Tensor,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_shape: Sequence[int],
) -> tuple[Tensor, str]:
    """The bytes of a packed convolution weight (uint8, a copy) and the text of their layout."""
    packed = torch.ops.mkldnn._reorder_convolution_weight(
        weight, padding, stride, dilation, groups, list(input_shape)
    )
    nbytes = torch.ops.mkldnn._nbytes(packed)
    memory = torch.empty(nbytes, dtype=torch.uint8)
    ctypes.memmove(memory.data_ptr(), torch.ops.mkldnn.data_ptr(packed), nbytes)
    description = bytearray(torch.ops.mkldnn._get_mkldnn_serialized_md(packed).numpy())
    for gap in _GAPS:
        description[gap] = bytes(4)
    return memory, base64.b85encode(zlib.compress(bytes(description), 9)).decode("ascii")


def packed(memory: Tensor, dtype: torch.dtype, shape: Sequence[int], layout: str) -> Tensor:
    """A packed weight over `memory` (uint8), which it neither copies nor owns."""
    description = zlib.decompress(base64.b85decode(layout))
    library = _library()
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    strides = (ctypes.c_int64 * len(shape))()
    handle = ctypes.c_void_p()
    failed = library.aoti_torch_create_tensor_from_blob_v2(
        memory.data_ptr(),
        len(shape),
        sizes,
        strides,
        0,
        getattr(library, f"aoti_torch_dtype_{str(dtype).removeprefix('torch.')}")(),
        _CPU,
        -1,
        ctypes.byref(handle),
        _MKLDNN_LAYOUT,
        ctypes.cast(ctypes.create_string_buffer(description, len(description)), ctypes.c_void_p),
        len(description),
    )
    if failed:
        raise RuntimeError("oneDNN does not take the packed weight")
    tensor: Tensor = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(_capsule(handle))
    return tensor


@cache
def probe() -> str:
    """A text that two machines share only if packed weights of one run on the other: torch, oneDNN, the
    processor's instruction set, and the layouts chosen for a few shapes. Empty where packing does not work.
    """
    # Layouts depend on the number of threads too; with one, they tell processors apart and no more.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layouts = []
        for shape, groups in (((64, 48, 3, 3), 1), ((64, 1, 3, 3), 64), ((80, 256, 1, 1), 1)):
            weight = torch.linspace(-1, 1, shape[0] * shape[1] * shape[2] * shape[3]).view(shape)
            inputs = torch.linspace(-1, 1, shape[1] * groups * 36).view(1, shape[1] * groups, 6, 6)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            memory, layout = pack_convolution(weight, (1, 1), (1, 1), (1, 1), groups, inputs.shape)
            expected = torch.conv2d(inputs, weight, None, 1, 1, 1, groups)
            out = torch.zeros_like(expected)
            torch.ops.mkldnn._convolution_pointwise_.binary(
                out,
                inputs,
                packed(memory, weight.dtype, shape, layout),
                None,
                [1, 1],
                [1, 1],
                [1, 1],
                groups,
                "add",
                1.0,
                None,
                [],
                "",
            )
            if not torch.allclose(out, expected, rtol=1e-3, atol=1e-3):
                return ""
            layouts.append(layout)
    except (RuntimeError, AttributeError, OSError, TypeError):
        return ""
    finally:
        torch.set_num_threads(threads)
    fingerprint = zlib.crc32("".join(layouts).encode())
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {fingerprint:08x}"


@cache
def _library() -> Any:
    library = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
    integers = ctypes.POINTER(ctypes.c_int64)
    library.aoti_torch_create_tensor_from_blob_v2.restype = ctypes.c_int32
    library.aoti_torch_create_tensor_from_blob_v2.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int64,
        integers,
        integers,
        ctypes.c_int64,
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_int64,
    ]
    return library


def _capsule(handle: ctypes.c_void_p) -> object:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(handle, None, None)
