"""Loops as C: rows on the threads of OpenMP, elements in vector code.

Sums of floats are made in vector lanes over at most BLOCK elements, and those are added in double precision:
errors stay those of a few hundred additions however long a row is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from occ.codegen.loops.bound import BoundLoop
from occ.codegen.loops.functions import FLOATS, OPERATORS, TYPES
from occ.codegen.loops.graph import Graph, Kind, Node, Pass
from occ.codegen.loops.ir import Loop
from occ.codegen.loops.naming import stem_of
from occ.codegen.loops.space import Axis, Space
from occ.codegen.native import NativeFunction, Parameter, native_function
from occ.codegen.specs import Spec
from occ.errors import InternalError

BLOCK = 1024
"""Elements that are summed in single precision."""

PARALLEL = 40_000
"""Additions (see `functions.Function.cost`) that are worth waking another thread for, about 10 us."""

TASKS = 16
"""Pieces that a loop over elements alone is cut into where its outer axes give fewer."""

LEAST_PIECE = 2048
"""Elements of such a piece, at least."""

_C = {
    **{"f64": "double", "f32": "float", "i64": "int64_t", "i32": "int32_t", "i16": "int16_t"},
    **{"i8": "int8_t", "u8": "uint8_t", "b8": "int"},
}
_LIBM = {
    **{"sqrt": "sqrt", "ceil": "ceil", "floor": "floor", "round": "rint", "trunc": "trunc", "abs": "fabs"},
    **{name: name for name in ("acos", "asin", "atan", "atan2", "cos", "cosh", "erfc", "exp2", "fmod")},
    **{name: name for name in ("log10", "log2", "pow", "sin", "sinh", "tan")},
}
_OWN = frozenset({"exp", "expm1", "log", "log1p", "sigmoid", "tanh", "erf"})
"""Functions that the prelude has for f32; for f64 it has `sigmoid`, and the C library the others."""

_ALIGNED = "__attribute__((aligned(64)))"
_INFIX = {"bitand": "&", "bitor": "|", "bitxor": "^"}
_LEAST = {"f32": "-INFINITY", "f64": "-INFINITY", "i64": "INT64_MIN", "i32": "INT32_MIN", "i16": "INT16_MIN"}
_MOST = {"f32": "INFINITY", "f64": "INFINITY", "i64": "INT64_MAX", "i32": "INT32_MAX", "i16": "INT16_MAX"}
_LEAST |= {"i8": "INT8_MIN", "u8": "0", "b8": "0"}
_MOST |= {"i8": "INT8_MAX", "u8": "UINT8_MAX", "b8": "1"}


def loop_function(bound: BoundLoop) -> NativeFunction:
    """The C function of a loop."""
    return _Renderer(bound).function()


@dataclass
class _Renderer:
    bound: BoundLoop

    @property
    def loop(self) -> Loop:
        return self.bound.loop

    @property
    def graph(self) -> Graph:
        return self.bound.graph

    @property
    def space(self) -> Space:
        return self.bound.space

    @property
    def passes(self) -> tuple[Pass, ...]:
        return self.bound.passes

    @property
    def operands(self) -> tuple[Spec, ...]:
        return self.bound.operands

    @property
    def results(self) -> tuple[Spec, ...]:
        return self.bound.results

    def function(self) -> NativeFunction:
        parameters = [
            *(Parameter(f"x{index}", spec.dtype) for index, spec in enumerate(self.operands)),
            *(Parameter(f"y{index}", spec.dtype, written=True) for index, spec in enumerate(self.results)),
        ]
        body = "\n".join(self._body())
        layouts = ", ".join(
            f"{parameter.name} {_layout(spec)}"
            for parameter, spec in zip(parameters, (*self.operands, *self.results), strict=True)
        )
        rows = f" over rows of {self.space.row_elements}" if self.loop.row else ""
        return native_function(
            stem_of(self.loop), parameters, body, note=f"{self.loop.text}{rows}\n{layouts}"
        )

    # The shape of the code

    def _body(self) -> Iterator[str]:
        if self.loop.row:
            yield from self._over_rows()
        else:
            yield from self._over_elements()

    def _over_rows(self) -> Iterator[str]:
        yield from self._nest(self.space.outer)
        yield from self._pointers(range(len(self.space.outer)), self.space.outer)
        known: set[int] = set()
        for one in self.passes:
            for id in one.kept:
                node = self.graph.nodes[id]
                yield f"    {_C[node.type]} {self._buffer(id)}[{self.space.row_elements}] {_ALIGNED};"
        for one in self.passes:
            yield from self._scalars(self._needed(one), known)
            yield from self._pass(one, known)
        spread = {index for one in self.passes for index in one.stored}
        for index, id in enumerate(self.graph.results):
            if index not in spread:
                yield from self._scalars([id], known)
                yield f"    q{index}[0] = {self._stored(index, self._name(id))};"
        yield "}"

    def _over_elements(self) -> Iterator[str]:
        [one] = self.passes
        *outer, last = self.space.outer or (Axis(1, (0,) * (len(self.operands) + len(self.results))),)
        count = math.prod(axis.size for axis in outer)
        pieces = min(-(-TASKS // count), last.size // LEAST_PIECE) if self._parallel else 1
        if pieces > 1:
            size = -(-last.size // pieces // 64) * 64
            yield from self._nest(outer, f"for (int64_t piece = 0; piece < {last.size}; piece += {size}) {{")
            yield f"    const int64_t end = piece + {size} < {last.size} ? piece + {size} : {last.size};"
            first, end = "piece", "end"
        else:
            yield from self._nest(outer)
            first, end = "0", str(last.size)
        yield from self._pointers(range(len(outer)), outer)
        yield from self._elements(one, last, first, end, "", set())
        yield "}"

    @property
    def _parallel(self) -> bool:
        return self.bound.work >= PARALLEL

    def _nest(self, axes: Sequence[Axis], more: str = "") -> Iterator[str]:
        """The loops over `axes`, which are shared among threads where that pays; `more` is another one."""
        heads = [f"for (int64_t i{n} = 0; i{n} < {axis.size}; i{n}++)" for n, axis in enumerate(axes)]
        heads = [*heads, more] if more else heads
        if not heads:
            yield "{"
            return
        if self._parallel:
            collapsed = f" collapse({len(heads)})" if len(heads) > 1 else ""
            yield f"#pragma omp parallel for{collapsed} schedule(static)"
        yield from heads[:-1]
        yield heads[-1] if more else f"{heads[-1]} {{"

    def _pointers(self, numbers: Sequence[int], axes: Sequence[Axis]) -> Iterator[str]:
        """Pointers to the first element of every tensor at this place of the outer loops: p of operands, q of
        results."""
        for tensor, spec in enumerate((*self.operands, *self.results)):
            terms = [
                f"i{n}" if axis.strides[tensor] == 1 else f"i{n} * {axis.strides[tensor]}"
                for n, axis in zip(numbers, axes, strict=True)
                if axis.strides[tensor]
            ]
            index = tensor - len(self.operands)
            name, base = (f"p{tensor}", f"x{tensor}") if index < 0 else (f"q{index}", f"y{index}")
            const = "const " if index < 0 else ""
            yield f"    {const}{_memory(spec)} *{name} = {' + '.join([base, *terms])};"

    # A pass over a row

    def _pass(self, one: Pass, known: set[int]) -> Iterator[str]:
        *outer, last = self.space.inner or (Axis(1, (0,) * (len(self.operands) + len(self.results))),)
        for id in one.reduced:
            yield from self._accumulators(self.graph.nodes[id])
        shift = ""
        for n, axis in enumerate(outer):
            yield f"    for (int64_t j{n} = 0; j{n} < {axis.size}; j{n}++) {{"
        rest = last.size
        terms = []
        for n, axis in reversed(list(enumerate(outer))):
            terms.append(f"j{n} * {rest}")
            rest *= axis.size
        shift = " + ".join(reversed(terms))
        self._inner_axes = tuple(outer)
        if last.size > BLOCK and any(self.graph.nodes[id].function in ("sum", "mean") for id in one.reduced):
            yield f"    for (int64_t block = 0; block < {last.size}; block += {BLOCK}) {{"
            yield f"    const int64_t end = block + {BLOCK} < {last.size} ? block + {BLOCK} : {last.size};"
            yield from self._elements(one, last, "block", "end", shift, known)
            yield "    }"
        else:
            yield from self._elements(one, last, "0", str(last.size), shift, known)
        yield from ("    }" for _ in outer)
        self._inner_axes = ()
        for id in one.reduced:
            yield from self._reduced(self.graph.nodes[id])
            known.add(id)

    _inner_axes: tuple[Axis, ...] = ()

    def _elements(
        self, one: Pass, axis: Axis, first: str, end: str, shift: str, known: set[int]
    ) -> Iterator[str]:
        """The innermost loop: what the pass computes of the elements along `axis`."""
        nodes = self.graph.nodes
        clauses: dict[str, list[str]] = {}
        for id in one.reduced:
            node = nodes[id]
            if node.function in ("sum", "mean"):
                yield f"    {_C[node.type]} part{id} = 0;"
                clauses.setdefault("+", []).append(f"part{id}")
            else:
                clauses.setdefault(node.function, []).append(f"best{id}")
                if node.type in FLOATS:
                    clauses.setdefault("|", []).append(f"nan{id}")
        inside: list[str] = []
        for id in (*one.read, *one.computed):
            node = nodes[id]
            if id in one.read:
                inside.append(self._declared(id, self._kept(id, axis, shift)))
            elif node.kind is Kind.LOAD and not axis.strides[node.operand]:
                yield f"    {self._declared(id, self._loaded(node, '0'))}"
            else:
                inside.append(
                    self._declared(id, self._expression(node, _scaled("i", axis.strides[node.operand])))
                )
        for id in one.kept:
            inside.append(f"{self._buffer(id)}[{_sum(shift, 'i')}] = {self._name(id)};")
        for id in one.reduced:
            inside.extend(self._accumulate(nodes[id]))
        for index in one.stored:
            place = self._place(
                len(self.operands) + index, _scaled("i", axis.strides[len(self.operands) + index])
            )
            inside.append(
                f"q{index}[{place}] = {self._stored(index, self._name(self.graph.results[index]))};"
            )
        reductions = "".join(f" reduction({op}: {', '.join(names)})" for op, names in clauses.items())
        yield f"    #pragma omp simd{reductions}"
        yield f"    for (int64_t i = {first}; i < {end}; i++) {{"
        yield from (f"        {line}" for line in inside)
        yield "    }"
        for id in one.reduced:
            if nodes[id].function in ("sum", "mean"):
                yield f"    total{id} += part{id};"

    def _accumulators(self, node: Node) -> Iterator[str]:
        if node.function in ("sum", "mean"):
            yield f"    {'double' if node.type in FLOATS else _C[node.type]} total{node.id} = 0;"
            return
        limits = _LEAST if node.function == "max" else _MOST
        yield f"    {_C[node.type]} best{node.id} = {limits[node.type]};"
        if node.type in FLOATS:
            yield f"    int nan{node.id} = 0;"

    def _accumulate(self, node: Node) -> Iterator[str]:
        value = self._name(node.args[0])
        if node.function in ("sum", "mean"):
            yield f"part{node.id} += {value};"
            return
        sign = ">" if node.function == "max" else "<"
        yield f"best{node.id} = {value} {sign} best{node.id} ? {value} : best{node.id};"
        if node.type in FLOATS:
            yield f"nan{node.id} |= {value} != {value};"

    def _reduced(self, node: Node) -> Iterator[str]:
        c_type = _C[node.type]
        if node.function == "sum":
            value = f"({c_type})total{node.id}"
        elif node.function == "mean":
            value = f"({c_type})(total{node.id} / {self.space.row_elements})"
        elif node.type in FLOATS:
            value = f"nan{node.id} ? NAN : best{node.id}"
        else:
            value = f"best{node.id}"
        yield f"    const {c_type} {self._name(node.id)} = {value};"

    # Values

    def _needed(self, one: Pass) -> list[int]:
        """What does not vary and the pass uses: literals aside, everything directly below what it computes,
        reduces and stores."""
        ids = [*one.computed, *(self.graph.nodes[id].id for id in one.reduced)]
        used = [arg for id in ids for arg in self.graph.nodes[id].args]
        used += [self.graph.results[index] for index in one.stored]
        return [id for id in dict.fromkeys(used) if not self.graph.nodes[id].varies]

    def _scalars(self, ids: Sequence[int], known: set[int]) -> Iterator[str]:
        """Declarations of values that are the same for the whole row, and of what they need."""
        for id in ids:
            node = self.graph.nodes[id]
            if id in known or node.kind is Kind.NUMBER:
                continue
            if node.kind is Kind.REDUCE:
                raise InternalError(f"{node.function} is needed before its pass")
            yield from self._scalars(node.args, known)
            yield f"    {self._declared(id, self._expression(node, '0'))}"
            known.add(id)

    def _declared(self, id: int, text: str) -> str:
        return f"const {_C[self.graph.nodes[id].type]} {self._name(id)} = {text};"

    def _name(self, id: int) -> str:
        node = self.graph.nodes[id]
        return _number(node) if node.kind is Kind.NUMBER else f"{node.name or 'v'}_{id}"

    def _buffer(self, id: int) -> str:
        return f"row_{id}"

    def _kept(self, id: int, axis: Axis, shift: str) -> str:
        """A value that an earlier pass left in a row buffer, or in the memory of a result."""
        if any(id in one.kept for one in self.passes):
            return f"{self._buffer(id)}[{_sum(shift, 'i')}]"
        result = self.graph.results.index(id)
        tensor = len(self.operands) + result
        return f"q{result}[{self._place(tensor, _scaled('i', axis.strides[tensor]))}]"

    def _place(self, tensor: int, index: str) -> str:
        """The place of an element in its row, behind the pointer of `tensor`."""
        terms = [
            _scaled(f"j{n}", axis.strides[tensor])
            for n, axis in enumerate(self._inner_axes)
            if axis.strides[tensor]
        ]
        return " + ".join([*terms, index]) if index != "0" or not terms else " + ".join(terms)

    def _loaded(self, node: Node, index: str) -> str:
        text = f"p{node.operand}[{self._place(node.operand, index)}]"
        dtype = self.operands[node.operand].dtype
        if dtype in ("bfloat16", "float16"):
            return f"f32_from_{'bf16' if dtype == 'bfloat16' else 'f16'}({text})"
        return f"{text} != 0" if dtype == "bool" else text

    def _stored(self, result: int, value: str) -> str:
        dtype = self.results[result].dtype
        return (
            f"{'bf16' if dtype == 'bfloat16' else 'f16'}_from_f32({value})"
            if dtype in ("bfloat16", "float16")
            else value
        )

    def _expression(self, node: Node, index: str) -> str:
        if node.kind is Kind.LOAD:
            return self._loaded(node, index)
        nodes = [self.graph.nodes[arg] for arg in node.args]
        return _applied(node, [self._name(arg) for arg in node.args], nodes[-1].type)


def _applied(node: Node, args: Sequence[str], kind: str) -> str:
    """A function of values of type `kind`."""
    name = node.function
    floating = kind in FLOATS
    suffix = "f" if kind == "f32" else ""
    if name in TYPES:
        return f"{args[0]} != 0" if name == "b8" else f"({_C[name]}){args[0]}"
    if name in ("bf16", "f16"):
        return f"f32_rounded_to_{name}({args[0]})"
    if name == "where":
        return f"{args[0]} ? {args[1]} : {args[2]}"
    if name in ("eq", "ne", "lt", "le", "gt", "ge"):
        return f"{args[0]} {OPERATORS[name]} {args[1]}"
    if name in ("maximum", "minimum"):
        sign = ">" if name == "maximum" else "<"
        nan = f" || {args[0]} != {args[0]}" if floating else ""
        return f"{args[0]} {sign} {args[1]}{nan} ? {args[0]} : {args[1]}"
    if name == "isnan":
        return f"{args[0]} != {args[0]}"
    if name == "isinf":
        return f"fabs{suffix}({args[0]}) == INFINITY"
    if name == "sign":
        return f"({_C[kind]})(({args[0]} > 0) - ({args[0]} < 0))"
    if floating:
        return _floating(name, args, kind, suffix)
    if name in ("add", "sub", "mul"):
        return f"({_C[kind]})({args[0]} {OPERATORS[name]} {args[1]})"
    if name in _INFIX:
        return f"({_C[kind]})({args[0]} {_INFIX[name]} {args[1]})"
    if name == "bitnot":
        return f"!{args[0]}" if kind == "b8" else f"({_C[kind]})~{args[0]}"
    if name == "neg":
        return f"({_C[kind]})-{args[0]}"
    if name == "abs":
        return f"({_C[kind]})({args[0]} < 0 ? -{args[0]} : {args[0]})"
    if name in ("floordiv", "remainder"):
        return f"({_C[kind]})i64_{name}({args[0]}, {args[1]})"
    raise InternalError(f"{name} of {kind} has no C")


def _floating(name: str, args: Sequence[str], kind: str, suffix: str) -> str:
    listed = ", ".join(args)
    if name in ("add", "sub", "mul", "div"):
        return f"{args[0]} {OPERATORS[name]} {args[1]}"
    if name == "neg":
        return f"-{args[0]}"
    if name == "reciprocal":
        return f"1 / {args[0]}"
    if name == "rsqrt":
        return f"1 / sqrt{suffix}({args[0]})"
    if name in ("floordiv", "remainder"):
        return f"{kind}_{name}({listed})"
    if name in _OWN and (kind == "f32" or name == "sigmoid"):
        return f"{kind}_{name}({listed})"
    return f"{_LIBM.get(name, name)}{suffix}({listed})"


def _number(node: Node) -> str:
    value = node.number
    if node.type in FLOATS:
        suffix = "f" if node.type == "f32" else ""
        if not math.isfinite(value):
            return "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "(-INFINITY)"
        if node.type == "f32" and abs(value) > 3.4028235e38:
            return "INFINITY" if value > 0 else "(-INFINITY)"
        return (
            f"{float(value)!r}{suffix}"
            if value >= 0 and repr(value)[0] != "-"
            else f"({float(value)!r}{suffix})"
        )
    number = int(value)
    if node.type == "i64":
        return "INT64_MIN" if number == -(1 << 63) else f"INT64_C({number})"
    return str(number) if number >= 0 else f"({number})"


def _memory(spec: Spec) -> str:
    return Parameter("", spec.dtype, written=True).text.removesuffix(" *")


def _layout(spec: Spec) -> str:
    return f"{spec.dtype} {list(spec.shape)} by {list(spec.strides)}"


def _scaled(index: str, stride: int) -> str:
    return "0" if not stride else index if stride == 1 else f"{index} * {stride}"


def _sum(*terms: str) -> str:
    return " + ".join(term for term in terms if term)
