"""Which steps to split, and how finely, so that their weights can be loaded part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from occ.errors import InternalError
from occ.ir import BufferKind, Choices, Program, Ref, SplitAxis, Step


def split_for(program: Program, target_nbytes: int) -> tuple[tuple[int, str, int], ...]:
    """Splits (step, axis, parts) of the unsplit `program`, in order of steps, after which no part reads more
    than `target_nbytes` bytes of a weight along the chosen axis, or as near to that as granules allow.

    Only steps with more than that are named. Only axes count that cut weights into contiguous rows; the one
    that cuts most bytes is taken, of equal ones the first.
    """
    found = []
    for index, step in enumerate(program.steps):
        axis = max(step.splits, key=lambda a: sliced_nbytes(program, step, a), default=None)
        if axis is None:
            continue
        nbytes = sliced_nbytes(program, step, axis)
        granules = _granules(axis)
        if nbytes <= target_nbytes or granules < 2:
            continue
        granule_nbytes = -(-nbytes * min(axis.granule, axis.extent) // axis.extent)
        parts = -(-granules // max(1, target_nbytes // granule_nbytes))
        found.append((index, axis.name, parts))
    return tuple(found)


def finer(program: Program, choices: Choices, step: int) -> Choices | None:
    """The same choices with twice the parts of `step` of the unsplit program, at most one granule each; None
    where it cannot be split (further).

    A step that is whole so far is cut along the axis that cuts most weight bytes, or its first one where no
    axis cuts weights. A gathered step is not split.
    """
    parts_of = {index: (axis, parts) for index, axis, parts in choices.splits}
    axes = program.steps[step].splits
    if not axes or step in choices.gathers:
        return None
    if step in parts_of:
        name, parts = parts_of[step]
        axis = next(a for a in axes if a.name == name)
    else:
        axis = max(axes, key=lambda a: sliced_nbytes(program, program.steps[step], a))
        parts = 1
    if parts >= _granules(axis):
        return None
    parts_of[step] = (axis.name, min(2 * parts, _granules(axis)))
    splits = tuple((index, *parts_of[index]) for index in sorted(parts_of))
    return replace(choices, splits=splits)


def origins(program: Program, rewritten: Sequence[Step], choices: Choices) -> tuple[int, ...]:
    """For every step of the rewritten program the step of the unsplit `program` that it came from.

    A split step becomes a run of steps whose names are its own with `[part/parts]` after it, in ascending
    parts. Raises InternalError where the steps do not follow each other like that.
    """
    parts_of = {index: parts for index, _, parts in choices.splits if parts > 1}
    found: list[int] = []
    for index, step in enumerate(program.steps):
        if index not in parts_of:
            found.append(index)
            continue
        for part in range(1, parts_of[index] + 1):
            prefix = f"{step.name}[{part}/{parts_of[index]}]"
            before = len(found)
            while len(found) < len(rewritten) and rewritten[len(found)].name.startswith(prefix):
                found.append(index)
            if len(found) == before:
                raise InternalError(f"the rewritten program lacks {prefix} at step {before}")
    if len(found) != len(rewritten):
        raise InternalError(f"{len(rewritten)} rewritten steps, but the choices make {len(found)}")
    return tuple(found)


def sliced_nbytes(program: Program, step: Step, axis: SplitAxis) -> int:
    """Bytes of the step's weights that the axis cuts into contiguous rows; those read by row from the file
    do not count."""
    operands = dict(step.args)
    nbytes = 0
    for name, dim in axis.operands:
        operand = operands.get(name)
        if not isinstance(operand, Ref) or operand.value in step.stored:
            continue
        value = program.values[operand.value]
        outermost = value.strides[dim] == max(value.strides)
        if program.buffers[value.buffer].kind is BufferKind.WEIGHT and outermost:
            first, last = value.extent
            nbytes += last - first
    return nbytes


def _granules(axis: SplitAxis) -> int:
    return -(-axis.extent // axis.granule)
