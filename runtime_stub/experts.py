"""Products of rows with matrices that data chooses, as in mixtures of experts.

Rows of one expert follow each other. So each matrix that is asked for is read once, and those of the others
are not read at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    _multiply(input, experts, weight.shape[0], weight.__getitem__, out)


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
    slots = max(1, min(2, input.shape[0], table.rows))
    begin = scratch.data_ptr() - arena.address
    first = -(-begin // PAGE) * PAGE
    slot_nbytes = (begin + scratch.nbytes - first) // slots // PAGE * PAGE
    wanted = [expert for expert, _, _ in _runs(experts) if expert < table.rows]

    def ask(number: int) -> tuple[MatrixJob, int]:
        row = wanted[number]
        job = MatrixJob(table=table, file=file, row=row, checked=checked)
        span = page_span(table, row)
        place = first + number % slots * slot_nbytes
        if span[1] - span[0] > slot_nbytes:
            raise ValueError(
                f"a matrix of table {table.name!r} takes {span[1] - span[0]} bytes of pages; its scratch has"
                f" {slot_nbytes}"
            )
        loader.read_soon(job, pieces_of(job, span[0], place, span[1] - span[0]))
        return job, place + table.file_offset + row * table.row_nbytes - span[0]

    def matrices() -> Iterator[Tensor]:
        asked = ask(0) if wanted else None
        for number in range(len(wanted)):
            assert asked is not None
            job, address = asked
            following = number + 1 < len(wanted)
            if following and slots > 1:
                asked = ask(number + 1)
            loader.arrived(job)
            yield arena.view(address, input.dtype, tuple(matrix), tuple(strides))
            if following and slots == 1:
                asked = ask(number + 1)

    found = matrices()
    _multiply(input, experts, table.rows, lambda expert: next(found), out)


def _multiply(
    input: Tensor, experts: Tensor, count: int, matrix_of: Callable[[int], Tensor], out: Tensor
) -> None:
    for expert, first, end in _runs(experts):
        if expert < count:
            torch.mm(input[first:end], matrix_of(expert), out=out[first:end])
        else:
            out[first:end].zero_()


def _runs(experts: Tensor) -> Iterator[tuple[int, int, int]]:
    """Each expert with the rows that are its own, half-open."""
    numbers: list[int] = experts.tolist()
    first = 0
    for row, expert in enumerate(numbers):
        if expert != numbers[first]:
            yield numbers[first], first, row
            first = row
    if numbers:
        yield numbers[first], first, len(numbers)
