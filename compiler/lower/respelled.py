"""Operators that another one's entry computes: the same with other arguments, or two steps instead of one."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch.fx import Node

from occ.lower.constants import Constant, batch_norm_affine
from occ.lower.draft import Traced, dense_strides
from occ.lower.lowering import Lowering, Rule, op_name

aten = torch.ops.aten


# Reductions


def reduce_all(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """sum, mean, max or min of everything: the reduction over all dimensions."""
    x = low.tensor(operands["self"])
    name = op_name(node.target).split(".")[0]
    kernel = {"max": "amax", "min": "amin"}.get(name, name)
    args = {"self": x, "dim": tuple(range(x.meta.dim())), "keepdim": False}
    if "dtype" in operands:
        args["dtype"] = operands["dtype"]
    return _one(low, node, kernel, args)


def product_of_all(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.view(aten.view.default, {"self": low.tensor(operands["self"]), "size": (-1,)})
    return _one(low, node, "prod", {**operands, "self": x, "dim": 0})


def extremum(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """max or min along a dimension, without the places where nobody reads those."""
    name = op_name(node.target).split(".")[0]
    values, places = node.meta["val"]
    x, dim, keepdim = low.tensor(operands["self"]), operands["dim"], operands.get("keepdim", False)
    out = low.new(node.name, values.shape, values.dtype)
    if all(user.args[1] == 0 for user in node.users):
        low.emit(node, f"a{name}", {"self": x, "dim": (dim,), "keepdim": keepdim}, out)
        return (out, None)
    where = low.new(f"{node.name}_places", places.shape, places.dtype)
    low.emit(node, f"{name}_dim", {"self": x, "dim": dim, "keepdim": keepdim}, [out, where])
    return (out, where)


def truth(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """any and all: of numbers, whether they are not zero."""
    x = low.tensor(operands["self"])
    result = node.meta["val"]
    if result.dtype is not torch.bool:
        return low.functional(node, operands)
    if x.meta.dtype is not torch.bool:
        truths = low.new(f"{node.name}_truths", x.meta.shape, torch.bool, _strides_of(x))
        low.emit(node, "ne", {"self": x, "other": 0}, truths)
        x = truths
    return _one(low, node, op_name(node.target).split(".")[0], {**operands, "self": x})


def moment(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Variances and standard deviations; `correction` is what the number of elements is reduced by."""
    correction = operands.get("correction")
    if correction is None:
        correction = int(operands.get("unbiased", True))
    args = {
        "self": operands["self"],
        "dim": operands.get("dim"),
        "correction": correction,
        "keepdim": operands.get("keepdim", False),
    }
    results = node.meta["val"]
    several = isinstance(results, (tuple, list))
    outs = [low.new(node.name, t.shape, t.dtype) for t in (results if several else (results,))]
    low.emit(node, op_name(node.target).split(".")[0], args, outs)
    return tuple(outs) if several else outs[0]


# Orders


def sort(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """Sorted values and where they were; for argsort the latter alone."""
    x = low.tensor(operands["self"])
    name = op_name(node.target).split(".")[0]
    args = {
        "self": x,
        "stable": bool(operands.get("stable", False)),
        "dim": operands.get("dim", -1),
        "descending": operands.get("descending", False),
    }
    # The operator copies where values are not contiguous.
    values = low.new(f"{node.name}_values", x.meta.shape, x.meta.dtype)
    places = low.new(node.name, x.meta.shape, torch.int64)
    low.emit(node, "sort", args, [values, places])
    return places if name == "argsort" else (values, places)


# Arithmetic


def reversed_subtraction(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """other - alpha * self."""
    other = operands["other"]
    if not isinstance(other, (Constant, Traced)):
        other = low.number(other, node.meta["val"].dtype)
    args = {"self": other, "other": low.tensor(operands["self"])}
    if operands.get("alpha", 1) != 1:
        args["alpha"] = operands["alpha"]
    return _one(low, node, "sub", args, like=args["other"])


def isinf(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    x = low.tensor(operands["self"])
    size = low.new(f"{node.name}_size", x.meta.shape, x.meta.dtype, _strides_of(x))
    low.emit(node, "abs", {"self": x}, size)
    return _one(low, node, "eq", {"self": size, "other": inf}, like=size)


def celu(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """ELU whose exponent is scaled."""
    x, alpha = low.tensor(operands["self"]), operands.get("alpha", 1.0)
    args = {"self": x, "alpha": alpha, "scale": 1.0, "input_scale": 1.0 / alpha}
    return _one(low, node, "elu", args, like=x)


def rrelu(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """In inference the slope is the middle of its range."""
    if operands.get("training", False):
        return low.functional(node, operands)
    x = low.tensor(operands["self"])
    slope = (operands.get("lower", 1 / 8) + operands.get("upper", 1 / 3)) / 2
    return _one(low, node, "leaky_relu", {"self": x, "negative_slope": slope}, like=x)


def prelu(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """max(x, 0) + weight * min(x, 0), a weight for each channel or one for all."""
    x, weight = low.tensor(operands["self"]), low.tensor(operands["weight"])
    if x.meta.dim() > 1 and weight.meta.numel() > 1:
        meta = weight.meta.view(1, -1, *[1] * (x.meta.dim() - 2))
        weight = Traced(weight.name, weight.buffer, meta)
    return _one(low, node, "prelu", {"self": x, "weight": weight}, like=x)


# Normalisation


def instance_norm(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """With its own statistics a group norm of groups of one channel, with kept ones scale and shift."""
    x = low.tensor(operands["input"])
    weight, bias = operands["weight"], operands["bias"]
    mean, variance = operands["running_mean"], operands["running_var"]
    if operands["use_input_stats"]:
        if mean is not None:
            return low.functional(node, operands)
        args = {"input": x, "num_groups": x.meta.shape[1], "weight": weight, "bias": bias}
        return low.rules["group_norm.default"](low, node, {**args, "eps": operands["eps"]})
    if not all(c is None or isinstance(c, Constant) for c in (weight, bias)):
        return low.functional(node, operands)
    if not isinstance(mean, Constant) or not isinstance(variance, Constant):
        return low.functional(node, operands)
    weight, bias = (None if c is None else c.tensor for c in (weight, bias))
    affine = batch_norm_affine(weight, bias, mean.tensor, variance.tensor, operands["eps"])
    shape = (1, -1, *[1] * (x.meta.dim() - 2))
    scale, shift = (
        Constant(f"{node.name}_{what}", t.to(x.meta.dtype).view(shape))
        for what, t in zip(("scale", "shift"), affine, strict=True)
    )
    return _one(low, node, "affine", {"x": x, "scale": scale, "shift": shift}, like=x)


def _one(low: Lowering, node: Node, kernel: str, args: dict[str, Any], like: Traced | None = None) -> Traced:
    """The one result of a step, in the layout of `like` where that has the result's shape."""
    result = node.meta["val"]
    strides = None
    if like is not None and like.meta.shape == result.shape:
        strides = _strides_of(like)
    out = low.new(node.name, result.shape, result.dtype, strides)
    low.emit(node, kernel, args, out)
    return out


def _strides_of(x: Traced) -> tuple[int, ...]:
    return dense_strides(x.meta.shape, x.meta.stride())


RULES: dict[str, Rule] = {
    **dict.fromkeys(("sum.default", "mean.default", "max.default", "min.default"), reduce_all),
    "prod.default": product_of_all,
    **{f"{name}.{which}": truth for name in ("any", "all") for which in ("default", "dim", "dims")},
    **dict.fromkeys(("max.dim", "min.dim"), extremum),
    **{f"{name}.{which}": moment for name in ("var", "std") for which in ("default", "dim", "correction")},
    **{f"{name}.{which}": moment for name in ("var_mean", "std_mean") for which in ("dim", "correction")},
    **dict.fromkeys(("sort.default", "sort.stable", "argsort.default", "argsort.stable"), sort),
    **dict.fromkeys(("rsub.Scalar", "rsub.Tensor"), reversed_subtraction),
    "isinf.default": isinf,
    "celu.default": celu,
    "rrelu.default": rrelu,
    "prelu.default": prelu,
    "instance_norm.default": instance_norm,
}
