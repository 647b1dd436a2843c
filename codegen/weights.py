"""The weight part of an artifact: every grain at its file offset, page-padded, from byte 0."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

from occ.errors import InternalError
from occ.ir import Program

WeightBytes = Callable[[int], memoryview]
"""The bytes of a weight buffer, or of a state with an initial value, by buffer id."""

Advance = Callable[[int], None]
"""Called with so many bytes more that were done."""

Read = Callable[[memoryview, int], None]
"""Fills memory with the bytes of a weight part from an offset on."""


class WeightPart:
    """The weight part of a program whose weights are in memory: `program.file_nbytes` bytes; gaps are zeros.

    Raises InternalError where two pieces overlap, or reach beyond the end.
    """

    def __init__(self, program: Program, weights: WeightBytes) -> None:
        self._program = program
        self._weights = weights
        spans = [(grain.file_offset, grain.weight, grain.first, grain.nbytes) for grain in program.grains]
        spans += [
            (state.file_offset, state.buffer, 0, program.buffers[state.buffer].nbytes)
            for state in program.states
            if state.file_offset is not None
        ]
        self._pieces = sorted(span for span in spans if span[3])
        self._begins = [file_offset for file_offset, _, _, _ in self._pieces]
        position = 0
        for file_offset, buffer, _, nbytes in self._pieces:
            if file_offset < position:
                name = program.buffers[buffer].name
                raise InternalError(
                    f"{name!r} begins at byte {file_offset} of the file, before byte {position}"
                )
            position = file_offset + nbytes
        if position > program.file_nbytes:
            raise InternalError(f"the weights take {position} bytes, not {program.file_nbytes}")

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from `offset` on. Raises InternalError for a weight that has another size than its
        buffer."""
        end = offset + len(into)
        position = offset
        start = max(0, bisect_right(self._begins, offset) - 1)
        for file_offset, buffer, first, nbytes in self._pieces[start : bisect_left(self._begins, end)]:
            begin, until = max(file_offset, offset), min(file_offset + nbytes, end)
            if begin >= until:
                continue
            data = self._weights(buffer).cast("B")
            if data.nbytes < first + nbytes:
                raise InternalError(
                    f"weight {self._program.buffers[buffer].name!r} has {data.nbytes} bytes,"
                    f" not {first + nbytes}"
                )
            _clear(into[position - offset : begin - offset])
            piece = data[first : first + nbytes]
            into[begin - offset : until - offset] = piece[begin - file_offset : until - file_offset]
            position = until
        _clear(into[position - offset :])


def _clear(memory: memoryview) -> None:
    memory[:] = bytes(len(memory))
