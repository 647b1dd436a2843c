"""Whether data read from a file can be looked at at all: ids that exist, sizes that are sizes.

It says nothing about whether a plan is right (that is `occ.verify`); it makes sure that looking at it, and
printing it as a program, can do no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite

from occ.ir import DTYPE_NBYTES, Arg, Input, Output, Plan, Program, Symbol, refs_of

_FLOATS = tuple({"float": text} for text in ("inf", "-inf", "nan"))

_LIMIT = 1 << 56
"""Bytes, elements: more than any machine has, and sums of them stay exact in 64 bits."""

_SYMBOL = re.compile(
    r"aten\.\w+\.[A-Za-z]\w*"
    r"|torch\.ops\.[A-Za-z]\w*\._?[A-Za-z]\w*\.[A-Za-z]\w*"
    r"|torch\.(b?float|u?int|complex)\d+(_e\dm\d\w*)?|torch\.bool"
    r"|torch\.(strided|contiguous_format|preserve_format|channels_last|channels_last_3d)",
    re.ASCII,
)
"""What a compiled step may name: an operator with its overload, a type, a layout. It ends up in program text,
so nothing else may pass: `torch.load` would unpickle whatever a plan says."""

_OPERAND_NAME = re.compile(r"[A-Za-z_]\w*=?", re.ASCII)


def plan_problem(plan: Plan) -> str | None:
    """What is wrong with a plan's numbers, or None."""
    return next(_plan_problems(plan), None)


def program_problem(program: Program) -> str | None:
    """What is wrong with a program's numbers, or None."""
    return next(_program_problems(program), None)


def _program_problems(program: Program) -> Iterator[str]:
    if not all(_is_size(n) for n in (program.weights_nbytes, program.file_nbytes, program.activation_peak)):
        yield "a total is not a size"
    for position, buffer in enumerate(program.buffers):
        if buffer.id != position or not _is_size(buffer.nbytes):
            yield f"buffer {position} has id {buffer.id} and {buffer.nbytes} bytes"
    for position, value in enumerate(program.values):
        if value.id != position or not _is_id(value.buffer, program.buffers):
            yield f"value {position} has id {value.id} and buffer {value.buffer}"
        elif value.dtype not in DTYPE_NBYTES:
            yield f"value {position} has dtype {value.dtype!r}"
        elif len(value.shape) != len(value.strides) or not all(
            _is_size(n) for n in (value.offset, *value.shape, *value.strides)
        ):
            yield f"value {position} has shape {value.shape}, strides {value.strides}, offset {value.offset}"
        elif not _is_size(value.extent[1]):
            yield f"value {position} is larger than any memory"
        elif value.packing is not None and (
            value.packing.dtype not in DTYPE_NBYTES or not all(map(_is_size, value.packing.shape))
        ):
            yield f"value {position} is packed {value.packing.dtype!r} of shape {value.packing.shape}"
    for position, step in enumerate(program.steps):
        ids = [ref.value for _, arg in step.args for ref in refs_of(arg)]
        for id in (*ids, *step.outs, *step.scratch, *step.stored):
            if not _is_id(id, program.values):
                yield f"step {position} uses value {id}"
        for name, arg in step.args:
            if not _OPERAND_NAME.fullmatch(name):
                yield f"step {position} has an operand called {name!r}"
            for symbol in _symbols(arg):
                if not _SYMBOL.fullmatch(symbol.text):
                    yield f"step {position} has the operand {symbol.text!r}, which no compiled step has"
    ends: tuple[Input | Output, ...] = (*program.inputs, *program.outputs)
    for entry in ends:
        if not _is_id(entry.value, program.values):
            yield f"input or output {entry.name!r} is value {entry.value}"
    for state in program.states:
        if not _is_id(state.buffer, program.buffers) or not _is_size(state.file_offset or 0):
            yield f"state {state.name!r} is buffer {state.buffer} at {state.file_offset}"
    for position, grain in enumerate(program.grains):
        if not _is_id(grain.weight, program.buffers) or not all(
            _is_size(n) for n in (grain.first, grain.nbytes, grain.file_offset)
        ):
            yield f"grain {position} is {grain}"
    if not _is_tree(program.input_tree, len(program.inputs)) or not _is_signature(program.input_tree):
        yield "the tree of the inputs is none"
    if not _is_tree(program.output_tree, len(program.outputs)):
        yield "the tree of the outputs is none"


def _plan_problems(plan: Plan) -> Iterator[str]:
    yield from _program_problems(plan.program)
    program, sizing, budget = plan.program, plan.sizing, plan.budget
    for position, tile in enumerate(sizing.tiles):
        grains = 0 <= tile.first_grain < tile.last_grain <= len(program.grains)
        if tile.id != position or not grains or not _is_size(tile.file_offset) or not _is_size(tile.nbytes):
            yield f"tile {position} is {tile}"
    for id in (*sizing.resident, *(load.tile for load in sizing.loads)):
        if not _is_id(id, sizing.tiles):
            yield f"tile {id} is loaded and does not exist"
    for load in sizing.loads:
        if not (0 <= load.deadline <= load.last_use < len(program.steps) and load.issue >= 0):
            yield f"a load is {load}"
    for buffer, offset in plan.buffer_offsets:
        if not _is_id(buffer, program.buffers) or not _is_size(offset):
            yield f"buffer {buffer} has offset {offset}"
    if len(plan.tile_offsets) != len(sizing.tiles) or not all(map(_is_size, plan.tile_offsets)):
        yield f"{len(plan.tile_offsets)} offsets for {len(sizing.tiles)} tiles"
    if len(plan.costs) != len(program.steps):
        yield f"{len(plan.costs)} costs for {len(program.steps)} steps"
    parts = (
        budget.limit or 0,
        budget.arena,
        budget.outputs,
        budget.loader,
        budget.workspace,
        budget.process,
        budget.process_limit or 0,
        budget.host,
        budget.host_limit or 0,
        budget.context,
        plan.machine.ring_nbytes,
        plan.machine.cublas_workspace_nbytes,
    )
    if not all(map(_is_size, (*parts, sizing.pool_nbytes))):
        yield f"the budget is {budget}"
    if plan.machine.threads < 1 or not re.fullmatch(r"default|passive|[0-9]+", plan.machine.spin):
        yield f"the machine is {plan.machine}"
    reader = plan.reader
    delays = (reader.overhead, reader.interruption, reader.lag, reader.response)
    if not (
        all(map(isfinite, (reader.bandwidth, reader.slowdown, *delays)))
        and reader.bandwidth > 0.0
        and reader.slowdown >= 1.0
        and min(*delays, reader.request_nbytes) >= 0.0
    ):
        yield f"the reader is {reader}"


def _is_size(number: int) -> bool:
    return 0 <= number < _LIMIT


def _is_id(number: int, items: tuple[object, ...]) -> bool:
    return 0 <= number < len(items)


def _symbols(arg: Arg) -> Iterator[Symbol]:
    if isinstance(arg, Symbol):
        yield arg
    elif isinstance(arg, tuple):
        for item in arg:
            yield from _symbols(item)


def _is_signature(tree: object) -> bool:
    """Whether a tree is {"tuple": [{"tuple": positional arguments}, {"dict": keyword arguments}]}."""
    parts = tree.get("tuple") if isinstance(tree, dict) else None
    return (
        isinstance(parts, list)
        and len(parts) == 2
        and set(parts[0]) == {"tuple"}
        and set(parts[1]) == {"dict"}
    )


def _is_tree(tree: object, count: int) -> bool:
    if not isinstance(tree, dict) or len(tree) != 1:
        return False
    [(kind, content)] = tree.items()
    if kind == "constant":
        return not isinstance(content, (list, dict)) or content in _FLOATS
    if kind == "tensor":
        return type(content) is int and 0 <= content < count
    if not isinstance(content, list):
        return False
    if kind == "dict":
        return all(
            isinstance(entry, list)
            and len(entry) == 2
            and isinstance(entry[0], (str, int, float, bool, type(None)))
            and _is_tree(entry[1], count)
            for entry in content
        )
    return kind in ("tuple", "list") and all(_is_tree(part, count) for part in content)
