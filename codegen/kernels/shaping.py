"""Operators that move elements: indexing, joining, padding, updating in place."""

from __future__ import annotations

from occ.codegen.kernels.rows import listed, same_rows
from occ.codegen.kernels.table import Kernel, out_call, template, updated_call
from occ.codegen.triton import moving

# In-place tensor method: the functional ATen overloads it stands for.
_UPDATES = {
    "index_copy_": ("index_copy.default",),
    "index_add_": ("index_add.default",),
    "index_fill_": ("index_fill.int_Scalar", "index_fill.int_Tensor"),
    "scatter_": ("scatter.src", "scatter.value"),
    "scatter_add_": ("scatter_add.default",),
    "scatter_reduce_": ("scatter_reduce.two",),
    "masked_scatter_": ("masked_scatter.default",),
}

_TRITON = {"index_copy_": moving.index_copy}

KERNELS: tuple[Kernel, ...] = (
    *(
        Kernel(
            method.rstrip("_"),
            updated_call(f"torch.Tensor.{method}"),
            ops,
            overwrites=("self",),
            triton=_TRITON.get(method),
        )
        for method, ops in _UPDATES.items()
    ),
    # The tensor's method takes no None for a dimension that is not indexed.
    Kernel(
        "index_put", updated_call("aten.index_put_.default"), ("index_put.default",), overwrites=("self",)
    ),
    Kernel(
        "cat",
        template("torch.cat({tensors}, {dim}, out={out})"),
        splits=same_rows("tensors", fixed=listed("dim")),
    ),
    Kernel(
        "concatenate",
        template("kernels.concatenate({tensors}, {dim}, {out})"),
        splits=same_rows("tensors", fixed=listed("dim")),
    ),
    Kernel("stack", out_call("torch.stack"), ("stack.default",)),
    Kernel("index", out_call("aten.index.Tensor_out"), ("index.Tensor",)),
    Kernel("index_select", out_call("torch.index_select"), ("index_select.default",)),
    Kernel("take_along_dim", out_call("torch.gather"), ("gather.default",)),
    Kernel(
        "embedding",
        template("kernels.embedding({weight}, {indices}, {out})"),
        triton=moving.embedding,
    ),
    Kernel("packed_embedding", template("kernels.packed_embedding({pieces}, {starts}, {indices}, {out})")),
    Kernel("gather", template("gather({weight}, {indices}, {out}, {scratch})")),
    Kernel("take", out_call("torch.take"), ("take.default",)),
    Kernel("triu", out_call("torch.triu"), ("triu.default",)),
    Kernel("tril", out_call("torch.tril"), ("tril.default",)),
    Kernel("im2col", out_call("aten.im2col.out"), ("im2col.default",), dense=("self",)),
    Kernel("one_hot", template("{out}.zero_().scatter_(-1, {self}.unsqueeze(-1), 1)"), ("one_hot.default",)),
    Kernel("edge_pad", template("kernels.edge_pad({self}, {pad}, {mode}, {out})")),
    Kernel("constant_pad", template("kernels.constant_pad({self}, {pad}, {value}, {out})")),
    Kernel("flip", template("kernels.flip({self}, {dims}, {out})"), ("flip.default",)),
    Kernel("roll", template("kernels.roll({self}, {shifts}, {dims}, {out})")),
    Kernel("repeat", template("kernels.repeat({self}, {repeats}, {out})"), ("repeat.default",)),
    Kernel(
        "slice_scatter",
        template("kernels.slice_scatter({self}, {src}, {dim}, {start}, {end}, {step}, {out})"),
        ("slice_scatter.default",),
        overwrites=("self",),
    ),
    Kernel(
        "select_scatter",
        template("kernels.select_scatter({self}, {src}, {dim}, {index}, {out})"),
        ("select_scatter.default",),
        overwrites=("self",),
    ),
)
