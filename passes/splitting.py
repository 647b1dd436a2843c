"""Which steps to split, and how finely, so that their weights can be loaded part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from occ.ir import BufferKind, Choices, Program, Ref, SplitAxis, Step


def split_for(program: Program, target_nbytes: int) -> tuple[tuple[int, str, int], ...]:
    """Splits (step, axis, parts) of the unsplit `program`, in order of steps, after which no part reads more
    than `target_nbytes` bytes of a weight along the chosen axis, or as near to that as granules allow.

    Only steps with more than that are named. Only axes count that cut weights into contiguous rows; the one
    that cuts most bytes is taken, of equal ones the first. There are no more parts than grains.
    """
    grains = _grains(program)
    found = []
    for index, step in enumerate(program.steps):
        axes = weight_axes(program, step)
        if not axes:
            continue
        axis = axes[0]
        nbytes = sliced_nbytes(program, step, axis)
        if nbytes <= target_nbytes:
            continue
        granule_nbytes = -(-nbytes * min(axis.granule, axis.extent) // axis.extent)
        parts = -(-_granules(axis) // max(1, target_nbytes // granule_nbytes))
        most = _most_parts(program, grains, step, axis)
        if most > 1:
            found.append((index, axis.name, min(parts, most)))
    return tuple(found)


def finer(program: Program, choices: Choices, step: int) -> Choices | None:
    """The same choices with twice the parts of `step` of the unsplit program, at least a granule and a grain
    each; None where it cannot be split (further).

    A step that is whole so far is cut along the axis that cuts most weight bytes, if there is one. A gathered
    step is not split.
    """
    parts_of = {index: (axis, parts) for index, axis, parts in choices.splits}
    axes = weight_axes(program, program.steps[step])
    if step in choices.gathers:
        return None
    if step in parts_of:
        name, parts = parts_of[step]
        axis = next(a for a in program.steps[step].splits if a.name == name)
    elif axes:
        axis, parts = axes[0], 1
    else:
        return None
    most = _most_parts(program, _grains(program), program.steps[step], axis)
    if parts >= most:
        return None
    parts_of[step] = (axis.name, min(2 * parts, most))
    splits = tuple((index, *parts_of[index]) for index in sorted(parts_of))
    return replace(choices, splits=splits)


def weight_axes(program: Program, step: Step) -> tuple[SplitAxis, ...]:
    """The axes along which a step can be cut by itself so that its parts read parts of its weights, those
    that cut most bytes first."""
    nbytes = {axis: sliced_nbytes(program, step, axis) for axis in step.splits if not axis.windows}
    cutting = [axis for axis in nbytes if nbytes[axis] and _granules(axis) > 1]
    return tuple(sorted(cutting, key=lambda axis: -nbytes[axis]))


def sliced_nbytes(program: Program, step: Step, axis: SplitAxis) -> int:
    """Bytes of the step's weights that the axis cuts into contiguous rows; those read by row from the file
    do not count."""
    return sum(_sliced(program, step, axis).values())


def _sliced(program: Program, step: Step, axis: SplitAxis) -> dict[int, int]:
    """Bytes that the axis cuts into contiguous rows, by weight buffer."""
    operands = dict(step.args)
    found: dict[int, int] = {}
    for name, dim in axis.operands:
        operand = operands.get(name)
        if not isinstance(operand, Ref) or operand.value in step.stored:
            continue
        value = program.values[operand.value]
        outermost = value.strides[dim] == max(value.strides)
        if program.buffers[value.buffer].kind is BufferKind.WEIGHT and outermost:
            first, last = value.extent
            found[value.buffer] = found.get(value.buffer, 0) + last - first
    return found


def _grains(program: Program) -> Mapping[int, int]:
    """Grains by weight buffer."""
    return Counter(grain.weight for grain in program.grains)


def _most_parts(program: Program, grains: Mapping[int, int], step: Step, axis: SplitAxis) -> int:
    """Parts beyond which none reads fewer grains: one for each granule, or for each grain."""
    return min(_granules(axis), max(grains[weight] for weight in _sliced(program, step, axis)))


def _granules(axis: SplitAxis) -> int:
    return -(-axis.extent // axis.granule)
