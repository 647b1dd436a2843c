"""Live ranges and what follows from them, against small programs and against their definitions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from occ.errors import InternalError
from occ.ir import ARENA_KINDS, BufferKind, LiveRange, Program, Ref
from occ.passes.liveness import WeightUse, liveness
from occ.rewrite import rewrite
from occ.units import ALIGNMENT, round_up
from tests.programs import Builder, choices, programs


def test_a_chain() -> None:
    b = Builder()
    x = b.input((4, 4))
    first = b.mix((4, 4), x)
    second = b.mix((4, 8), first)
    third = b.mix((2, 2), second, first)
    out = b.tensor(BufferKind.OUTPUT, (2, 2))
    b.step((out,), {"x": Ref(third)})
    b.output(out)
    found = liveness(b.build())
    assert found.ranges == (None, LiveRange(0, 3), LiveRange(1, 3), LiveRange(2, 4), None)
    assert found.live_nbytes == (64, 64 + 128, 64 + 128 + 64, 64)
    assert found.peak_nbytes == 256
    assert found.dies == ((), (), (first, second), (third,))
    assert found.overwritable == ((), (), (2, 1), (3,))


def test_a_buffer_lives_from_its_first_piece_to_its_last_view() -> None:
    b = Builder()
    x = b.input((1, 4))
    buffer = b.buffer(BufferKind.ACTIVATION, 32)
    left, right = b.value(buffer, (1, 4)), b.value(buffer, (1, 4), offset=16)
    b.step((left,), {"x": Ref(x)})
    b.mix((1, 4), x)
    b.step((right,), {"x": Ref(x)})
    b.mix((1, 4), b.value(buffer, (1, 8)))
    b.mix((1, 4), left)
    found = liveness(b.build())
    assert found.ranges[buffer] == LiveRange(0, 5)
    assert found.overwritable[3] == ()
    assert found.overwritable[4] == (buffer,)


def test_state_lives_throughout_and_is_never_overwritable() -> None:
    b = Builder()
    cache = b.state((2, 2))
    b.mix((2, 2), b.input((2, 2)))
    b.mix((2, 2), cache)
    b.mix((2, 2), b.input((2, 2)))
    found = liveness(b.build())
    assert found.ranges[b.values[cache].buffer] == LiveRange(0, 3)
    assert found.overwritable[1] == ()
    assert cache not in found.dies[1]


def test_scratch_lives_for_its_step() -> None:
    b = Builder()
    x = b.input((2, 2))
    b.mix((2, 2), x)
    scratch = b.tensor(BufferKind.SCRATCH, (100,))
    out = b.tensor(BufferKind.OUTPUT, (2, 2))
    b.step((out,), {"x": Ref(x)}, scratch=(scratch,))
    found = liveness(b.build())
    assert found.ranges[b.values[scratch].buffer] == LiveRange(1, 2)
    assert found.live_nbytes == (64, round_up(400, ALIGNMENT))


def test_weight_uses_are_the_bytes_that_each_step_reads() -> None:
    b = Builder()
    weight = b.weight((8, 4))
    buffer = b.values[weight].buffer
    rows = b.value(buffer, (2, 4), offset=32)
    x = b.input((2, 2))
    b.mix((2, 2), x, rows, weight)
    b.mix((2, 2), x, rows, rows)
    b.mix((2, 2), x)
    assert liveness(b.build()).weight_uses == (
        (WeightUse(buffer, 0, 128), WeightUse(buffer, 32, 64)),
        (WeightUse(buffer, 32, 64),),
        (),
    )


def test_reading_what_was_not_written() -> None:
    b = Builder()
    buffer = b.buffer(BufferKind.ACTIVATION, 64)
    b.step((b.value(buffer, (1, 4)),), {"x": Ref(b.input((1, 4)))})
    b.mix((1, 4), b.value(buffer, (1, 4), offset=16))
    with pytest.raises(
        InternalError, match=r"step 1 \(step1\) reads v2 \(bytes 16-32 of buffer activation0\)"
    ):
        liveness(b.build())


@given(st.data(), programs())
@settings(max_examples=50, deadline=None)
def test_random_programs_agree_with_the_definitions(data: st.DataObject, program: Program) -> None:
    program = rewrite(program, data.draw(choices(program)))
    found = liveness(program)
    count = len(program.steps)
    touching = [
        [
            i
            for i, step in enumerate(program.steps)
            if buffer.id in buffers_of(program, step.reads + step.writes)
        ]
        for buffer in program.buffers
    ]
    for buffer, steps, live in zip(program.buffers, touching, found.ranges, strict=True):
        if buffer.kind is BufferKind.STATE:
            assert live == LiveRange(0, count)
        elif buffer.kind in ARENA_KINDS and steps:
            assert live == LiveRange(min(steps), max(steps) + 1)
        else:
            assert live is None
    for index, step in enumerate(program.steps):
        assert found.live_nbytes[index] == sum(
            round_up(buffer.nbytes, ALIGNMENT)
            for buffer, live in zip(program.buffers, found.ranges, strict=True)
            if live is not None and live.first <= index < live.last
        )
        assert set(found.overwritable[index]) == {
            buffer
            for buffer in buffers_of(program, step.reads)
            if program.buffers[buffer].kind in (BufferKind.ACTIVATION, BufferKind.SCRATCH)
            and max(touching[buffer]) == index
        }


def buffers_of(program: Program, values: tuple[int, ...]) -> set[int]:
    return {program.values[value].buffer for value in values}
