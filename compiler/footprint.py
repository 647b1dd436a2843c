"""What a process takes besides its program's budget: the interpreter, torch, the program's own objects.

It is measured once for a target, in a process that does what `python model.occ` does, and is part of the
target profile, so that a budget for a whole process can be planned for another machine too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from occ.child import Child, ChildError
from occ.errors import InternalError
from occ.ir import BufferKind, Footprint, Program, Step
from occ.units import round_up

SECONDS = 120.0
"""How long measuring may take; it takes about three seconds."""

PROCESS_GRAIN = 1 << 20
"""Bytes; the process is rounded up to multiples, so that most measurements give the same number."""

OBJECT_GRAIN = 256
"""Bytes; what a step and a shape take are rounded up to multiples."""


def measured_footprint(settings: Mapping[str, str | None]) -> Footprint:
    """Measure this machine in a process with `settings` in its environment. Raises InternalError."""
    try:
        with Child("occ.footprint_child", settings) as child:
            found = child.ask({}, SECONDS)
    except ChildError as error:
        raise InternalError(f"the process that measures the memory of a process {error}") from error
    return Footprint(
        process=round_up(int(found["process"]), PROCESS_GRAIN),
        step=round_up(int(found["step"]), OBJECT_GRAIN),
        shape=round_up(int(found["shape"]), OBJECT_GRAIN),
    )


def process_nbytes(program: Program, footprint: Footprint) -> int:
    """Bytes that the process of a rewritten program takes besides the program's budget."""
    shapes = {_form(program, step) for step in program.steps if _multiplies(program, step)}
    return footprint.process + footprint.step * len(program.steps) + footprint.shape * len(shapes)


def _multiplies(program: Program, step: Step) -> bool:
    """Whether a step reads a matrix of weights: a product or a convolution."""
    values = [program.values[id] for id in step.reads]
    weights = [value for value in values if program.buffers[value.buffer].kind is BufferKind.WEIGHT]
    return any(value.packing is not None or len(value.shape) > 1 for value in weights)


def _form(program: Program, step: Step) -> tuple[Any, ...]:
    """What decides which code oneDNN makes for a step: its kernel, and types, shapes and strides."""
    values = (program.values[id] for id in (*step.reads, *step.outs))
    return (step.kernel, *((value.dtype, value.shape, value.strides, value.packing) for value in values))
