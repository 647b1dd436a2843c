"""Loops over operands in given layouts, for whatever language runs them, and what they should give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from occ.codegen.kernels import kernel_named
from occ.codegen.native import NativeFunction
from occ.codegen.triton import TritonFunction
from occ.lower.draft import dense_strides
from occ.runtime_stub.tensors import view_of
from tests.kernels.cases import Numbers
from tests.kernels.loop_reference import evaluated
from tests.kernels.memory import Layout, Memory, same_place
from tests.kernels.native import specs_of

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
Function = TypeVar("Function", NativeFunction, TritonFunction)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False)
class Trial:
    """A loop over operands in given layouts; `over` is an operand whose bytes the first result takes."""

    body: str
    operands: tuple[Tensor, ...]
    row: int = 0
    dtypes: tuple[torch.dtype, ...] = ()
    """Those of the results; that of the first operand where it is empty."""
    layout: Layout | None = None
    """Strides of the results; contiguous ones where it is None."""
    over: int | None = None

    def wanted(self) -> list[Tensor]:
        results = evaluated(self.body, self.row, self.operands)
        dtypes = self.dtypes or (self.operands[0].dtype,) * len(results)
        return [result.to(dtype) for result, dtype in zip(results, dtypes, strict=True)]


def args_of(trial: Trial) -> dict[str, object]:
    """Operands as the entry takes them."""
    operands = {f"x{index}": specs_of(operand) for index, operand in enumerate(trial.operands)}
    return {**operands, "body": trial.body, "row": trial.row}


def prepared(trial: Trial) -> tuple[Memory, tuple[Tensor, ...], list[Tensor]]:
    """Operands and results in memory full of NaN."""
    nbytes = 4096 + sum(4 * t.numel() * 8 for t in (*trial.operands, *trial.wanted()))
    memory = Memory(nbytes)
    operands = tuple(held(memory, operand) for operand in trial.operands)
    outs = []
    for number, wanted in enumerate(trial.wanted()):
        if trial.over is not None and number == 0:
            over = operands[trial.over]
            begin = over.storage_offset() * over.element_size()
            outs.append(view_of(memory.bytes, wanted.dtype, wanted.shape, over.stride(), begin))
        else:
            strides = trial.layout or dense_strides(wanted.shape, [0] * wanted.dim())
            outs.append(memory.new(wanted.dtype, wanted.shape, strides))
    return memory, operands, outs


def run(
    trial: Trial,
    memory: Memory,
    operands: Sequence[Tensor],
    outs: Sequence[Tensor],
    function: Callable[..., object],
) -> None:
    """Call the function of a trial, and compare values and the bytes around the results."""
    expected = memory.bytes.clone()
    function(*operands, *outs)
    for out, wanted in zip(outs, trial.wanted(), strict=True):
        same_place(expected, out).copy_(out)
        close(trial, out, wanted)
    assert torch.equal(memory.bytes, expected), f"{trial.body} wrote bytes that are none of its results"


def run_all(
    trials: Sequence[Trial],
    function_of: Callable[[Trial, Sequence[Tensor]], Function],
    load: Callable[[Sequence[Function]], object],
) -> list[Function]:
    """Run all of them, whose functions `load` gives as attributes of one object; the functions."""
    made = [(trial, *prepared(trial)) for trial in trials]
    functions = [function_of(trial, outs) for trial, _, _, outs in made]
    library = load(functions)
    for (trial, memory, operands, outs), function in zip(made, functions, strict=True):
        run(trial, memory, operands, outs, getattr(library, function.symbol))
    return functions


def held(memory: Memory, operand: Tensor) -> Tensor:
    """An operand in memory, repeated where it is."""
    once = operand
    for dim in range(operand.dim()):
        once = once if operand.stride(dim) else once.narrow(dim, 0, 1)
    return memory.holding(once, once.stride()).expand(operand.shape)


def close(trial: Trial, found: Tensor, wanted: Tensor) -> None:
    relative = {torch.bfloat16: 1.6e-2, torch.float16: 2e-3, torch.float64: 1e-12}.get(found.dtype, 4e-6)
    finite = wanted[wanted.isfinite()].double().abs()
    largest = max([1.0, *finite.flatten().tolist()])
    torch.testing.assert_close(
        found,
        wanted,
        rtol=relative,
        atol=relative * largest,
        equal_nan=True,
        check_stride=False,
        msg=lambda text: f"{trial.body} over {[tuple(t.shape) for t in trial.operands]}: {text}",
    )


NUMBER = Numbers()
SPECIAL = torch.tensor([0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan"), 1e-40, 3e38, -3e38])


def _kind(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    short = {"bfloat16": "f32", "float16": "f32", "uint8": "u8"}
    return short.get(name) or name.replace("float", "f").replace("int", "i")


NORMS = (
    ("d = x0 - mean(x0); y0 = d * rsqrt(mean(d * d) + 1e-5) * x1 + x2", 3),
    ("y0 = x0 * rsqrt(mean(x0 * x0) + 1e-6) * x1", 2),
    ("e = exp(x0 - max(x0)); y0 = e / sum(e)", 1),
    ("d = x0 - max(x0); y0 = d - log(sum(exp(d)))", 1),
    ("y0 = x0 + x3; d = y0 - mean(y0); y1 = d * rsqrt(mean(d * d) + 1e-5) * x1", 4),
    ("y0 = sum(x0); y1 = max(x0); y2 = min(x0); y3 = mean(x0 * x0)", 1),
    ("y0 = x0 * 2.0; y1 = mean(silu(x0)); y2 = x0 - y1", 1),
    ("y0 = tanh(x0) * x1 + max(tanh(x0) * x1)", 2),
)


def functions_of_floats() -> list[Trial]:
    """Ordinary and special numbers, of every float type."""
    one = (
        *("abs", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1", "floor", "gelu", "gelu_tanh"),
        *("hardsigmoid", "hardswish", "log_sigmoid", "mish", "relu", "round", "sigmoid", "silu", "sin"),
        *("sinh", "square", "tanh", "trunc", "atan", "reciprocal", "rsqrt", "sqrt", "log", "log10", "log1p"),
        *("log2", "acos", "asin", "tan"),
    )
    trials = []
    for dtype in FLOATS:
        for name in one:
            positive = name in ("log", "log10", "log2", "rsqrt", "sqrt", "reciprocal")
            low, high = (0.01, 9.0) if positive else (-0.99, 0.99) if name in ("acos", "asin") else (-6, 6)
            trials.append(Trial(f"y0 = {name}(x0)", (NUMBER(67, dtype=dtype, low=low, high=high),)))
        trials.append(Trial("y0 = elu(x0, 0.7, 1.3)", (NUMBER(67, dtype=dtype),)))
        trials.append(Trial("y0 = leaky_relu(x0, 0.2)", (NUMBER(67, dtype=dtype),)))
        trials.append(Trial("y0 = softplus(x0, 2.0, 10.0)", (NUMBER(67, dtype=dtype, low=-8, high=8),)))
        trials.append(Trial("y0 = clamp(x0, -1.0, 2.0)", (NUMBER(67, dtype=dtype),)))
    # Where torch itself differs from the formula (0 * inf), the formula's parts are tried instead.
    kept = ("abs", "ceil", "erf", "exp", "expm1", "floor", "log", "log1p", "relu", "round", "sigmoid", "sqrt")
    trials += [Trial(f"y0 = {name}(x0)", (SPECIAL,)) for name in (*kept, "tanh", "rsqrt", "reciprocal")]
    trials += [Trial(f"y0 = {name}(x0)", (SPECIAL,), dtypes=(torch.bool,)) for name in ("isnan", "isinf")]
    return trials


def functions_of_two_operands() -> list[Trial]:
    trials = []
    for dtype in FLOATS:
        x, y = NUMBER(5, 13, dtype=dtype, low=0.5), NUMBER(5, 13, dtype=dtype, low=0.5)
        for text in ("x0 + x1", "x0 - x1", "x0 * x1", "x0 / x1", "x0 // x1", "x0 % x1", "pow(x0, x1)"):
            trials.append(Trial(f"y0 = {text}", (x, y)))
        for text in ("atan2(x0, x1)", "fmod(x0, x1)", "minimum(x0, x1)", "maximum(x0, x1)", "-x0 + 2 * x1"):
            trials.append(Trial(f"y0 = {text}", (x, y)))
        for sign in ("==", "!=", "<", "<=", ">", ">="):
            trials.append(Trial(f"y0 = x0 {sign} x1", (x.round(), y.round()), dtypes=(torch.bool,)))
    pairs = torch.cartesian_prod(SPECIAL, SPECIAL)
    left, right = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()
    for text in ("minimum(x0, x1)", "maximum(x0, x1)", "where(x0 < x1, x0, x1)", "x0 * x1", "x0 // x1"):
        trials.append(Trial(f"y0 = {text}", (left, right)))
    return trials


def integers_and_bools() -> list[Trial]:
    trials = []
    for dtype in INTEGERS:
        low = 0 if dtype is torch.uint8 else -100
        x, y = NUMBER(67, dtype=dtype, low=low, high=100), NUMBER(67, dtype=dtype, low=low, high=100)
        for text in ("x0 + x1", "x0 - x1", "x0 * x1", "x0 & x1", "x0 | x1", "x0 ^ x1", "~x0", "x0 // 7"):
            trials.append(Trial(f"y0 = {text}", (x, y)))
        for text in ("minimum(x0, x1)", "maximum(x0, 3)", "where(x0 > x1, x0, 5)", "x0 % 7", "abs(x0)"):
            trials.append(Trial(f"y0 = {text}", (x, y)))
        trials.append(Trial("y0 = max(x0)", (x.view(1, 67),), row=1))
        trials.append(Trial("y0 = sum(x0)", (x[:60].view(4, 15) // 8,), row=1))
        for other in (*FLOATS, *INTEGERS, torch.bool):
            kind = {torch.bool: "b8"}.get(other) or _kind(other)
            small = x.remainder(60)
            trials.append(Trial(f"y0 = {kind}(x0)", (small,), dtypes=(other,)))
    a, b = NUMBER(67, dtype=torch.bool), NUMBER(67, dtype=torch.bool)
    for text in ("x0 & x1", "x0 | x1", "x0 ^ x1", "~x0", "where(x0, x1, ~x1)", "x0 == x1"):
        trials.append(Trial(f"y0 = {text}", (a, b)))
    trials.append(Trial("y0 = where(x0, f32(1.5), -2.0)", (a,), dtypes=(torch.float32,)))
    trials.append(Trial("y0 = f32(x0) * x1", (a, NUMBER(67)), dtypes=(torch.float32,)))
    trials.append(Trial("y0 = max(x0)", (a.view(1, 67),), row=1))
    return trials


def rows(dtype: torch.dtype) -> list[Trial]:
    """Rows of one element to more than a block of summation, and more than a row buffer holds."""
    trials = []
    for shape in ((6, 1), (5, 7), (3, 4, 67), (2, 300), (3, 5000), (2, 20000)):
        for body, count in NORMS:
            narrow = (*(1,) * (len(shape) - 1), shape[-1])
            given = [NUMBER(*shape, dtype=dtype), *(NUMBER(*narrow, dtype=dtype) for _ in range(2))]
            operands = (*given, NUMBER(*shape, dtype=dtype))[:count]
            if "x3" in body and count < 4:
                operands = (*operands, NUMBER(*shape, dtype=dtype))
            if shape[-1] > 5000 and dtype is not torch.float32:
                continue
            results = evaluated(body, 1, operands)
            trials.append(Trial(body, operands, row=1, dtypes=(dtype,) * len(results)))
    return trials


def rows_of_several_dimensions() -> list[Trial]:
    """Group normalisation, its rows contiguous, channels last and with gaps."""
    body = "d = x0 - mean(x0); y0 = d * rsqrt(mean(d * d) + 1e-5) * x1 + x2"
    x, weight, bias = NUMBER(2, 3, 4, 5, 6), NUMBER(1, 3, 4, 1, 1), NUMBER(1, 3, 4, 1, 1)
    trials = []
    for order in ([0] * 5, (9, 1, 0, 8, 7), (3, 1, 4, 0, 2)):
        strides = dense_strides(x.shape, order)
        placed = torch.empty_strided(x.shape, strides).copy_(x)
        trials.append(Trial(body, (placed, weight, bias), row=3))
        trials.append(Trial(body, (placed, weight, bias), row=3, layout=strides))
        trials.append(Trial(body, (placed, weight, bias), row=3, over=0))
    gaps = torch.zeros(2, 3, 4, 5, 12)[..., ::2]
    trials.append(Trial(body, (gaps.copy_(x), weight, bias), row=3, layout=tuple(2 * s for s in x.stride())))
    return trials


def layouts_and_broadcasting() -> list[Trial]:
    """Elements in any order of dimensions, operands that repeat along some, results over operands."""
    x = NUMBER(3, 40, 5, 64)
    columns = torch.empty_strided(x.shape, dense_strides(x.shape, range(4))).copy_(x)
    last = torch.empty_strided(x.shape, dense_strides(x.shape, (9, 0, 8, 7))).copy_(x)
    row, plane, pixel, number = (
        NUMBER(1, 1, 1, 64),
        NUMBER(3, 40, 1, 1),
        NUMBER(1, 1, 5, 64),
        NUMBER(1, 1, 1, 1),
    )
    trials = []
    for operand in (x, columns, last, x.expand(3, 40, 5, 64)):
        for over in (None, 0):
            layout = None if over == 0 else tuple(last.stride())
            trials.append(
                Trial(
                    "y0 = x0 * x1 + x2 - x3 * x4",
                    (operand, row, plane, pixel, number),
                    layout=layout,
                    over=over,
                )
            )
    trials.append(Trial("y0 = x0 + x1", (NUMBER(1, 1, 7, 1).expand(2, 3, 7, 5), NUMBER(2, 1, 1, 5))))
    trials.append(Trial("y0 = x0 * 2.0", (NUMBER(1),)))
    trials.append(Trial("y0 = x0 * x0", (NUMBER(),)))
    trials.append(
        Trial("y0 = sigmoid(x0); y1 = y0 * x1", (x, columns), dtypes=(torch.float32, torch.bfloat16))
    )
    return trials


def rows_that_hold_no_number() -> list[Trial]:
    """NaN and infinities, whole rows of them among the others: masks are made of -inf."""
    x = NUMBER(6, 19)
    x[0, 3] = float("nan")
    x[1, :] = float("-inf")
    x[2, 5:] = float("-inf")
    x[3, 0] = float("inf")
    x[4, :] = float("nan")
    trials = [Trial(body, (x,), row=1) for body, count in NORMS if count == 1 and "y1" not in body]
    return [*trials, Trial("y0 = max(x0)", (x,), row=1), Trial("y0 = min(x0)", (x,), row=1)]


def results_over_operands() -> list[Trial]:
    """Wherever the entry says that a result may take an operand's bytes, it may."""
    trials = []
    for body, count in NORMS:
        operands = tuple(NUMBER(4, 67) for _ in range(4))[: max(count, 4 if "x3" in body else 1)]
        results = evaluated(body, 1, operands)
        args = {f"x{index}": specs_of(operand) for index, operand in enumerate(operands)}
        overwritable = kernel_named("loop").overwritable
        assert overwritable is not None
        names = overwritable({**args, "body": body, "row": 1}, [specs_of(result) for result in results])
        if results[0].shape == operands[0].shape:
            for name in names[0]:
                trials.append(Trial(body, operands, row=1, over=int(name[1:])))
    assert trials
    return trials


@st.composite
def loops(draw: st.DrawFn) -> Trial:
    """A loop of up to eight statements over operands that broadcast, with rows or without; what it computes
    stays small, and compares nothing but operands."""
    rank = draw(st.integers(1, 4))
    last = draw(st.sampled_from((1, 3, 8, 17, 64)))
    shape = (*(draw(st.integers(1, 9)) for _ in range(rank - 1)), last)
    row = draw(st.integers(0, rank))
    dtype = draw(st.sampled_from((torch.float32, torch.bfloat16, torch.float16)))
    count = draw(st.integers(1, 4))
    operands = []
    for index in range(count):
        own = shape if index == 0 else tuple(draw(st.sampled_from((1, size))) for size in shape)
        order = draw(st.permutations(range(rank)))
        values = NUMBER(*own, dtype=dtype, low=-2, high=2)
        operands.append(torch.empty_strided(own, dense_strides(own, order), dtype=dtype).copy_(values))
    terms = [f"x{index}" for index in range(count)]
    statements = []
    for number in range(draw(st.integers(1, 8))):
        a, b = draw(st.sampled_from(terms)), draw(st.sampled_from(terms))
        x, y = (draw(st.integers(0, count - 1)) for _ in range(2))
        forms = [
            *(
                f"tanh({a} + {b})",
                f"({a} - {b}) * 0.5",
                f"sigmoid({a}) * {b}",
                f"where(x{x} < x{y}, {a}, {b})",
            ),
            *(
                f"maximum({a}, {b})",
                f"exp(minimum({a}, 1.0))",
                f"{a} * {b} / 4.0",
                f"gelu({a}) - {b} * {b} / 8.0",
            ),
        ]
        if row:
            forms += [
                f"{a} - mean({b})",
                f"{a} / (1.0 + max(abs({b})))",
                f"mean({a} * {b}) + {a}",
                f"min({a}) + {b}",
            ]
        statements.append((f"t{number}", draw(st.sampled_from(forms))))
        terms.append(f"t{number}")
    text = "; ".join(f"{name} = {value}" for name, value in statements)
    body = f"{text}; y0 = {terms[-1]} + x0 * 0.0; y1 = {draw(st.sampled_from(terms))} - x0"
    return Trial(body, tuple(operands), row=row, dtypes=(torch.float32, dtype))
