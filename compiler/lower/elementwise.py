"""Element-wise operators as loops: what each computes, in the language of `occ.codegen.loops.ir`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from occ.codegen.loops.functions import COMPUTED, FLOATS
from occ.lower.constants import Constant, constant_meta
from occ.lower.draft import Traced, dense_strides
from occ.lower.lowering import Lowering, op_name

Element = Callable[["Terms"], "str | None"]
"""The text of an operator's result by those of its operands; None where the language cannot say it."""


class Terms:
    """The operands of one node as text, and the tensors that they name (`x0`, `x1`, ...)."""

    def __init__(self, low: Lowering, operands: dict[str, Any], result: torch.Tensor) -> None:
        self._low = low
        self._operands = operands
        self.dtype = result.dtype
        self.tensors: list[Traced] = []

    @property
    def kind(self) -> str:
        """The type that the result is computed in."""
        return computed(self.dtype)

    def common(self, *names: str) -> str:
        """The type that torch compares some operands in."""
        first, *rest = (self._promoted(self._operands[name]) for name in names)
        for other in rest:
            first = torch.empty((), dtype=torch.result_type(first, other), device="meta") if rest else first
        return computed(first.dtype)

    def type_of(self, name: str) -> str:
        """The type that an operand is computed with; that of the result for a number."""
        operand = self._operands.get(name)
        if isinstance(operand, (Constant, Traced)):
            return computed(_meta(operand).dtype)
        return self.kind

    def number(self, name: str, default: float = 0.0) -> bool | int | float | None:
        """An operand that is a number (or a constant of one element), None where it is another tensor."""
        operand = self._operands.get(name, default)
        if isinstance(operand, Constant) and operand.tensor.numel() == 1:
            found: bool | int | float = operand.tensor.item()
            return found
        return operand if isinstance(operand, (bool, int, float)) else None

    def given(self, name: str) -> bool:
        """Whether an operand is there and is not None."""
        return self._operands.get(name) is not None

    def word(self, name: str, default: str) -> str:
        """An operand that is a string."""
        return str(self._operands.get(name, default))

    def __call__(self, name: str, kind: str | None = None) -> str:
        """An operand in type `kind` (that of the result)."""
        kind = kind or self.kind
        operand = self._operands[name]
        number = self.number(name)
        if number is not None:
            return literal(number, kind)
        traced = self._low.tensor(operand)
        place = next((i for i, known in enumerate(self.tensors) if _same(known, traced)), len(self.tensors))
        if place == len(self.tensors):
            self.tensors.append(traced)
        own = computed(traced.meta.dtype)
        return f"x{place}" if own == kind else f"{kind}(x{place})"

    def _promoted(self, operand: Any) -> Any:
        return _meta(operand) if isinstance(operand, (Constant, Traced)) else operand


def computed(dtype: torch.dtype) -> str:
    """The type in which loops compute with elements of a torch type; "" where they cannot."""
    return COMPUTED.get(str(dtype).removeprefix("torch."), "")


def literal(number: bool | int | float, kind: str) -> str:
    """A number as text; it takes the type of what it meets, which is `kind`."""
    return str(float(number) if kind in FLOATS else bool(number) if kind == "b8" else int(number))


def elementwise(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """The rule of every operator in `ELEMENTS`."""
    result = node.meta["val"]
    terms = Terms(low, operands, result)
    metas = [_meta(operand) for operand in _tensors(operands.values())]
    if result.numel() == 0 or not all(computed(meta.dtype) for meta in (result, *metas)):
        return low.plainly(node, operands)
    text = ELEMENTS[op_name(node.target)](terms)
    if text is None or not terms.tensors:
        return low.plainly(node, operands)
    out = low.results_of(node, operands)
    emit_loop(low, node, f"y0 = {text}", terms.tensors, out)
    return out


def cast(low: Lowering, node: Node, operands: dict[str, Any]) -> Any:
    """A change of type. One to a 16-bit type rounds, whatever the loop goes on to compute."""
    x = next(iter(operands.values()))
    result = node.meta["val"]
    meta = _meta(x)
    possible = bool(computed(result.dtype) and computed(meta.dtype))
    if result.dtype == meta.dtype or result.numel() == 0 or not possible:
        return low.plainly(node, operands)
    traced = low.tensor(x)
    strides = dense_strides(traced.meta.shape, traced.meta.stride())
    out = low.new(node.name, result.shape, result.dtype, strides)
    emit_loop(low, node, f"y0 = {cast_text('x0', meta.dtype, result.dtype)}", [traced], out)
    return out


def cast_text(text: str, source: torch.dtype, target: torch.dtype) -> str:
    """An element of one type as an element of another. One of 16 bits is rounded, though it is computed with
    in 32, so that it stays what it is in a longer loop."""
    if source == target:
        return text
    kind = computed(target)
    text = text if computed(source) == kind else f"{kind}({text})"
    short = {torch.bfloat16: "bf16", torch.float16: "f16"}.get(target)
    return f"{short}({text})" if short else text


def emit_loop(
    low: Lowering,
    node: Node,
    body: str,
    tensors: Sequence[Traced],
    outs: Traced | Sequence[Traced],
    row: int = 0,
) -> None:
    """Append a step that runs a loop; operands get the rank of the results."""
    results = [outs] if isinstance(outs, Traced) else list(outs)
    rank = results[0].meta.dim()
    args: dict[str, Any] = {f"x{i}": with_rank(traced, rank) for i, traced in enumerate(tensors)}
    low.emit(node, "loop", {**args, "body": body, "row": row}, results)


def with_rank(traced: Traced, rank: int) -> Traced:
    """A tensor with dimensions of one element in front, as broadcasting has it."""
    meta = traced.meta
    missing = rank - meta.dim()
    if missing <= 0:
        return traced
    reach = max([1, *(size * stride for size, stride in zip(meta.shape, meta.stride(), strict=True))])
    shape, strides = (*(1,) * missing, *meta.shape), (*(reach,) * missing, *meta.stride())
    return Traced(traced.name, traced.buffer, meta.as_strided(shape, strides, meta.storage_offset()))


def _meta(operand: Any) -> torch.Tensor:
    return constant_meta(operand) if isinstance(operand, Constant) else operand.meta


def _tensors(operands: Any) -> list[Any]:
    return [operand for operand in operands if isinstance(operand, (Constant, Traced))]


def _same(one: Traced, other: Traced) -> bool:
    left, right = one.meta, other.meta
    return (
        one.buffer == other.buffer
        and left.dtype == right.dtype
        and left.shape == right.shape
        and left.stride() == right.stride()
        and left.storage_offset() == right.storage_offset()
    )


# What operators compute ---------------------------------------------------------------------------------


def _call(function: str) -> Element:
    """A function of `self`, of floats; an integer becomes one."""
    return lambda t: f"{function}({t('self')})" if t.kind in FLOATS else None


def _infix(symbol: str, bools: str = "") -> Element:
    """`self symbol other`, with `other` times alpha where that is given; on bools by the operator `bools`."""

    def text(t: Terms) -> str | None:
        if t.kind == "b8":
            return f"{t('self')} {bools} {t('other')}" if bools else None
        alpha = t.number("alpha", 1)
        if alpha is None or alpha == 1:
            return f"{t('self')} {symbol} {t('other')}"
        return f"{t('self')} {symbol} {t('other')} * {literal(alpha, t.kind)}"

    return text


def _rsub(t: Terms) -> str | None:
    alpha = t.number("alpha", 1)
    scaled = t("self") if alpha in (None, 1) else f"{t('self')} * {literal(alpha or 0, t.kind)}"
    return None if t.kind == "b8" else f"{t('other')} - {scaled}"


def _compare(symbol: str) -> Element:
    def text(t: Terms) -> str:
        kind = t.common("self", "other")
        return f"{t('self', kind)} {symbol} {t('other', kind)}"

    return text


def _logical(symbol: str) -> Element:
    return lambda t: f"{t('self', 'b8')} {symbol} {t('other', 'b8')}"


def _bitwise(symbol: str) -> Element:
    return lambda t: None if t.kind in FLOATS else f"{t('self')} {symbol} {t('other')}"


def _divided(t: Terms) -> str | None:
    mode = t.word("rounding_mode", "None")
    if t.kind == "b8":
        return None
    if mode == "None":
        return f"{t('self')} / {t('other')}" if t.kind in FLOATS else None
    if t.kind not in FLOATS and not (mode == "floor" and t.number("other")):
        return None  # an integer divided by zero raises, and a loop cannot
    return f"{t('self')} // {t('other')}" if mode == "floor" else f"trunc({t('self')} / {t('other')})"


def _floor_divided(t: Terms) -> str | None:
    if t.kind == "b8" or (t.kind not in FLOATS and not t.number("other")):
        return None
    return f"{t('self')} // {t('other')}"


def _remainder(t: Terms) -> str | None:
    if t.kind == "b8" or (t.kind not in FLOATS and not t.number("other")):
        return None
    return f"{t('self')} % {t('other')}"


def _fmod(t: Terms) -> str | None:
    return f"fmod({t('self')}, {t('other')})" if t.kind in FLOATS else None


_POWERS: dict[float, str] = {
    1: "{0}",
    2: "{0} * {0}",
    3: "{0} * {0} * {0}",
    0.5: "sqrt({0})",
    -0.5: "rsqrt({0})",
    -1: "reciprocal({0})",
    -2: "reciprocal({0} * {0})",
}


def _power(t: Terms) -> str | None:
    exponent = t.number("exponent")
    exact = t.kind in FLOATS or (t.kind != "b8" and exponent in (1, 2, 3))
    if exponent is not None and not isinstance(exponent, bool) and exponent in _POWERS and exact:
        return _POWERS[exponent].format(t("self"))
    return f"pow({t('self')}, {t('exponent')})" if t.kind in FLOATS else None


def _extreme(function: str) -> Element:
    return lambda t: None if t.kind == "b8" else f"{function}({t('self')}, {t('other')})"


def _clamp(t: Terms) -> str | None:
    if t.kind == "b8":
        return None
    text = t("self")
    if t.given("min"):
        text = f"maximum({text}, {t('min')})"
    return f"minimum({text}, {t('max')})" if t.given("max") else text


def _unary(function: str) -> Element:
    """A function of `self` that keeps its type."""
    return lambda t: None if t.kind == "b8" else f"{function}({t('self')})"


def _test(text: str) -> Element:
    """What a float is; an integer is none of it."""

    def tested(t: Terms) -> str | None:
        kind = t.type_of("self")
        return text.format(t("self", kind)) if kind in FLOATS else None

    return tested


def _where(t: Terms) -> str:
    condition, one, other = t("condition", "b8"), t("self"), t("other")
    if t.number("self") is not None:
        one = f"{t.kind}({one})"  # of two numbers, one has to say its type
    return f"where({condition}, {one}, {other})"


def _masked_fill(t: Terms) -> str:
    value = f"{t.kind}({t('value')})" if t.number("value") is not None else t("value")
    return f"where({t('mask', 'b8')}, {value}, {t('self')})"


def _with(function: str, **defaults: float) -> Element:
    """A function of `self` and of numbers, in the order of `defaults`."""

    def text(t: Terms) -> str | None:
        numbers = [t.number(name, default) for name, default in defaults.items()]
        known = [literal(number, t.kind) for number in numbers if number is not None]
        if t.kind not in FLOATS or len(known) != len(numbers):
            return None
        return f"{function}({', '.join([t('self'), *known])})"

    return text


def _elu(t: Terms) -> str | None:
    alpha, scale, inside = (t.number(name, 1.0) for name in ("alpha", "scale", "input_scale"))
    if t.kind not in FLOATS or alpha is None or scale is None or inside != 1:
        return None
    return f"elu({t('self')}, {literal(alpha, t.kind)}, {literal(scale, t.kind)})"


def _gelu(t: Terms) -> str | None:
    function = "gelu_tanh" if t.word("approximate", "none") == "tanh" else "gelu"
    return f"{function}({t('self')})" if t.kind in FLOATS else None


def _scaled_sum(symbol: str) -> Element:
    """self + value * (tensor1 symbol tensor2)."""

    def text(t: Terms) -> str | None:
        value = t.number("value", 1)
        if t.kind not in FLOATS or value is None:
            return None
        if value == 1:
            return f"{t('self')} + {t('tensor1')} {symbol} {t('tensor2')}"
        return f"{t('self')} + {literal(value, t.kind)} * {t('tensor1')} {symbol} {t('tensor2')}"

    return text


def _lerp(t: Terms) -> str | None:
    if t.kind not in FLOATS:
        return None
    start, end, weight = t("self"), t("end"), t("weight")
    difference = f"({end} - {start})"
    near, far = f"{start} + {weight} * {difference}", f"{end} - {difference} * (1 - {weight})"
    number = t.number("weight")
    if number is not None:
        return near if abs(number) < 0.5 else far
    return f"where(abs({weight}) < 0.5, {near}, {far})"


def _hardshrink(t: Terms) -> str | None:
    most = t.number("lambd", 0.5)
    if t.kind not in FLOATS or most is None:
        return None
    x = t("self")
    return f"where(abs({x}) <= {literal(most, t.kind)}, 0.0, {x})"


def _threshold(t: Terms) -> str | None:
    if t.kind == "b8":
        return None
    return f"where({t('self')} <= {t('threshold')}, {t('value')}, {t('self')})"


def _prelu(t: Terms) -> str | None:
    return f"where({t('self')} > 0, {t('self')}, {t('self')} * {t('weight')})" if t.kind in FLOATS else None


def _of_overloads(names: str, element: Element) -> dict[str, Element]:
    return {name if "." in name else f"{name}.default": element for name in names.split()}


_FLOAT_FUNCTIONS = (
    *("acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1", "floor"),
    *("hardsigmoid", "hardswish", "log", "log10", "log1p", "log2", "log_sigmoid", "mish", "reciprocal"),
    *("round", "rsqrt", "sigmoid", "silu", "sin", "sinh", "sqrt", "tan", "tanh", "trunc"),
)

ELEMENTS: dict[str, Element] = {
    **{f"{name}.default": _call(name) for name in _FLOAT_FUNCTIONS},
    **{f"{name}.default": _unary(name) for name in ("abs", "sign", "relu", "square")},
    **_of_overloads("add.Tensor add.Scalar", _infix("+", bools="|")),
    **_of_overloads("sub.Tensor sub.Scalar", _infix("-")),
    **_of_overloads("mul.Tensor mul.Scalar", _infix("*", bools="&")),
    **_of_overloads("rsub.Tensor rsub.Scalar", _rsub),
    **_of_overloads("div.Tensor div.Scalar div.Tensor_mode div.Scalar_mode", _divided),
    **_of_overloads("floor_divide floor_divide.Scalar", _floor_divided),
    **_of_overloads("remainder.Tensor remainder.Scalar", _remainder),
    **_of_overloads("fmod.Tensor fmod.Scalar", _fmod),
    **_of_overloads("pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar", _power),
    **_of_overloads("atan2", lambda t: f"atan2({t('self')}, {t('other')})" if t.kind in FLOATS else None),
    **_of_overloads("minimum", _extreme("minimum")),
    **_of_overloads("maximum", _extreme("maximum")),
    **{
        f"{name}.{which}": _compare(symbol)
        for name, symbol in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))
        for which in ("Tensor", "Scalar")
    },
    **_of_overloads("logical_and", _logical("&")),
    **_of_overloads("logical_or", _logical("|")),
    **_of_overloads("logical_xor", _logical("^")),
    **_of_overloads("logical_not", lambda t: f"~{t('self', 'b8')}"),
    **{
        f"{name}.{which}": _bitwise(symbol)
        for word, symbol in (("and", "&"), ("or", "|"), ("xor", "^"))
        for name in (f"bitwise_{word}", f"__{word}__")
        for which in ("Tensor", "Scalar")
    },
    **_of_overloads("bitwise_not", lambda t: None if t.kind in FLOATS else f"~{t('self')}"),
    **_of_overloads("neg", lambda t: None if t.kind == "b8" else f"-{t('self')}"),
    **_of_overloads("isnan", _test("isnan({})")),
    **_of_overloads("isinf", _test("isinf({})")),
    **_of_overloads("isposinf", _test("{} == inf")),
    **_of_overloads("isneginf", _test("{} == -inf")),
    **_of_overloads("where.self where.Scalar where.ScalarSelf where.ScalarOther", _where),
    **_of_overloads("masked_fill.Scalar masked_fill.Tensor", _masked_fill),
    **_of_overloads("clamp clamp.Tensor clamp_min clamp_min.Tensor clamp_max clamp_max.Tensor", _clamp),
    **_of_overloads("relu6", lambda t: None if t.kind == "b8" else f"clamp({t('self')}, 0, 6)"),
    **_of_overloads("elu", _elu),
    **_of_overloads("gelu", _gelu),
    **_of_overloads("hardtanh", _with("clamp", min_val=-1.0, max_val=1.0)),
    **_of_overloads("leaky_relu", _with("leaky_relu", negative_slope=0.01)),
    **_of_overloads("softplus", _with("softplus", beta=1.0, threshold=20.0)),
    **_of_overloads("hardshrink", _hardshrink),
    **_of_overloads("threshold", _threshold),
    **_of_overloads("addcmul", _scaled_sum("*")),
    **_of_overloads("addcdiv", _scaled_sum("/")),
    **_of_overloads("lerp.Tensor lerp.Scalar", _lerp),
    **_of_overloads("_prelu_kernel", _prelu),
}
"""By overload. An operator that its function cannot say for some types goes its plain way there."""
