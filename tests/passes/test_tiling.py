"""Tiles and splits of small files, and the tiling's invariants on random ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weight_programs import weight_program

from occ.errors import InternalError
from occ.ir import BufferKind, Choices, Program, SplitAxis, Tile
from occ.passes.splitting import finer, split_for
from occ.passes.tiling import SMALL_NBYTES, tile, tile_uses
from occ.units import PAGE

LARGE = 2 * SMALL_NBYTES


def extents(program: Program) -> list[tuple[int, int]]:
    """File offsets and bytes of the tiles."""
    return [(t.file_offset, t.nbytes) for t in tile(program)]


def test_one_tile_for_each_weight_of_its_own_step() -> None:
    assert extents(weight_program([LARGE, LARGE], [[0], [1]])) == [(0, LARGE), (LARGE, LARGE)]


def test_one_tile_for_each_part_of_a_split_weight() -> None:
    half = LARGE // 2
    program = weight_program([LARGE], [[(0, 0, half)], [(0, half, LARGE)]])
    assert extents(program) == [(0, half), (half, half)]
    assert tile_uses(program, tile(program)).of_step == ((0,), (1,))


def test_overlapping_extents_share_a_tile() -> None:
    quarter = LARGE // 4
    program = weight_program([LARGE], [[(0, 0, 3 * quarter)], [(0, 2 * quarter, LARGE)], [0]])
    assert extents(program) == [(0, LARGE)]
    assert tile_uses(program, tile(program)).of_tile == ((0, 1, 2),)


def test_a_part_that_ends_inside_a_page_shares_a_tile_with_the_next() -> None:
    program = weight_program([3 * PAGE], [[(0, 0, PAGE + 64)], [(0, PAGE + 64, 3 * PAGE)]])
    assert extents(program) == [(0, 3 * PAGE)]


def test_a_pack_is_one_tile_padded_to_pages() -> None:
    program = weight_program([100, 200, LARGE], [[0], [1], [2]], packs=[[0, 1]])
    assert extents(program) == [(0, PAGE), (PAGE, LARGE)]
    assert tile_uses(program, tile(program)).of_tile == ((0, 1), (2,))


def test_a_small_neighbour_joins_where_the_same_step_reads_both() -> None:
    program = weight_program([LARGE, 100, LARGE], [[0, 1], [2]])
    assert extents(program) == [(0, LARGE + PAGE), (LARGE + PAGE, LARGE)]
    large = weight_program([LARGE, LARGE], [[0, 1]])
    assert extents(large) == [(0, LARGE), (LARGE, LARGE)]


def test_grains_that_no_step_reads_are_in_no_tile() -> None:
    program = weight_program([LARGE, LARGE, LARGE], [[2], [(0, 0, PAGE)]])
    assert extents(program) == [(0, PAGE), (2 * LARGE, LARGE)]


def test_reads_outside_grains_and_tiles_are_refused() -> None:
    program = weight_program([PAGE], [[(0, 0, 2 * PAGE)]])
    with pytest.raises(InternalError, match=r"step 0 \(step0\) reads bytes \[0, 8192\) of w0"):
        tile(program)
    whole = weight_program([2 * PAGE], [[0]])
    with pytest.raises(InternalError, match=r"grains \[0, 2\), which no tile holds"):
        tile_uses(whole, (Tile(0, 0, 1, 0, PAGE),))


@st.composite
def weight_reads(draw: st.DrawFn) -> Program:
    sizes = draw(st.lists(st.integers(1, 40_000), min_size=1, max_size=6))
    small = [w for w, nbytes in enumerate(sizes) if nbytes < PAGE]
    steps = []
    for _ in range(draw(st.integers(1, 8))):
        reads: list[int | tuple[int, int, int]] = []
        for w in draw(st.lists(st.integers(0, len(sizes) - 1), max_size=3, unique=True)):
            first = draw(st.integers(0, sizes[w] - 1))
            reads.append((w, first, draw(st.integers(first + 1, sizes[w]))))
        steps.append(reads)
    return weight_program(
        sizes, steps, grain_nbytes=draw(st.sampled_from([1000, PAGE, 2 * PAGE])), packs=[small]
    )


@given(weight_reads())
def test_every_extent_is_in_one_tile_and_tiles_are_minimal(program: Program) -> None:
    tiles = tile(program)
    of_step, of_tile = tile_uses(program, tiles).of_step, tile_uses(program, tiles).of_tile
    starts = {grain.weight: grain.file_offset - grain.first for grain in program.grains}
    spans = []
    for i, step in enumerate(program.steps):
        for value in (program.values[v] for v in step.reads):
            assert program.buffers[value.buffer].kind is BufferKind.WEIGHT
            first, last = (starts[value.buffer] + end for end in value.extent)
            spans.append((first, last, i))
            holding = [t for t in tiles if t.file_offset <= first and last <= t.file_offset + t.nbytes]
            assert len(holding) == 1
            assert holding[0].id in of_step[i]
            assert i in of_tile[holding[0].id]
    for t, following in zip(tiles, [*tiles, None][1:], strict=True):
        assert t.file_offset % PAGE == t.nbytes % PAGE == 0
        assert program.grains[t.first_grain].file_offset == t.file_offset
        assert following is None or t.file_offset + t.nbytes <= following.file_offset
        # Where a tile could have been cut, the same steps read both sides and one of them is small.
        for grain in program.grains[t.first_grain + 1 : t.last_grain]:
            cut, end = grain.file_offset, t.file_offset + t.nbytes
            if cut % PAGE == 0 and not any(first < cut < last for first, last, _ in spans):
                left = {step for first, _, step in spans if t.file_offset <= first < cut}
                right = {step for first, _, step in spans if cut <= first < end}
                assert left == right
                assert min(cut - t.file_offset, end - cut) < SMALL_NBYTES


def split_program() -> Program:
    """Weight 0 of 16 pages is cut along its rows, of which two pages are a granule; step 1 has no axis."""
    axis = SplitAxis("rows", extent=16 * PAGE, granule=2 * PAGE, operands=(("w0", 0),), outputs=())
    return weight_program([16 * PAGE, 16 * PAGE, PAGE], [[0], [1], [2]], splits={0: axis})


@pytest.mark.parametrize(
    ("target_pages", "parts"), [(16, None), (15, 2), (8, 2), (7, 3), (4, 4), (3, 8), (2, 8), (1, 8)]
)
def test_parts_are_at_most_the_target_as_far_as_granules_allow(target_pages: int, parts: int | None) -> None:
    expected = () if parts is None else ((0, "rows", parts),)
    assert split_for(split_program(), target_pages * PAGE) == expected


def test_an_axis_that_cuts_no_contiguous_rows_does_not_count() -> None:
    axis = SplitAxis("columns", extent=16 * PAGE, granule=1, operands=(("x", 0),), outputs=())
    assert split_for(weight_program([16 * PAGE], [[0]], splits={0: axis}), PAGE) == ()


def test_finer_doubles_parts_up_to_one_granule_each() -> None:
    program = split_program()
    choices: Choices | None = Choices(gathers=(2,))
    seen = []
    while choices is not None and (choices := finer(program, choices, 0)) is not None:
        seen.append(choices.splits)
    assert seen == [((0, "rows", 2),), ((0, "rows", 4),), ((0, "rows", 8),)]
    assert finer(program, Choices(), 1) is None
    assert finer(program, Choices(gathers=(0,)), 0) is None


def test_no_part_is_smaller_than_a_grain() -> None:
    """An element-wise step runs along the elements of a table of 16 grains, a page each."""
    axis = SplitAxis("rows", extent=16 * PAGE, granule=1, operands=(("w0", 0),), outputs=())
    program = weight_program([16 * PAGE], [[0]], splits={0: axis})
    assert len(program.grains) == 16
    assert split_for(program, PAGE // 4) == ((0, "rows", 16),)
    assert finer(program, Choices(splits=((0, "rows", 8),)), 0) == Choices(splits=((0, "rows", 16),))
    assert finer(program, Choices(splits=((0, "rows", 16),)), 0) is None
