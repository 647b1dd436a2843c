"""A loop with types: its values numbered, and the passes over a row in which they are computed.

Equal expressions are one value (J. Cocke, "Global common subexpression elimination", 1970, by hashing). A
reduction is known only after a pass over its row, so what depends on it belongs to a later one. A value that
a later pass needs again is kept in a buffer of one row where that is cheaper than to compute it twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Union

from occ.codegen.loops.functions import DEFINITIONS, FLOATS, FUNCTIONS, INTEGERS, ROUNDED, TYPES, Takes
from occ.codegen.loops.ir import Expr, Load, Local, Loop, Number, Reduce, parse_expression, result_number
from occ.errors import InternalError

KEPT_NBYTES = 32 << 10
"""Bytes of row buffers of one loop: they lie on a thread's stack and should stay in its first cache."""

STORE_COST = 2
"""Additions that keeping a value in a buffer takes, besides reading it again, which takes one."""

WIDTHS = {"f64": 8, "f32": 4, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "b8": 1}
"""Bytes of each type."""


class Kind(Enum):
    LOAD = "load"
    NUMBER = "number"
    APPLY = "apply"
    REDUCE = "reduce"


@dataclass(frozen=True, slots=True)
class Node:
    """A value. `function` names what an APPLY or REDUCE applies, `operand` what a LOAD reads, `number` what a
    NUMBER is. `varies` says whether it differs within a row; it can be computed in pass `level` (of one that
    does not vary: before it). `name` is what the text calls it, if anything."""

    id: int
    kind: Kind
    type: str
    args: tuple[int, ...] = ()
    function: str = ""
    operand: int = -1
    number: bool | int | float = 0
    varies: bool = False
    level: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over a row: the reductions that it makes, the results that it stores, the values that it
    keeps in row buffers, everything that varies and is computed in it, in order, and what it reads of values
    that an earlier pass kept, or stored as a result."""

    reduced: tuple[int, ...]
    stored: tuple[int, ...]
    kept: tuple[int, ...]
    computed: tuple[int, ...]
    read: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """All values, operands before what uses them; `results` has the value of each result."""

    nodes: tuple[Node, ...]
    results: tuple[int, ...]

    def below(self, roots: Sequence[int], stop: frozenset[int] = frozenset()) -> Iterator[int]:
        """The values that `roots` need and that vary, each once, operands first; not those below `stop`."""
        seen: set[int] = set()
        stack = [(root, False) for root in reversed(roots)]
        while stack:
            id, done = stack.pop()
            if done:
                yield id
                continue
            node = self.nodes[id]
            if id in seen or not node.varies:
                continue
            seen.add(id)
            stack.append((id, True))
            if id not in stop:
                stack.extend((arg, False) for arg in reversed(node.args))

    def cost(self, id: int, known: frozenset[int]) -> int:
        """The time of computing a value from loads and `known` values, relative to an addition; a load is
        one."""
        total = 0
        for below in self.below([id], known - {id}):
            node = self.nodes[below]
            applied = node.kind is Kind.APPLY and below not in known - {id}
            total += FUNCTIONS[node.function].cost if applied else 1
        return total


@lru_cache(maxsize=1 << 13)
def build(loop: Loop, types: tuple[str, ...], varies: tuple[bool, ...]) -> Graph:
    """The values of a loop whose operands are of `types` (of `functions.TYPES`) and differ within a row where
    `varies`. Raises InternalError where types do not fit."""
    builder = _Builder(types, varies)
    results: dict[int, int] = {}
    for statement in loop.statements:
        value = builder.value(statement.value, builder.named, statement.name)
        builder.named[statement.name] = value
        number = result_number(statement.name)
        if number is not None:
            if isinstance(value, Number):
                raise InternalError(f"{statement.name} = {value.value} has no type; write f32({value.value})")
            results[number] = value
    return Graph(tuple(builder.nodes), tuple(results[index] for index in range(len(results))))


@lru_cache(maxsize=1 << 13)
def passes_of(
    graph: Graph, row_elements: int, spread: tuple[bool, ...], exact: tuple[bool, ...]
) -> tuple[Pass, ...]:
    """The passes over a row of `row_elements` elements.

    `spread` says of each result whether every element of a row gets one, or the row; `exact` whether its
    memory holds what was computed, unrounded.
    """
    reduced: dict[int, list[int]] = {}
    for node in graph.nodes:
        if node.kind is Kind.REDUCE:
            reduced.setdefault(node.level - 1, []).append(node.id)
    stored: dict[int, list[int]] = {}
    for index, id in enumerate(graph.results):
        if spread[index]:
            stored.setdefault(graph.nodes[id].level, []).append(index)
    roots = []
    for index in range(max([*reduced, *stored], default=-1) + 1):
        arguments = [graph.nodes[id].args[0] for id in reduced.get(index, ())]
        roots.append((*arguments, *(graph.results[result] for result in stored.get(index, ()))))
    written = frozenset(
        id for id, one, other in zip(graph.results, spread, exact, strict=True) if one and other
    )
    again = _read_again(graph, roots, written, row_elements)
    found: list[Pass] = []
    known: set[int] = set()
    for index, values in enumerate(roots):
        below = tuple(graph.below(values, frozenset(known)))
        mine = tuple(id for id in below if id in again and id not in known)
        found.append(
            Pass(
                tuple(reduced.get(index, ())),
                tuple(stored.get(index, ())),
                tuple(id for id in mine if id not in written),
                tuple(id for id in below if id not in known),
                tuple(id for id in below if id in known),
            )
        )
        known.update(mine)
    return tuple(found)


def _read_again(
    graph: Graph, roots: Sequence[tuple[int, ...]], written: frozenset[int], row_elements: int
) -> frozenset[int]:
    """Values that a pass computes and later ones read instead of computing them again: from the memory of a
    result (`written`), or from a row buffer as far as there is room. Those on top come first: they spare the
    most."""
    chosen: frozenset[int] = frozenset()
    left = KEPT_NBYTES
    needed = [frozenset(graph.below(values)) for values in roots]
    for node in reversed(graph.nodes):
        later = sum(node.id in below for below in needed) - 1
        if node.kind is not Kind.APPLY or later < 1:
            continue
        spared = later * (graph.cost(node.id, chosen) - 1)
        nbytes = 0 if node.id in written else row_elements * WIDTHS[node.type]
        if spared > (0 if node.id in written else STORE_COST) and nbytes <= left:
            left -= nbytes
            chosen |= {node.id}
            needed = _needed(graph, roots, chosen)
    return chosen


def _needed(graph: Graph, roots: Sequence[tuple[int, ...]], chosen: frozenset[int]) -> list[frozenset[int]]:
    """What each pass computes or reads where `chosen` values are read once they were computed."""
    found = []
    known: frozenset[int] = frozenset()
    for values in roots:
        below = frozenset(graph.below(values, known))
        known |= below & chosen
        found.append(below)
    return found


_Value = Union[int, Number]
"""A node's id, or a literal that has no type yet."""


@dataclass
class _Builder:
    types: tuple[str, ...]
    varies: tuple[bool, ...]
    nodes: list[Node] = field(default_factory=list)
    named: dict[str, _Value] = field(default_factory=dict)
    known: dict[tuple[object, ...], int] = field(default_factory=dict)

    def value(self, expr: Expr, names: dict[str, _Value], name: str = "") -> _Value:
        if isinstance(expr, Number):
            return expr
        if isinstance(expr, Local):
            return names[expr.name]
        if isinstance(expr, Load):
            if expr.operand >= len(self.types):
                raise InternalError(f"x{expr.operand} is used and there are {len(self.types)} operands")
            varies = self.varies[expr.operand]
            return self._node(Kind.LOAD, self.types[expr.operand], operand=expr.operand, varies=varies)
        if isinstance(expr, Reduce):
            arg = self.value(expr.arg, names)
            if isinstance(arg, Number):
                raise InternalError(f"{expr.function} of a number")
            kind = self.nodes[arg].type
            if expr.function == "mean" and kind not in FLOATS:
                raise InternalError(f"mean of {kind}")
            level = self.nodes[arg].level + 1
            return self._node(Kind.REDUCE, kind, (arg,), expr.function, level=level, name=name)
        args = tuple(self.value(arg, names) for arg in expr.args)
        if expr.function in DEFINITIONS:
            parameters, text = DEFINITIONS[expr.function]
            bound = dict(zip(parameters.split(", "), args, strict=True))
            return self.value(_definition(text), bound, name)
        return self._apply(expr.function, args, name)

    def _apply(self, function: str, args: tuple[_Value, ...], name: str) -> _Value:
        takes = FUNCTIONS[function].takes
        if function in TYPES:
            return self._cast(args[0], function, name)
        first = int(takes is Takes.CHOICE)
        kinds = {self.nodes[arg].type for arg in args[first:] if isinstance(arg, int)}
        if len(kinds) != 1:
            raise InternalError(f"{function} of {', '.join(sorted(kinds)) or 'numbers alone'}")
        [kind] = kinds
        allowed = {
            Takes.NUMBERS: (*FLOATS, *INTEGERS),
            Takes.FLOATS: FLOATS,
            Takes.INTEGERS: (*INTEGERS, "b8"),
            Takes.FLOAT_TESTED: FLOATS,
            Takes.BOOLS: ("b8",),
        }.get(takes, TYPES)
        if kind not in allowed or (function in ROUNDED and kind != "f32"):
            raise InternalError(f"{function} of {kind}")
        ids = tuple(arg if isinstance(arg, int) else self._number(arg.value, kind) for arg in args[first:])
        if first:
            condition = args[0]
            ids = (condition if isinstance(condition, int) else self._number(condition.value, "b8"), *ids)
            if self.nodes[ids[0]].type != "b8":
                raise InternalError(f"{function} with a condition of type {self.nodes[ids[0]].type}")
        result = "b8" if takes in (Takes.COMPARED, Takes.FLOAT_TESTED, Takes.BOOLS) else kind
        return self._applied(function, ids, result, name)

    def _cast(self, arg: _Value, kind: str, name: str) -> int:
        if isinstance(arg, Number):
            return self._number(arg.value, kind)
        if self.nodes[arg].type == kind:
            return arg
        return self._applied(kind, (arg,), kind, name)

    def _applied(self, function: str, args: tuple[int, ...], kind: str, name: str) -> int:
        nodes = [self.nodes[arg] for arg in args]
        varies = any(node.varies for node in nodes)
        level = max(node.level for node in nodes)
        return self._node(Kind.APPLY, kind, args, function, varies=varies, level=level, name=name)

    def _number(self, number: bool | int | float, kind: str) -> int:
        if kind in FLOATS:
            number = float(number)
        elif kind == "b8":
            if not isinstance(number, bool):
                raise InternalError(f"{number} meets a bool")
        elif isinstance(number, float):
            raise InternalError(f"{number} meets an integer")
        else:
            number = int(number)
        return self._node(Kind.NUMBER, kind, number=number)

    def _node(
        self,
        kind: Kind,
        type: str,
        args: tuple[int, ...] = (),
        function: str = "",
        *,
        operand: int = -1,
        number: bool | int | float = 0,
        varies: bool = False,
        level: int = 0,
        name: str = "",
    ) -> int:
        key = (kind, type, args, function, operand, repr(number))
        if key not in self.known:
            self.known[key] = len(self.nodes)
            self.nodes.append(
                Node(len(self.nodes), kind, type, args, function, operand, number, varies, level, name)
            )
        return self.known[key]


@lru_cache
def _definition(text: str) -> Expr:
    return parse_expression(text)
