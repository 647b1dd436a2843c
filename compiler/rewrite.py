"""Applies the choices to the unsplit program: order, bands, operator splits and gathers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from occ.bands import band_steps
from occ.errors import InternalError
from occ.gathers import (
    BY_ROW,
    GATHER_ROWS,
    GROUPED_PRODUCT,
    STORED_PRODUCT,
    gather_row_nbytes,
    operand_ref,
)
from occ.ir import Choices, Program, Ref, Step, weight_file_offsets
from occ.parts import Memory, axis_of, split
from occ.passes.banding import Band, Uses, band_of
from occ.passes.ordering import ordered_steps


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A rewritten program, and for each of its steps the step of the unsplit program that it comes from."""

    program: Program
    origins: tuple[int, ...]


def rewrite(program: Program, choices: Choices) -> Program:
    """The program with its steps in the chosen order, the chosen bands and steps cut into parts, and the
    chosen embeddings read by row from the file.

    Ids of existing buffers and values stay; new ones are appended. Steps that no choice names stay as they
    are. Raises InternalError for a choice that the program does not offer.
    """
    return rewritten(program, choices).program


def rewritten(program: Program, choices: Choices) -> Rewritten:
    """What `rewrite` makes, and where its steps come from."""
    return _Rewriting(program, choices).result()


def origins(program: Program, choices: Choices) -> tuple[int, ...]:
    """For every step of the rewritten program the step of the unsplit `program` that it comes from."""
    return rewritten(program, choices).origins


class _Rewriting:
    def __init__(self, program: Program, choices: Choices) -> None:
        self._program = program
        self._gathers = frozenset(choices.gathers)
        self._splits = _splits_of(program, choices)
        self._order = ordered_steps(program, choices.order)
        self._bands = _bands_of(program, choices, self._order)
        self._file_offsets = weight_file_offsets(program)
        self._memory = Memory(list(program.buffers), list(program.values))

    def result(self) -> Rewritten:
        found: list[tuple[int, Step]] = []
        banded = {cut.step for band in self._bands.values() for cut in band.cuts}
        for index in self._order:
            if (band := self._bands.get(index)) is not None:
                found += band_steps(self._memory, self._program, band, self._finished)
            elif index not in banded:
                found += [(index, step) for step in self._finished(index, self._program.steps[index])]
        program = replace(
            self._program,
            buffers=tuple(self._memory.buffers),
            values=tuple(self._memory.values),
            steps=tuple(step for _, step in found),
        )
        return Rewritten(program, tuple(index for index, _ in found))

    def _finished(self, index: int, step: Step) -> list[Step]:
        """The steps that a step, or a part of it in a band, becomes by the choices for it alone."""
        if index in self._splits:
            axis_name, parts = self._splits[index]
            return split(self._memory, step, axis_of(self._program.steps[index], axis_name, parts), parts)
        if index in self._gathers:
            stored = _multiply if step.kernel == GROUPED_PRODUCT else _gather
            return [stored(self._memory, step, self._file_offsets)]
        return [_in_memory(step)] if step.stored else [step]


def _splits_of(program: Program, choices: Choices) -> dict[int, tuple[str, int]]:
    splits: dict[int, tuple[str, int]] = {}
    for index, axis, parts in choices.splits:
        if not 0 <= index < len(program.steps) or index in splits or index in choices.gathers:
            raise InternalError(
                f"the choice to split step {index} along {axis} names a step that is chosen twice or is not "
                f"among the program's {len(program.steps)}"
            )
        splits[index] = (axis, parts)
    for index in choices.gathers:
        if not 0 <= index < len(program.steps) or program.steps[index].kernel not in BY_ROW:
            raise InternalError(f"the choice to gather step {index} names a step that reads no rows")
    return splits


def _bands_of(program: Program, choices: Choices, order: tuple[int, ...]) -> dict[int, Band]:
    """The chosen bands by the first step of each."""
    if not choices.bands:
        return {}
    uses = Uses.of(program)
    places = {step: place for place, step in enumerate(order)}
    splits = {index: axis for index, axis, _ in choices.splits}
    found: dict[int, Band] = {}
    taken: set[int] = set()
    for first, last, axis, parts in choices.bands:
        where = (places.get(first), places.get(last))
        if where[0] is None or where[1] is None or where[0] > where[1]:
            raise InternalError(f"a band from step {first} to step {last} is none in this order")
        steps = order[where[0] : where[1] + 1]
        if taken.intersection(steps):
            raise InternalError(f"the band from step {first} to step {last} overlaps another one")
        taken.update(steps)
        if splits.get(last) == axis:
            raise InternalError(f"step {last} is split along {axis}, and so is the band that it ends")
        found[first] = band_of(program, uses, steps, axis, parts, splits)
    return found


def _in_memory(step: Step) -> Step:
    """A lookup in the copy of its table that is in memory, that of the file left aside."""
    args = tuple((name, arg) for name, arg in step.args if name != "weight")
    return replace(step, args=args, stored=())


def _gather(memory: Memory, step: Step, file_offsets: dict[int, int]) -> Step:
    """A lookup as one that reads the rows from the file."""
    weight, indices = operand_ref(step, "weight"), operand_ref(step, "indices")
    rows = min(prod(memory.values[indices.value].shape), GATHER_ROWS)
    return replace(
        step,
        kernel="gather",
        args=(("weight", weight), ("indices", indices)),
        scratch=(*step.scratch, _rows_of(memory, step, weight, rows, file_offsets)),
        stored=(weight.value,),
        splits=(),
    )


def _multiply(memory: Memory, step: Step, file_offsets: dict[int, int]) -> Step:
    """A product with matrices that data chooses as one that reads those from the file: one while the one
    before is multiplied."""
    weight, given = operand_ref(step, "weight"), operand_ref(step, "input")
    count, *matrix = memory.values[weight.value].shape
    slots = max(1, min(2, count, memory.values[given.value].shape[0]))
    return replace(
        step,
        kernel=STORED_PRODUCT,
        args=(
            *step.args,
            ("matrix", tuple(matrix)),
            ("strides", tuple(memory.values[weight.value].strides[1:])),
        ),
        scratch=(*step.scratch, _rows_of(memory, step, weight, slots, file_offsets)),
        stored=(weight.value,),
        splits=(),
    )


def _rows_of(memory: Memory, step: Step, weight: Ref, rows: int, file_offsets: dict[int, int]) -> int:
    """Scratch for so many rows of a table, in the whole pages that hold each."""
    table = memory.values[weight.value]
    if table.buffer not in file_offsets:
        raise InternalError(f"step {step.name} reads {table.name}, which is not in the file")
    row = replace(table, shape=(1, *table.shape[1:])).extent
    row_nbytes = gather_row_nbytes(
        row[1] - row[0], table.strides[0] * table.itemsize, file_offsets[table.buffer] + table.offset
    )
    nbytes, name = rows * row_nbytes, f"{step.name}.rows"
    return memory.value(name, memory.scratch(name, nbytes), 0, "uint8", (nbytes,), (1,))
