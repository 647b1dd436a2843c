"""What holds for every lowered program."""

from __future__ import annotations

from itertools import pairwise

from occ.ir import BufferKind, Program
from occ.lower import Lowered
from occ.lower.filelayout import SMALL_WEIGHT
from occ.units import ALIGNMENT, PAGE, round_up
from tests.lower.executor import bytes_of


def check_values(program: Program) -> None:
    """Each view once; every buffer and value is used."""
    keys = [(v.buffer, v.offset, v.dtype, v.shape, v.strides, v.packing) for v in program.values]
    assert len(set(keys)) == len(keys)
    used = {value for step in program.steps for value in (*step.reads, *step.writes)}
    used.update(entry.value for entry in (*program.inputs, *program.outputs))
    assert used == set(range(len(program.values)))
    kept = {program.values[value].buffer for value in used} | {state.buffer for state in program.states}
    assert kept == set(range(len(program.buffers)))


def check_stored_once(lowered: Lowered) -> None:
    """No two weights of 1 kB and more have the same bytes, uniform ones aside: those may well be equal."""
    seen: dict[bytes, str] = {}
    for buffer, tensor in lowered.weights.items():
        content = bytes_of(tensor).numpy().tobytes()
        if len(content) < 1024 or content == content[:4] * (len(content) // 4):
            continue
        name = lowered.program.buffers[buffer].name
        assert content not in seen, f"{name} has the bytes of {seen[content]}"
        seen[content] = name


def check_layout(program: Program) -> None:
    """Grains in order of first use, without gaps inside a weight, each large weight from a page on; then the
    initial values of states, each from a page on."""
    used = [program.values[value].buffer for step in program.steps for value in step.reads]
    weights = [b for b in dict.fromkeys(used) if program.buffers[b].kind is BufferKind.WEIGHT]
    assert list(dict.fromkeys(grain.weight for grain in program.grains)) == weights
    for before, after in pairwise(program.grains):
        assert before.file_offset + before.nbytes <= after.file_offset
    for weight in weights:
        grains = [grain for grain in program.grains if grain.weight == weight]
        nbytes = program.buffers[weight].nbytes
        assert [grain.first for grain in grains] == [0, *(grain.end for grain in grains[:-1])]
        assert grains[-1].end == nbytes
        assert len({grain.file_offset - grain.first for grain in grains}) == 1
        if nbytes >= SMALL_WEIGHT:
            assert all(grain.file_offset % PAGE == 0 for grain in grains)
        else:
            assert len(grains) == 1
            assert grains[0].file_offset % ALIGNMENT == 0
    end = program.grains[-1].file_offset + program.grains[-1].nbytes if program.grains else 0
    for state in program.states:
        if state.file_offset is not None:
            assert state.file_offset % PAGE == 0
            assert state.file_offset >= end
            end = state.file_offset + program.buffers[state.buffer].nbytes
    assert program.file_nbytes == round_up(end, PAGE)
    assert program.weights_nbytes == sum(program.buffers[weight].nbytes for weight in weights)
