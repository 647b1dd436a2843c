"""The weight part of an artifact: every grain at its file offset, page-padded, from byte 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from occ.errors import InternalError
from occ.ir import Program

WeightBytes = Callable[[int], memoryview]
"""The bytes of a weight buffer, or of a state with an initial value, by buffer id."""

Advance = Callable[[int], None]
"""Called with so many bytes more that were written."""

_ZEROS = memoryview(bytes(1 << 16))


def weight_pieces(program: Program, weights: WeightBytes) -> Iterator[memoryview]:
    """The weight part in file order, `program.file_nbytes` bytes in all; gaps are zeros.

    Nothing is copied. Raises InternalError where two pieces overlap or a weight has another size than its
    buffer.
    """
    spans = [(grain.file_offset, grain.weight, grain.first, grain.nbytes) for grain in program.grains]
    spans += [
        (state.file_offset, state.buffer, 0, program.buffers[state.buffer].nbytes)
        for state in program.states
        if state.file_offset is not None
    ]
    position = 0
    for file_offset, buffer, first, nbytes in sorted(span for span in spans if span[3]):
        if file_offset < position:
            name = program.buffers[buffer].name
            raise InternalError(f"{name!r} begins at byte {file_offset} of the file, before byte {position}")
        yield from _zeros(file_offset - position)
        data = weights(buffer).cast("B")
        if data.nbytes < first + nbytes:
            raise InternalError(
                f"weight {program.buffers[buffer].name!r} has {data.nbytes} bytes, not {first + nbytes}"
            )
        yield data[first : first + nbytes]
        position = file_offset + nbytes
    if position > program.file_nbytes:
        raise InternalError(f"the weights take {position} bytes, not {program.file_nbytes}")
    yield from _zeros(program.file_nbytes - position)


def write_weights(
    file: BinaryIO, program: Program, weights: WeightBytes, advance: Advance = lambda nbytes: None
) -> None:
    """Write the weight part to `file`, at its current position; `advance` gets the bytes of every piece."""
    for piece in weight_pieces(program, weights):
        file.write(piece)
        advance(piece.nbytes)


def _zeros(nbytes: int) -> Iterator[memoryview]:
    while nbytes > 0:
        yield _ZEROS[:nbytes]
        nbytes -= len(_ZEROS[:nbytes])
