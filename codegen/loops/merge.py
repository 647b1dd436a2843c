"""One loop made of two, the second of which reads what the first computes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from occ.codegen.loops.ir import (
    Apply,
    Expr,
    Load,
    Local,
    Loop,
    Number,
    Reduce,
    Statement,
    expression_text,
    result_number,
    walk,
)

SHORT = 64
"""Characters; a statement that is used once and not longer goes where it is used."""


def merged(
    first: Loop,
    second: Loop,
    *,
    operands: tuple[Sequence[int], Sequence[int | None]],
    links: Mapping[int, int],
    kept: Collection[int],
    row: int,
) -> Loop:
    """`first`, then `second`, over rows of `row` dimensions.

    `operands` gives the new number of every operand of both; those of the second in `links` (operand ->
    result of the first) are not loaded but computed. Of the first's results those in `kept` stay results;
    they come before the second's.
    """
    writer = _Writer()
    order = {result: number for number, result in enumerate(sorted(kept))}
    computed = writer.add(first, operands[0], {}, order)
    linked = {operand: computed[result] for operand, result in links.items()}
    after = {result: len(order) + result for result in range(second.results)}
    writer.add(second, operands[1], linked, after)
    return _shortened(Loop(tuple(writer.statements), row))


def side_by_side(loop: Loop, operands: Sequence[Sequence[int]], row: int) -> Loop:
    """The loop once for each list of new numbers of its operands, over rows of `row` dimensions; the results
    of the first come first."""
    writer = _Writer()
    for place, numbers in enumerate(operands):
        begin = place * loop.results
        writer.add(loop, numbers, {}, {result: begin + result for result in range(loop.results)})
    return _shortened(Loop(tuple(writer.statements), row))


@dataclass
class _Writer:
    """Statements under names that no other has."""

    statements: list[Statement] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def add(
        self,
        loop: Loop,
        operands: Sequence[int | None],
        linked: Mapping[int, Expr],
        results: Mapping[int, int],
    ) -> dict[int, Expr]:
        """Append a loop's statements; what its results are called then. Those without a new number in
        `results` become locals."""
        names: dict[str, Expr] = {}
        found: dict[int, Expr] = {}
        for statement in loop.statements:
            value = _renamed(statement.value, operands, linked, names)
            result = result_number(statement.name)
            if result is None:
                names[statement.name] = self.local(statement.name, value)
            elif result in results:
                names[statement.name] = found[result] = self.result(results[result], value)
            else:
                names[statement.name] = found[result] = self.local("t", value)
        return found

    def local(self, name: str, value: Expr) -> Expr:
        if isinstance(value, (Load, Local, Number)):
            return value
        stem = name.rstrip("0123456789")
        number = 0
        while name in self.taken:
            number += 1
            name = f"{stem}{number}"
        return self._give(name, value)

    def result(self, number: int, value: Expr) -> Expr:
        return self._give(f"y{number}", value)

    def _give(self, name: str, value: Expr) -> Local:
        self.taken.add(name)
        self.statements.append(Statement(name, value))
        return Local(name)


def _renamed(
    expr: Expr, operands: Sequence[int | None], linked: Mapping[int, Expr], names: Mapping[str, Expr]
) -> Expr:
    if isinstance(expr, Load):
        if expr.operand in linked:
            return linked[expr.operand]
        number = operands[expr.operand]
        assert number is not None
        return Load(number)
    if isinstance(expr, Local):
        return names[expr.name]
    if isinstance(expr, Reduce):
        return Reduce(expr.function, _renamed(expr.arg, operands, linked, names))
    if isinstance(expr, Apply):
        return Apply(expr.function, tuple(_renamed(arg, operands, linked, names) for arg in expr.args))
    return expr


def _shortened(loop: Loop) -> Loop:
    """The loop without locals that nobody uses, and with short ones that are used once where they are."""
    uses: dict[str, int] = {}
    for statement in loop.statements:
        for expr in walk(statement.value):
            if isinstance(expr, Local):
                uses[expr.name] = uses.get(expr.name, 0) + 1
    inlined: dict[str, Expr] = {}
    statements = []
    for statement in loop.statements:
        value = _inlined(statement.value, inlined)
        once = uses.get(statement.name, 0) == 1
        if result_number(statement.name) is None and once and len(expression_text(value)) <= SHORT:
            inlined[statement.name] = value
        else:
            statements.append(Statement(statement.name, value))
    used = {e.name for s in statements for e in walk(s.value) if isinstance(e, Local)}
    kept = [s for s in statements if s.name in used or result_number(s.name) is not None]
    shorter = Loop(tuple(kept), loop.row)
    return shorter if len(kept) == len(statements) else _shortened(shorter)


def _inlined(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    if isinstance(expr, Local):
        return values.get(expr.name, expr)
    if isinstance(expr, Reduce):
        return Reduce(expr.function, _inlined(expr.arg, values))
    if isinstance(expr, Apply):
        return Apply(expr.function, tuple(_inlined(arg, values) for arg in expr.args))
    return expr
