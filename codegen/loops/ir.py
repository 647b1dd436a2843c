"""The language of loops: what is computed of each element, and of each row.

    d = x0 - mean(x0); y0 = d * rsqrt(mean(d * d) + 1e-5) * x1 + x2

Statements give names to expressions, each name once. `x0`, `x1`, ... are the elements of the operands, which
broadcast against each other; `y0`, `y1`, ... are the results, in order. With `row` > 0 a row is the trailing
`row` dimensions, over which `sum`, `mean`, `max` and `min` reduce; what they give is the same for the whole
row. A result without those dimensions (of size one there) is a number for each row.

The syntax is Python's, of names, numbers, operators and calls. 16-bit floats are computed with in 32 bits;
`bf16(...)` and `f16(...)` round.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Union

from occ.codegen.loops.functions import DEFINITIONS, FUNCTIONS, OPERATORS, REDUCTIONS
from occ.errors import InternalError


@dataclass(frozen=True, slots=True)
class Load:
    """The element of operand `x{operand}`."""

    operand: int


@dataclass(frozen=True, slots=True)
class Number:
    """A literal; it takes the type of what it meets."""

    value: bool | int | float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and repr(self.value) == repr(other.value)

    def __hash__(self) -> int:
        return hash(repr(self.value))


@dataclass(frozen=True, slots=True)
class Local:
    """What an earlier statement named."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """A function of `functions.FUNCTIONS` or `functions.DEFINITIONS`."""

    function: str
    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Reduce:
    """A reduction of `functions.REDUCTIONS` over the row."""

    function: str
    arg: Expr


Expr = Union[Load, Number, Local, Apply, Reduce]


@dataclass(frozen=True, slots=True)
class Statement:
    """`name = value`; a name `y0`, `y1`, ... is a result."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Loop:
    """Statements in order; rows span the trailing `row` dimensions."""

    statements: tuple[Statement, ...]
    row: int

    @property
    def text(self) -> str:
        """What `parse` takes."""
        return "; ".join(f"{s.name} = {expression_text(s.value)}" for s in self.statements)

    @property
    def results(self) -> int:
        """How many results there are."""
        return sum(result_number(s.name) is not None for s in self.statements)

    @property
    def operands(self) -> int:
        """How many operands there are."""
        return 1 + max(
            (e.operand for s in self.statements for e in walk(s.value) if isinstance(e, Load)), default=-1
        )


_RESULT = re.compile(r"y(0|[1-9]\d*)")
_OPERAND = re.compile(r"x(0|[1-9]\d*)")
_LOCAL = re.compile(r"[a-z][a-z0-9_]*")
_LONGEST = 20_000
"""Characters of a loop's text; fusion stops long before."""

_BINARY: dict[type[ast.AST], str] = {
    **{ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"},
    **{ast.FloorDiv: "floordiv", ast.Mod: "remainder"},
    **{ast.BitAnd: "bitand", ast.BitOr: "bitor", ast.BitXor: "bitxor"},
    **{ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"},
}
_PRECEDENCE = {
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), 1),
    **{"bitor": 2, "bitxor": 3, "bitand": 4},
    **{"add": 5, "sub": 5, "mul": 6, "div": 6, "floordiv": 6, "remainder": 6},
}
_NEGATED = 7


@lru_cache(maxsize=1 << 13)
def parse(text: str, row: int = 0) -> Loop:
    """The loop that `text` describes. Raises InternalError where it describes none."""
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"it has {len(text)} characters, more than {_LONGEST}")
        tree = ast.parse(text)
        statements = tuple(_statement(node) for node in tree.body)
        _check(statements)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InternalError(f"{text[:60]!r} is not a loop: {error}") from error
    return Loop(statements, row)


def parse_expression(text: str) -> Expr:
    """A single expression; names that are neither operands nor functions are locals."""
    return _expression(ast.parse(text, mode="eval").body)


def result_number(name: str) -> int | None:
    """2 for `y2`, None for the name of a local."""
    found = _RESULT.fullmatch(name)
    return int(found[1]) if found else None


def walk(expr: Expr) -> Iterator[Expr]:
    """An expression and every expression in it."""
    yield expr
    if isinstance(expr, Apply):
        for arg in expr.args:
            yield from walk(arg)
    elif isinstance(expr, Reduce):
        yield from walk(expr.arg)


def expression_text(expr: Expr, above: int = 0) -> str:
    """The text of an expression, in parentheses where one of precedence `above` needs them around it."""
    if isinstance(expr, Load):
        return f"x{expr.operand}"
    if isinstance(expr, Local):
        return expr.name
    if isinstance(expr, Number):
        text = (
            str(expr.value)
            if expr.value != expr.value or expr.value in (math.inf, -math.inf)
            else repr(expr.value)
        )
        return f"({text})" if text.startswith("-") and above >= _NEGATED else text
    if isinstance(expr, Reduce):
        return f"{expr.function}({expression_text(expr.arg)})"
    if expr.function == "neg":
        text = f"-{expression_text(expr.args[0], _NEGATED)}"
        return f"({text})" if above >= _NEGATED else text
    if expr.function in OPERATORS:
        level = _PRECEDENCE[expr.function]
        # Comparisons chain in Python, so operands that are comparisons get parentheses on either side.
        left = expression_text(expr.args[0], level + (level == 1))
        right = expression_text(expr.args[1], level + 1)
        text = f"{left} {OPERATORS[expr.function]} {right}"
        return f"({text})" if above > level else text
    return f"{expr.function}({', '.join(expression_text(arg) for arg in expr.args)})"


def _statement(node: ast.stmt) -> Statement:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return Statement(node.targets[0].id, _expression(node.value))
    raise ValueError("a statement is `name = expression`")


def _expression(node: ast.expr) -> Expr:
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        return Number(node.value)
    if isinstance(node, ast.Name):
        if node.id in ("inf", "nan"):
            return Number(float(node.id))
        operand = _OPERAND.fullmatch(node.id)
        return Load(int(operand[1])) if operand else Local(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand_ = _expression(node.operand)
        if isinstance(operand_, Number) and not isinstance(operand_.value, bool):
            return Number(-operand_.value)
        return Apply("neg", (operand_,))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return Apply("bitnot", (_expression(node.operand),))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return Apply(_BINARY[type(node.op)], (_expression(node.left), _expression(node.right)))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _BINARY:
        left, right = _expression(node.left), _expression(node.comparators[0])
        return Apply(_BINARY[type(node.ops[0])], (left, right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _call(node.func.id, tuple(_expression(arg) for arg in node.args))
    raise ValueError(f"{ast.unparse(node)[:60]!r} is not an expression of the language")


def _call(name: str, args: tuple[Expr, ...]) -> Expr:
    if name in REDUCTIONS:
        arity = 1
    elif name in FUNCTIONS:
        arity = FUNCTIONS[name].arity
    elif name in DEFINITIONS:
        arity = len(DEFINITIONS[name][0].split(","))
    else:
        raise ValueError(f"there is no function {name!r}")
    if len(args) != arity:
        raise ValueError(f"{name} takes {arity} operands, not {len(args)}")
    return Reduce(name, args[0]) if name in REDUCTIONS else Apply(name, args)


def _check(statements: tuple[Statement, ...]) -> None:
    """Raise ValueError for a name used before it is given, given twice, or that is a function's."""
    known: set[str] = set()
    results = []
    for statement in statements:
        for expr in walk(statement.value):
            if isinstance(expr, Local) and expr.name not in known:
                raise ValueError(f"{expr.name} is used before it is given")
        name = statement.name
        if result := _RESULT.fullmatch(name):
            results.append(int(result[1]))
        elif (
            not _LOCAL.fullmatch(name)
            or _OPERAND.fullmatch(name)
            or name in ("inf", "nan")
            or name in FUNCTIONS
            or name in DEFINITIONS
            or name in REDUCTIONS
        ):
            raise ValueError(f"{name!r} cannot be a name")
        if name in known:
            raise ValueError(f"{name} is given twice")
        known.add(name)
    if sorted(results) != list(range(len(results))) or not results:
        raise ValueError("the results are y0, y1, ... without a gap")
