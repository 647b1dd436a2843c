"""Products of rows with matrices that data chooses, as in mixtures of experts.

Rows of one expert follow each other. So each matrix that is asked for is read once, and those of the others
are not read at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .arena import Arena
from .gather import page_span
from .jobs import PAGE, Checked, Job, MatrixJob, Piece, Table, pieces_of
from .storage import WeightFile


class ReadsSoon(Protocol):
    """A loader that can be asked to read before everything else, while something is computed."""

    def read_soon(self, job: Job, pieces: Sequence[Piece]) -> None:
        """Ask for `pieces`, all of `job`; returns at once."""

    def arrived(self, job: Job) -> None:
        """Return when all of `job` is there."""


def grouped_product(input: Tensor, weight: Tensor, experts: Tensor, out: Tensor) -> None:
    """`out[i] = input[i] @ weight[experts[i]]`: [rows, k], [count, k, n], [rows] -> [rows, n]. A row of an
    expert that is none of them becomes zero."""
    for expert, first, end in _known(experts, weight.shape[0], out):
        torch.mm(input[first:end], weight[expert], out=out[first:end])


def stored_product(
    loader: ReadsSoon,
    arena: Arena,
    file: WeightFile,
    table: Table,
    checked: Checked,
    input: Tensor,
    experts: Tensor,
    matrix: Sequence[int],
    strides: Sequence[int],
    scratch: Tensor,
    out: Tensor,
) -> None:
    """The same with matrices that are rows of `table`, of shape `matrix` and `strides` each.

    They are read into the whole pages of `scratch` (a view of the arena), which has room for two where there
    can be two: one is read while the one before is multiplied. Raises DamageError.
    """
    wanted = list(_known(experts, table.rows, out))
    slots = max(1, min(2, input.shape[0], table.rows))
    begin = scratch.data_ptr() - arena.address
    first_slot = -(-begin // PAGE) * PAGE
    slot_nbytes = (begin + scratch.nbytes - first_slot) // slots // PAGE * PAGE

    def ask(number: int) -> tuple[Job, int]:
        """Begin to read a matrix; the job and the address where the matrix will be."""
        row = wanted[number][0]
        span_begin, span_end = page_span(table, row)
        if span_end - span_begin > slot_nbytes:
            raise ValueError(
                f"a matrix of table {table.name!r} takes {span_end - span_begin} bytes of pages; its scratch"
                f" has {slot_nbytes}"
            )
        place = first_slot + number % slots * slot_nbytes
        job = MatrixJob(table=table, file=file, row=row, checked=checked)
        loader.read_soon(job, pieces_of(job, span_begin, place, span_end - span_begin))
        return job, place + table.file_offset + row * table.row_nbytes - span_begin

    reading = deque(ask(number) for number in range(min(slots, len(wanted))))
    for number, (_, first, end) in enumerate(wanted):
        job, address = reading.popleft()
        loader.arrived(job)
        weight = arena.view(address, input.dtype, tuple(matrix), tuple(strides))
        torch.mm(input[first:end], weight, out=out[first:end])
        if number + slots < len(wanted):
            reading.append(ask(number + slots))


def _known(experts: Tensor, count: int, out: Tensor) -> Iterator[tuple[int, int, int]]:
    """Each expert below `count` with the rows that are its own, half-open. The others' rows of `out` are made
    zero."""
    for expert, first, end in _runs(experts):
        if expert < count:
            yield expert, first, end
        else:
            out[first:end].zero_()


def _runs(experts: Tensor) -> Iterator[tuple[int, int, int]]:
    """Each expert with its rows, half-open."""
    numbers: list[int] = experts.tolist()
    first = 0
    for row, expert in enumerate(numbers):
        if expert != numbers[first]:
            yield numbers[first], first, row
            first = row
    if numbers:
        yield numbers[first], first, len(numbers)
