"""What steps cost that read rows of a table from the file."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from occ.gathers import GROUPED_PRODUCT, STORED_PRODUCT, matrices_asked, operand
from occ.ir import Buffer, BufferKind, Program, Ref, Step, StepCost
from occ.target import Target, rounded
from occ.units import PAGE, WORKSPACE_GRAIN, round_up

GATHER_ROW_NBYTES = 512
"""Bytes of lists and dictionaries that a gather keeps per row."""


def gather_cost(program: Program, step: Step, target: Target) -> StepCost:
    """What reading rows from the file takes by the profile."""
    nbytes = gathered_nbytes(program, step)
    return cost_of_rows(program, step, target, nbytes / target.bandwidth)


def gathered_nbytes(program: Program, step: Step) -> int:
    """Bytes of the rows that a gather results in."""
    return sum(program.values[out].extent[1] - program.values[out].extent[0] for out in step.outs)


def cost_of_rows(program: Program, step: Step, target: Target, passing_on: float) -> StepCost:
    """What a gather takes that passes the rows' bytes on in `passing_on` seconds: one request a row.

    It counts every index as a row of its own, the worst case.
    """
    rows = prod(operand(program, step, "indices").shape)
    seconds = rows * target.reader.seconds(PAGE) + passing_on
    return StepCost(rounded(seconds, 3), round_up(rows * GATHER_ROW_NBYTES, WORKSPACE_GRAIN))


def with_one_matrix(program: Program, step: Step) -> tuple[Program, Step]:
    """A product whose matrices stay in the file as one of all its rows with a single matrix in memory, in a
    program that has one: that can be measured."""
    matrices = operand(program, step, "weight")
    buffer, id = len(program.buffers), len(program.values)
    value = replace(matrices, id=id, buffer=buffer, offset=0, shape=(1, *matrices.shape[1:]))
    one = Buffer(buffer, matrices.name, BufferKind.WEIGHT, value.extent[1])
    args = dict(step.args)
    return (
        replace(program, buffers=(*program.buffers, one), values=(*program.values, value)),
        replace(
            step,
            kernel=GROUPED_PRODUCT,
            args=(("input", args["input"]), ("weight", Ref(id)), ("experts", args["experts"])),
            scratch=(),
            stored=(),
        ),
    )


def product_cost(program: Program, step: Step, one: StepCost, target: Target) -> StepCost:
    """What a product with matrices that data chooses takes, if all its rows with a single matrix take `one`,
    which is what measuring made-up numbers comes to.

    It counts every row as one of a matrix of its own, as long as there are so many, the worst case. Each is
    read from memory, or from the file while the one before is multiplied.
    """
    count, nbytes = matrices_asked(program, step)
    computing = max(one.seconds, count * nbytes / target.memory_rate)
    if step.kernel != STORED_PRODUCT or not count:
        return replace(one, seconds=rounded(computing, 3))
    reader = target.reader
    requests = -(-nbytes // reader.request_nbytes)
    reading = count * (requests * reader.overhead + nbytes / reader.bandwidth)
    computing *= one.slowdown or reader.slowdown
    seconds = max(reading, computing) + min(reading, computing) / count + reader.response
    return StepCost(rounded(seconds, 3), one.workspace, 1.0)
