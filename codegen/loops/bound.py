"""A loop over tensors of certain layouts: what every target language renders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from occ.codegen.loops.functions import COMPUTED, FUNCTIONS
from occ.codegen.loops.graph import Graph, Kind, Pass, build, passes_of
from occ.codegen.loops.ir import Loop
from occ.codegen.loops.space import Space, full_shape, space_of
from occ.codegen.specs import Spec
from occ.errors import InternalError


@dataclass(frozen=True, slots=True)
class BoundLoop:
    """`operands` and `results` broadcast to the shape that `space` runs over."""

    loop: Loop
    operands: tuple[Spec, ...]
    results: tuple[Spec, ...]
    graph: Graph
    space: Space
    passes: tuple[Pass, ...]

    @property
    def elements(self) -> int:
        """How many elements the loop runs over in one pass."""
        return self.space.rows * self.space.row_elements

    @property
    def work(self) -> int:
        """Additions that the loop takes (see `functions.Function.cost`); loads and stores are one each."""
        inside = sum(self._cost(id) for one in self.passes for id in one.computed)
        inside += sum(len((*one.kept, *one.read, *one.stored, *one.reduced)) for one in self.passes)
        outside = sum(self._cost(node.id) for node in self.graph.nodes if not node.varies)
        return inside * self.elements + outside * self.space.rows

    def may_overwrite(self, operand: int, result: int) -> bool:
        """Whether a result may lie in the bytes of an operand of its shape and layout: no pass after the one
        that stores it loads the operand."""
        loading = [
            index
            for index, one in enumerate(self.passes)
            if any(self.graph.nodes[id].operand == operand for id in one.computed)
        ]
        storing = [index for index, one in enumerate(self.passes) if result in one.stored]
        # What does not vary within rows is loaded before the first pass and stored after the last.
        return not loading or not storing or loading[-1] <= storing[0]

    def _cost(self, id: int) -> int:
        node = self.graph.nodes[id]
        if node.kind is Kind.NUMBER:
            return 0
        return FUNCTIONS[node.function].cost if node.kind is Kind.APPLY else 1


def bind(loop: Loop, operands: Sequence[Spec], results: Sequence[Spec]) -> BoundLoop:
    """The loop over tensors of these layouts. Raises InternalError where it does not fit them."""
    return _bound(loop, tuple(operands), tuple(results))


@lru_cache(maxsize=1 << 12)
def _bound(loop: Loop, operands: tuple[Spec, ...], results: tuple[Spec, ...]) -> BoundLoop:
    if len(results) != loop.results or loop.operands > len(operands):
        raise InternalError(
            f"a loop of {loop.operands} operands and {loop.results} results has {len(operands)} and"
            f" {len(results)}: {loop.text[:60]}"
        )
    tensors = (*operands, *results)
    shape = full_shape(tensors)
    split = len(shape) - loop.row
    if split < 0:
        raise InternalError(f"a loop over rows of {loop.row} dimensions runs over {shape}")
    inside = [not loop.row or any(size != 1 for size in _last(spec.shape, loop.row)) for spec in tensors]
    for spec, varies in zip(results, inside[len(operands) :], strict=True):
        # In rows of one element, a result of one element for each is both.
        if spec.shape not in ((shape,) if varies else (shape, (*shape[:split], *(1,) * loop.row))):
            raise InternalError(f"a result of shape {spec.shape} in a loop over {shape}")
    spanning = [index for index, spec in enumerate(tensors) if spec.shape == shape]
    if not spanning:
        raise InternalError(f"no tensor spans {shape}")
    types = tuple(COMPUTED.get(spec.dtype, spec.dtype) for spec in operands)
    graph = build(loop, types, tuple(inside[: len(operands)]))
    for id, spec in zip(graph.results, results, strict=True):
        if graph.nodes[id].type != COMPUTED.get(spec.dtype):
            raise InternalError(f"a result is {graph.nodes[id].type} and stored as {spec.dtype}")
    for id, varies in zip(graph.results, inside[len(operands) :], strict=True):
        if graph.nodes[id].varies and not varies:
            raise InternalError(f"a result for each row differs within rows: {loop.text[:60]}")
    space = space_of(tensors, loop.row, spanning[-1])
    exact = tuple(spec.dtype not in ("bfloat16", "float16") for spec in results)
    passes = passes_of(graph, space.row_elements, tuple(inside[len(operands) :]), exact)
    return BoundLoop(loop, operands, results, graph, space, passes)


def _last(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    return shape[max(len(shape) - count, 0) :] if count else ()
