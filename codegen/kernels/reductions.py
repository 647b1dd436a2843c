"""Reductions, softmax, normalisation and pooling."""

from __future__ import annotations

from collections.abc import Mapping

from occ.codegen.kernels.rows import (
    LOWEST,
    enlarged_rows,
    listed,
    mean_extents,
    pool_extents,
    reduced_rows,
    same_rows,
    trailing,
    window_rows,
)
from occ.codegen.kernels.table import Kernel, Operand, Spec, out_call, template
from occ.codegen.native import pooling
from occ.codegen.triton import pooling as triton_pooling


def _pool_indices(args: Mapping[str, Operand], out: Spec) -> tuple[Spec, ...]:
    return (Spec("int64", out.shape, out.strides),)


KERNELS: tuple[Kernel, ...] = (
    Kernel("sum", out_call("torch.sum"), ("sum.dim_IntList",), splits=reduced_rows),
    Kernel("mean", out_call("torch.mean"), ("mean.dim",), splits=reduced_rows),
    Kernel("prod", out_call("torch.prod"), ("prod.dim_int",)),
    Kernel("amax", out_call("torch.amax"), ("amax.default",)),
    Kernel("amin", out_call("torch.amin"), ("amin.default",)),
    Kernel("argmax", out_call("torch.argmax"), ("argmax.default",)),
    Kernel("argmin", out_call("torch.argmin"), ("argmin.default",)),
    Kernel("any", out_call("torch.any")),
    Kernel("all", out_call("torch.all")),
    Kernel("cumsum", out_call("torch.cumsum"), ("cumsum.default",)),
    Kernel("vector_norm", out_call("torch.linalg.vector_norm"), ("linalg_vector_norm.default",)),
    Kernel(
        "softmax",
        template("aten._softmax.out({self}, {dim}, False, out={out})"),
        ("_softmax.default",),
        overwrites=("self",),
        dense=("self",),
        splits=same_rows("self", fixed=listed("dim")),
    ),
    Kernel(
        "log_softmax",
        template("aten._log_softmax.out({self}, {dim}, False, out={out})"),
        ("_log_softmax.default",),
        dense=("self",),
        splits=same_rows("self", fixed=listed("dim")),
    ),
    Kernel(
        "layer_norm",
        template("kernels.layer_norm({input}, {normalized_shape}, {weight}, {bias}, {eps}, {rows}, {out})"),
        overwrites=("input",),
        dense=("input",),
        splits=same_rows("input", fixed=trailing("normalized_shape")),
    ),
    Kernel(
        "group_norm",
        template("kernels.group_norm({input}, {num_groups}, {weight}, {bias}, {eps}, {out})"),
        overwrites=("input",),
    ),
    Kernel(
        "max_pool",
        template(
            "kernels.max_pool({self}, {kernel_size}, {stride}, {padding}, {dilation}, {ceil_mode},"
            " {scratch}, {out})"
        ),
        scratch=_pool_indices,
        splits=window_rows("self", pool_extents, fill=LOWEST, scratch=True),
    ),
    Kernel(
        "adaptive_max_pool",
        template("kernels.adaptive_max_pool({self}, {output_size}, {scratch}, {out})"),
        scratch=_pool_indices,
    ),
    Kernel(
        "avg_pool",
        out_call("aten.avg_pool2d.out"),
        ("avg_pool2d.default",),
        splits=window_rows("self", mean_extents),
    ),
    Kernel("avg_pool3d", out_call("aten.avg_pool3d.out")),
    Kernel(
        "native_max_pool",
        native=pooling.max_pool,
        triton=triton_pooling.max_pool,
        splits=window_rows("self", pool_extents, fill=LOWEST),
    ),
    Kernel(
        "native_avg_pool",
        native=pooling.avg_pool,
        triton=triton_pooling.avg_pool,
        splits=window_rows("self", mean_extents),
    ),
    Kernel(
        "native_adaptive_max_pool",
        native=pooling.adaptive_max_pool,
        triton=triton_pooling.adaptive_max_pool,
    ),
    Kernel(
        "native_adaptive_avg_pool",
        native=pooling.adaptive_avg_pool,
        triton=triton_pooling.adaptive_avg_pool,
    ),
    Kernel("adaptive_avg_pool2d", out_call("aten.adaptive_avg_pool2d.out")),
    Kernel("adaptive_avg_pool3d", out_call("aten.adaptive_avg_pool3d.out")),
    Kernel("upsample_nearest1d", out_call("aten.upsample_nearest1d.out")),
    Kernel(
        "upsample_nearest2d",
        template("aten.upsample_nearest2d.out({self}, {out}.shape[2:], {scale_0}, {scale_1}, out={out})"),
        splits=enlarged_rows,
    ),
    Kernel("upsample_nearest3d", out_call("aten.upsample_nearest3d.out")),
    Kernel("upsample_linear1d", out_call("aten.upsample_linear1d.out")),
    Kernel("upsample_bilinear2d", out_call("aten.upsample_bilinear2d.out")),
    Kernel("upsample_bicubic2d", out_call("aten.upsample_bicubic2d.out")),
    Kernel("upsample_trilinear3d", out_call("aten.upsample_trilinear3d.out")),
    Kernel("upsample_nearest_exact1d", out_call("aten._upsample_nearest_exact1d.out")),
    Kernel("upsample_nearest_exact2d", out_call("aten._upsample_nearest_exact2d.out")),
    Kernel("upsample_nearest_exact3d", out_call("aten._upsample_nearest_exact3d.out")),
    Kernel("upsample_bilinear2d_aa", out_call("aten._upsample_bilinear2d_aa.out")),
    Kernel("upsample_bicubic2d_aa", out_call("aten._upsample_bicubic2d_aa.out")),
)
