"""Loops as Triton: elements in blocks, rows in blocks of whole rows or, where they are long, block by block.

A row that fits into registers is loaded once, and all of its passes are made there. A longer one is read
again in every pass; its results are all stored in the last, so that a result may take the bytes of an operand
under the conditions of `BoundLoop.may_overwrite`. Sums of floats are made in lanes, and the lanes are added
as a tree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from occ.codegen.loops.bound import BoundLoop
from occ.codegen.loops.functions import FLOATS, OPERATORS
from occ.codegen.loops.graph import Kind, Node, Pass
from occ.codegen.loops.naming import stem_of
from occ.codegen.loops.space import Axis
from occ.codegen.triton.library import helpers_of
from occ.codegen.triton.places import PROGRAMS, WIDE, Places, pointer, power, program_number, reach
from occ.codegen.triton.unit import Launch, TritonFunction, triton_function
from occ.errors import InternalError

BLOCK = 1024
"""Elements of a block: 16 bytes for each of 128 threads where they have 16 bits."""

LEAST_BLOCK = 128
"""Elements of a block where there are few, at least."""

TILE = 32
"""Rows and columns of a block that transposes."""

REGISTERS = 32768
"""Elements of a program that are in registers at once, at most: half of a multiprocessor's."""

SHORT = 64
"""Characters of a value that is written where it is used, at most."""

LONG_BLOCK = 4096
"""Elements of a long row that are computed at a time."""

COLUMNS = 64
"""Rows side by side in memory that are computed together."""

FEWEST_COLUMNS = 16
"""The same where there are few, at least: 32 bytes of 16-bit elements, as memory is read."""

_TRITON = {
    **{"f64": "tl.float64", "f32": "tl.float32", "i64": "tl.int64", "i32": "tl.int32", "i16": "tl.int16"},
    **{"i8": "tl.int8", "u8": "tl.uint8", "b8": "tl.int1"},
}
_CALLED = frozenset(
    {"abs", "ceil", "cos", "erf", "exp", "exp2", "floor", "log", "log2", "rsqrt", "sin", "sqrt"}
)
_OWN = {
    "f32": {name: f"f32_{name}" for name in ("expm1", "log1p", "tanh", "round")},
    "f64": {"round": "f64_round"},
}
"""Functions of `device/functions.py` that are there for one type."""

_SHARED = {
    "sigmoid": "sigmoid",
    "trunc": "truncated",
    "floordiv": "float_floordiv",
    "remainder": "float_remainder",
}
_LIBDEVICE = frozenset(
    {"acos", "asin", "atan", "atan2", "cosh", "erfc", "expm1", "fmod", "log10", "log1p", "pow", "sinh", "tan"}
    | {"tanh"}
)
_BARRIER = "tl.debug_barrier()"
"""Before the stores of several results: one may take the bytes of an operand that other threads load, and
that it does not depend on itself. (A result that depends on it is stored by who has loaded it.)"""

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "bitand": "&", "bitor": "|", "bitxor": "^"}
_COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
_BITS = {"i64": 64, "i32": 32, "i16": 16, "i8": 8}


def loop_function(bound: BoundLoop) -> TritonFunction:
    """The Triton function of a loop."""
    return _Renderer(bound).function()


@dataclass
class _Renderer:
    bound: BoundLoop
    helpers: dict[str, None] = field(default_factory=dict)
    indices: tuple[Places, ...] = ()
    inlined: set[int] = field(default_factory=set)
    """Values that are written where they are used."""

    def function(self) -> TritonFunction:
        bound = self.bound
        operands = [f"x{index}" for index in range(len(bound.operands))]
        results = [f"y{index}" for index in range(len(bound.results))]
        self._inline()
        launch, lines = self._over_rows() if bound.loop.row else self._over_elements()
        layouts = ", ".join(
            f"{name} {spec.dtype} {list(spec.shape)} by {list(spec.strides)}"
            for name, spec in zip((*operands, *results), (*bound.operands, *bound.results), strict=True)
        )
        rows = f" over rows of {bound.space.row_elements}" if bound.loop.row else ""
        return triton_function(
            stem_of(bound.loop),
            [*operands, *results],
            "\n".join(lines),
            launch,
            helpers_of("functions", self.helpers),
            f"{bound.loop.text}{rows}\n{layouts}",
        )

    @property
    def _wide(self) -> bool:
        """Whether places need 64 bits."""
        tensors = (*self.bound.operands, *self.bound.results)
        return max(self.bound.elements, *map(reach, tensors)) >= WIDE

    # The shape of the code

    def _over_elements(self) -> tuple[Launch, list[str]]:
        axes = self.bound.space.outer
        crossing = self._crossing(axes)
        return self._tiled(axes, crossing) if crossing is not None else self._linear(axes)

    def _linear(self, axes: tuple[Axis, ...]) -> tuple[Launch, list[str]]:
        total = math.prod(axis.size for axis in axes)
        block = min(max(power(-(-total // PROGRAMS)), LEAST_BLOCK), BLOCK, power(total))
        index = Places("i", axes, block)
        self.indices = (index,)
        lines = []
        if axes:
            lines.append(index.of_program(program_number(self._wide), self._wide))
            lines += index.divided()
        lines += self._straight(self.bound.passes)
        return Launch((-(-total // block),), min(max(block // 256, 1), 4)), lines

    def _crossing(self, axes: tuple[Axis, ...]) -> int | None:
        """The axis along which a tensor lies that others have in the order of the last; None where all that
        are read and written along the last axis lie along it."""
        if len(axes) < 2 or axes[-1].size < TILE // 2:
            return None
        for tensor in range(len(axes[0].strides)):
            if axes[-1].strides[tensor] > 1:
                for n, axis in enumerate(axes[:-1]):
                    if axis.strides[tensor] == 1 and axis.size >= TILE // 2:
                        return n
        return None

    def _tiled(self, axes: tuple[Axis, ...], crossing: int) -> tuple[Launch, list[str]]:
        """Blocks over two axes, so that each tensor is read and written along its own."""
        down = Places("a", (axes[crossing],), TILE, "[:, None]")
        along = Places("b", (axes[-1],), TILE, "[None, :]")
        rest = tuple(axis for n, axis in enumerate(axes[:-1]) if n != crossing)
        tiles = [-(-one.total // TILE) for one in (down, along)]
        others = Places("o", rest, 1)
        self.indices = (down, along, others)
        lines = [f"program = {program_number(self._wide)}"]
        lines.append(down.of_program(f"program // {tiles[1]} % {tiles[0]}", self._wide))
        lines.append(along.of_program(f"program % {tiles[1]}", self._wide))
        if rest:
            lines += [f"o = program // {tiles[0] * tiles[1]}", *others.divided()]
        lines += self._masks()
        lines += self._straight(self.bound.passes)
        return Launch((others.total * tiles[0] * tiles[1],), 4), lines

    def _over_rows(self) -> tuple[Launch, list[str]]:
        space = self.bound.space
        length, rows = space.row_elements, space.rows
        spanning = self._spanning(len(self.bound.operands))
        together, block = 1, power(length)
        if self._side_by_side():
            together = min(COLUMNS, power(rows))
            while together > FEWEST_COLUMNS and -(-rows // together) < PROGRAMS:
                together //= 2
        fits = together * block * (spanning + 1) <= REGISTERS
        if not fits:
            block = min(block, LONG_BLOCK // together)
        elif together == 1 and block < BLOCK:
            together = min(BLOCK // block, power(rows))
            while together > 1 and -(-rows // together) < PROGRAMS:
                together //= 2
        row = Places("r", space.outer, together, "[:, None]")
        column = Places("j", space.inner, block, "[None, :]")
        self.indices = (row, column)
        lines = [row.of_program(program_number(self._wide), self._wide), *row.divided()]
        if row.masked:
            lines.append(f"rows = r < {rows}")
        if fits:
            lines += [column.vector("", self._wide), *column.divided()]
            if column.masked:
                lines.append(f"columns = j < {length}")
            if row.masked and column.masked:
                lines.append("inside = rows & columns")
            lines += self._straight(self.bound.passes)
        else:
            lines += self._long_rows()
        warps = min(max(together * block // 256, 1), 16 if together * block >= 8192 else 8)
        return Launch((-(-rows // together),), warps), lines

    def _spanning(self, count: int) -> int:
        """How many of the first `count` tensors differ within rows and from row to row."""
        space = self.bound.space
        return sum(
            any(axis.strides[tensor] for axis in space.inner)
            and (not space.outer or any(axis.strides[tensor] for axis in space.outer))
            for tensor in range(count)
        )

    def _side_by_side(self) -> bool:
        """Whether rows lie side by side in memory, not their elements."""
        space = self.bound.space
        if not space.outer or not space.inner:
            return False
        tensors = range(len(space.outer[-1].strides))
        inside = any(axis.strides[tensor] == 1 for axis in space.inner for tensor in tensors)
        return not inside and any(space.outer[-1].strides[tensor] == 1 for tensor in tensors)

    def _masks(self) -> Iterator[str]:
        """The masks of a tile."""
        down, along = self.indices[:2]
        if down.masked:
            yield f"rows = a < {down.total}"
        if along.masked:
            yield f"columns = b < {along.total}"
        if down.masked and along.masked:
            yield "inside = rows & columns"

    # All at once

    def _straight(self, passes: Iterable[Pass]) -> Iterator[str]:
        """Every value in registers, then every result."""
        nodes = self.bound.graph.nodes
        roots = [*self.bound.graph.results, *(id for one in passes for id in one.reduced)]
        for id in self._order(roots):
            node = nodes[id]
            if node.kind is Kind.REDUCE:
                yield from self._reduced_at_once(node)
            elif node.kind is not Kind.NUMBER and id not in self.inlined:
                yield f"{self._name(id)} = {self._expression(node)}"
        if len(self.bound.results) > 1:
            yield _BARRIER
        for index in range(len(self.bound.results)):
            yield self._store(index)

    def _reduced_at_once(self, node: Node) -> Iterator[str]:
        value = self._masked(node, self._text(node.args[0]))
        yield f"{self._name(node.id)} = {self._total(node, self._keyed(node, value))}"

    # A block at a time

    def _long_rows(self) -> Iterator[str]:
        graph, known = self.bound.graph, set[int]()
        passes = [one for one in self.bound.passes if one.reduced]
        for one in passes:
            arguments = [graph.nodes[id].args[0] for id in one.reduced]
            yield from self._scalars(self._needed(arguments), known)
            for id in one.reduced:
                yield from self._accumulator(graph.nodes[id])
            yield from self._loop(arguments)
            for id in one.reduced:
                yield f"    {self._accumulated(graph.nodes[id])}"
            for id in one.reduced:
                yield f"{self._name(id)} = {self._total(graph.nodes[id], f'all_{id}')}"
                known.add(id)
        stored = [index for one in self.bound.passes for index in one.stored]
        single = [index for index in range(len(self.bound.results)) if index not in stored]
        spread = [graph.results[index] for index in stored]
        yield from self._scalars([*self._needed(spread), *(graph.results[index] for index in single)], known)
        if stored:
            yield from self._loop(spread)
            if len(stored) > 1:
                yield f"    {_BARRIER}"
            yield from (f"    {self._store(index)}" for index in stored)
        if single and len(self.bound.results) > 1:
            yield _BARRIER
        yield from (self._store(index) for index in single)

    def _loop(self, roots: Sequence[int]) -> Iterator[str]:
        """The head of a loop over blocks of a row, and in it all values below `roots` that vary."""
        row, column = self.indices
        yield f"for first in range(0, {column.total}, {column.block}):"
        inside = [column.vector("first", self._wide), *column.divided()]
        if column.masked:
            inside.append(f"columns = j < {column.total}")
        if row.masked and column.masked:
            inside.append("inside = rows & columns")
        for id in self.bound.graph.below(roots):
            if id not in self.inlined:
                inside.append(f"{self._name(id)} = {self._expression(self.bound.graph.nodes[id])}")
        yield from (f"    {line}" for line in inside)

    def _needed(self, roots: Sequence[int]) -> list[int]:
        """What does not vary and is directly below `roots`, or below what they need that varies."""
        nodes = self.bound.graph.nodes
        varying = list(self.bound.graph.below(roots))
        used = [*roots, *(arg for id in varying for arg in nodes[id].args)]
        return [id for id in dict.fromkeys(used) if not nodes[id].varies]

    def _scalars(self, ids: Iterable[int], known: set[int]) -> Iterator[str]:
        for id in ids:
            node = self.bound.graph.nodes[id]
            if id in known or node.kind is Kind.NUMBER:
                continue
            if node.kind is Kind.REDUCE:
                raise InternalError(f"{node.function} is needed before its pass")
            yield from self._scalars(node.args, known)
            if id not in self.inlined:
                yield f"{self._name(id)} = {self._expression(node)}"
            known.add(id)

    def _accumulator(self, node: Node) -> Iterator[str]:
        row, column = self.indices
        shape = f"[{row.block}, {column.block}]"
        if node.function in ("sum", "mean"):
            yield f"all_{node.id} = tl.zeros({shape}, {_TRITON[self._summed(node)]})"
        else:
            least = f"tl.full({shape}, {self._neutral(node)}, {_TRITON[node.type]})"
            yield f"all_{node.id} = {self._keyed(node, least)}"

    def _accumulated(self, node: Node) -> str:
        value = self._keyed(node, self._masked(node, self._text(node.args[0])))
        if node.function in ("sum", "mean"):
            return f"all_{node.id} += {value}"
        # Keys of floats are the largest for the least.
        name = "minimum" if node.function == "min" and node.type not in FLOATS else "maximum"
        return f"all_{node.id} = tl.{name}(all_{node.id}, {value})"

    # Reductions

    def _summed(self, node: Node) -> str:
        """The type of a sum's lanes."""
        return node.type if node.type in (*FLOATS, "i64") else "i32"

    def _neutral(self, node: Node) -> str:
        if node.function in ("sum", "mean"):
            return "0.0" if node.type in FLOATS else "0"
        low = node.function == "max"
        if node.type in FLOATS:
            return '-float("inf")' if low else 'float("inf")'
        if node.type in _BITS:
            bits = _BITS[node.type]
            return str(-(1 << (bits - 1)) if low else (1 << (bits - 1)) - 1)
        return "0" if low else ("255" if node.type == "u8" else "1")

    def _keyed(self, node: Node, value: str) -> str:
        """What lanes hold of a value: of an extreme of floats, an integer that NaN makes the largest."""
        if node.function in ("sum", "mean"):
            summed = self._summed(node)
            return value if summed == node.type else f"({value}).to({_TRITON[summed]})"
        if node.type in FLOATS:
            sign = "-" if node.function == "min" else ""
            inside = f"{sign}({value})" if sign and not value.isidentifier() else f"{sign}{value}"
            return self._helper(f"{node.type}_order", inside)
        return value if _BITS.get(node.type, 0) >= 32 else f"({value}).to(tl.int32)"

    def _total(self, node: Node, lanes: str) -> str:
        """A reduction of its lanes."""
        if node.function in ("sum", "mean"):
            total = f"tl.sum({lanes}, 1, keep_dims=True)"
            if node.function == "mean":
                return f"{total} / {float(self.bound.space.row_elements)!r}"
            return total if self._summed(node) == node.type else f"{total}.to({_TRITON[node.type]})"
        if node.type in FLOATS:
            sign = "-" if node.function == "min" else ""
            return sign + self._helper(f"{node.type}_of_order", f"tl.max({lanes}, 1, keep_dims=True)")
        best = f"tl.{node.function}({lanes}, 1, keep_dims=True)"
        if node.type == "b8":
            return f"{best} != 0"
        return best if _BITS.get(node.type, 0) >= 32 else f"{best}.to({_TRITON[node.type]})"

    def _masked(self, node: Node, value: str) -> str:
        """What a reduction is made of, at every element of a block of rows."""
        row, column = self.indices
        if not self.bound.graph.nodes[node.args[0]].varies:
            zero = "0.0" if node.type in FLOATS else "0"
            value = f"tl.full([{row.block}, {column.block}], {zero}, {_TRITON[node.type]}) + {value}"
        mask = self._mask(None, (0, 1))
        return f"tl.where({mask}, {value}, {self._neutral(node)})" if mask else value

    # Values

    def _order(self, roots: Iterable[int]) -> Iterator[int]:
        """Everything that `roots` need, each once, operands first."""
        nodes = self.bound.graph.nodes
        needed: set[int] = set()
        stack = list(roots)
        while stack:
            id = stack.pop()
            if id not in needed:
                needed.add(id)
                stack.extend(nodes[id].args)
        # Nodes are numbered with operands before what uses them.
        return iter(sorted(needed))

    def _inline(self) -> None:
        """Choose the values that are written where they are used: short ones without a name that are used
        once, and not in a loop where they can be computed before it."""
        nodes = self.bound.graph.nodes
        users: dict[int, list[Node]] = {}
        for node in nodes:
            for arg in node.args:
                users.setdefault(arg, []).append(node)
        for node in nodes:
            if node.kind is not Kind.APPLY or node.name or node.id in self.bound.graph.results:
                continue
            [user, *others] = users.get(node.id) or [node]
            repeats = user is node or others or user.function in ("isnan", "sign")
            reduced = user.kind is Kind.REDUCE
            moved = not node.varies if reduced else user.varies != node.varies
            if not repeats and not moved and len(self._applied(node)) <= SHORT:
                self.inlined.add(node.id)

    def _name(self, id: int) -> str:
        node = self.bound.graph.nodes[id]
        if node.kind is Kind.NUMBER:
            return _number(node)
        if node.kind is Kind.LOAD:
            return f"v{node.operand}"
        return f"{node.name or 't'}_{id}"

    def _text(self, id: int, above: int = 0) -> str:
        """A value, in parentheses where an expression of precedence `above` needs them around it."""
        if id not in self.inlined:
            return self._name(id)
        node = self.bound.graph.nodes[id]
        text = self._applied(node)
        return f"({text})" if _precedence(node) < above else text

    def _typed(self, id: int) -> str:
        """A value where a literal would not take the type of what it meets."""
        node = self.bound.graph.nodes[id]
        if node.kind is not Kind.NUMBER or node.type == "f32":
            return self._text(id)
        return self._tensor(id)

    def _tensor(self, id: int) -> str:
        """A value, literals as tensors."""
        node = self.bound.graph.nodes[id]
        number = node.kind is Kind.NUMBER
        return f"tl.full((), {_number(node)}, {_TRITON[node.type]})" if number else self._text(id)

    def _expression(self, node: Node) -> str:
        if node.kind is Kind.LOAD:
            return self._loaded(node)
        return self._applied(node)

    def _pointer(self, tensor: int, name: str, at_least: Sequence[int] = ()) -> str:
        """A tensor's elements of this program; it has the dimensions of the indices `at_least` even where
        they do not move it."""
        terms = [term for index in self.indices for term in index.terms(tensor)]
        for number in at_least:
            index = self.indices[number]
            if not index.terms(tensor):
                terms.append(f"{index.name} * 0")
        return pointer(name, terms)

    def _mask(self, tensor: int | None, at_least: Iterable[int] = ()) -> str:
        """Which elements of this program a tensor has; empty where that is all. Of None, those at least."""
        least = set(at_least)
        used = [
            n
            for n, index in enumerate(self.indices)
            if index.masked and (n in least or (tensor is not None and index.terms(tensor)))
        ]
        if len(self.indices) == 1:
            return f"i < {self.indices[0].total}" if used else ""
        return "" if not used else "inside" if used == [0, 1] else ("rows", "columns")[used[0]]

    def _loaded(self, node: Node) -> str:
        spec = self.bound.operands[node.operand]
        mask = self._mask(node.operand)
        at = self._pointer(node.operand, f"x{node.operand}")
        text = f"tl.load({at}, mask={mask})" if mask else f"tl.load({at})"
        return f"{text}.to(tl.float32)" if spec.dtype in ("bfloat16", "float16") else text

    def _store(self, result: int) -> str:
        tensor = len(self.bound.operands) + result
        full = self._full(result)
        mask = self._mask(tensor, full)
        at = self._pointer(tensor, f"y{result}", full)
        value = self._typed(self.bound.graph.results[result])
        return f"tl.store({at}, {value}{f', mask={mask}' if mask else ''})"

    def _full(self, result: int) -> list[int]:
        """The indices that a result has a dimension of, moved by them or not."""
        if not self.bound.loop.row:
            return [n for n, index in enumerate(self.indices) if index.block > 1]
        spread = any(result in one.stored for one in self.bound.passes)
        return [0, 1] if spread else [0]

    def _helper(self, name: str, *args: str) -> str:
        self.helpers[name] = None
        return f"{name}({', '.join(args)})"

    def _applied(self, node: Node) -> str:
        """A function of values."""
        kind = self.bound.graph.nodes[node.args[-1]].type
        name, first = node.function, node.args[0]
        if name == "b8":
            return f"{self._text(first, 2)} != 0"
        if name in _TRITON:
            return f"{self._text(first, 9)}.to({_TRITON[name]})"
        if name in ("bf16", "f16"):
            short = "bfloat16" if name == "bf16" else "float16"
            return f"{self._text(first, 9)}.to(tl.{short}).to(tl.float32)"
        if name in _COMPARED:
            return f"{self._text(first, 2)} {OPERATORS[name]} {self._text(node.args[1], 2)}"
        if name in _INFIX:
            level = _precedence(node)
            return f"{self._text(first, level)} {_INFIX[name]} {self._text(node.args[1], level + 1)}"
        if name == "neg":
            return f"-{self._text(first, 7)}"
        if name == "bitnot":
            return f"{self._text(first, 2)} == 0" if kind == "b8" else f"~{self._text(first, 7)}"
        if name == "reciprocal":
            return f"1.0 / {self._text(first, 7)}"
        if name == "isnan":
            return f"{self._text(first)} != {self._text(first)}"
        if name == "isinf":
            return f'tl.abs({self._text(first)}) == float("inf")'
        if name == "sign":
            type = _TRITON[kind]
            return f"({self._text(first)} > 0).to({type}) - ({self._text(first)} < 0).to({type})"
        return self._called(node, kind)

    def _called(self, node: Node, kind: str) -> str:
        """A function that is written as a call."""
        name, args = node.function, ", ".join(map(self._typed, node.args))
        floating = kind in FLOATS
        if name == "where":
            return f"tl.where({args})"
        if name in ("maximum", "minimum"):
            return f"tl.{name}({args}{', propagate_nan=tl.PropagateNan.ALL' if floating else ''})"
        if name == "abs" or (floating and name in _CALLED):
            return f"tl.{name}({args})"
        own = (_OWN[kind].get(name) or _SHARED.get(name)) if floating else f"int_{name}"
        if own in ("int_floordiv", "int_remainder") or (floating and own is not None):
            return self._helper(own, args)
        if floating and name in _LIBDEVICE:
            return f"libdevice.{name}({', '.join(map(self._tensor, node.args))})"
        raise InternalError(f"{name} of {kind} has no Triton")


def _precedence(node: Node) -> int:
    """How strongly the text of a function binds, in Python's order: a call 9, a comparison 1."""
    name = node.function
    if name in (*_COMPARED, "isnan", "isinf", "b8") or (name == "bitnot" and node.type == "b8"):
        return 1
    levels = {"bitor": 2, "bitxor": 3, "bitand": 4, "add": 5, "sub": 5, "sign": 5, "mul": 6, "div": 6}
    return levels.get(name) or {"reciprocal": 6, "neg": 7, "bitnot": 7}.get(name, 9)


def _number(node: Node) -> str:
    value = node.number
    if node.type in FLOATS:
        if not math.isfinite(value):
            return 'float("nan")' if math.isnan(value) else 'float("inf")' if value > 0 else '-float("inf")'
        if node.type == "f32" and abs(value) > 3.4028235e38:
            return 'float("inf")' if value > 0 else '-float("inf")'
        return repr(float(value)) if repr(float(value))[0] != "-" else f"({float(value)!r})"
    if node.type == "b8":
        return str(bool(value))
    return str(int(value)) if value >= 0 else f"({int(value)})"
