"""The rules of operators that native kernels compute, in programs that have any: in C, or in Triton on CUDA.

A rule that does not apply to a node goes on with `Lowering.plainly`.
"""

from __future__ import annotations

from occ.lower import attention, pooling, recurrent, rows, written_attention
from occ.lower.elementwise import ELEMENTS, cast, elementwise
from occ.lower.lowering import Rule

NATIVE_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTS, elementwise),
    "_to_copy.default": cast,
    "type_as.default": cast,
    "_native_batch_norm_legit_no_training.default": rows.batch_norm,
    "layer_norm.default": rows.layer_norm,
    "rms_norm.default": rows.rms_norm,
    "group_norm.default": rows.group_norm,
    "instance_norm.default": rows.instance_norm,
    "softmax.int": rows.softmax,
    "log_softmax.int": rows.softmax,
    "_softmax.default": rows.softmax,
    "_log_softmax.default": rows.softmax,
    "_safe_softmax.default": rows.softmax,
    "mean.dim": rows.reduction,
    "sum.dim_IntList": rows.reduction,
    "amax.default": rows.reduction,
    "amin.default": rows.reduction,
    "var.correction": rows.variance,
    "std.correction": rows.variance,
    "linalg_vector_norm.default": rows.vector_norm,
    **attention.NATIVE_RULES,
    **written_attention.NATIVE_RULES,
    **pooling.NATIVE_RULES,
    **recurrent.NATIVE_RULES,
}

CUDA_RULES: dict[str, Rule] = {
    name: rule for name, rule in NATIVE_RULES.items() if name not in recurrent.NATIVE_RULES
}
"""Those for CUDA: the recurrences in C have no counterpart there, and run as products of cuBLAS."""
