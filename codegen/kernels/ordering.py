"""Largest elements with their places, sorting, searching, running and statistical reductions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from occ.codegen.kernels.table import Kernel, out_call


def _moment(function: str) -> Kernel:
    """Variance or standard deviation; with `_mean`, and the mean."""
    results = ("out0", "out1") if function.endswith("_mean") else ("out",)

    def call(args: Mapping[str, str], outs: Sequence[str], scratch: Sequence[str]) -> str:
        written = ", ".join(f"{name}={out}" for name, out in zip(results, outs, strict=True))
        options = f"correction={args['correction']}, keepdim={args['keepdim']}"
        return f"aten.{function}.correction_out({args['self']}, {args['dim']}, {options}, {written})"

    return Kernel(function, call)


def _sort(args: Mapping[str, str], outs: Sequence[str], scratch: Sequence[str]) -> str:
    options = ", ".join(f"{name}={args[name]}" for name in ("stable", "dim", "descending"))
    return f"aten.sort.values_stable({args['self']}, {options}, values={outs[0]}, indices={outs[1]})"


KERNELS: tuple[Kernel, ...] = (
    Kernel("max_dim", out_call("torch.max")),
    Kernel("min_dim", out_call("torch.min")),
    Kernel("sort", _sort),
    Kernel("topk", out_call("torch.topk"), ("topk.default",)),
    Kernel("bucketize", out_call("torch.bucketize"), ("bucketize.Tensor",)),
    Kernel("searchsorted", out_call("torch.searchsorted"), ("searchsorted.Tensor",)),
    Kernel("histc", out_call("torch.histc"), ("histc.default",)),
    Kernel("cumprod", out_call("torch.cumprod"), ("cumprod.default",)),
    Kernel("cummax", out_call("torch.cummax"), ("cummax.default",)),
    Kernel("cummin", out_call("torch.cummin"), ("cummin.default",)),
    Kernel("logcumsumexp", out_call("torch.logcumsumexp"), ("logcumsumexp.default",)),
    *(_moment(function) for function in ("var", "std", "var_mean", "std_mean")),
)
