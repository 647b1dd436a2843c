"""What the lowering shares, folds, stores and lays out, seen in the program."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from occ.ir import Buffer, BufferKind, Program
from occ.lower.filelayout import LARGEST_BLOCK, LEAST_GRAIN, SMALL_WEIGHT, grain_rows, lay_out
from occ.units import PAGE
from tests.lower.comparing import PACKED, Apply, check, kernels_of, lowered
from tests.lower.invariants import check_layout

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def buffers(program: Program, *kinds: BufferKind) -> list[Buffer]:
    return [buffer for buffer in program.buffers if buffer.kind in kinds]


# Sharing --------------------------------------------------------------------------------------------------


def test_chain_of_pointwise_steps_takes_one_buffer() -> None:
    program = check(lambda x: torch.tanh(x.exp().sin() * 2 + 1), X)
    assert len(program.steps) == 5
    assert [buffer.kind for buffer in program.buffers] == [BufferKind.INPUT, BufferKind.OUTPUT]


def test_operand_that_is_read_later_keeps_its_bytes() -> None:
    program = check(lambda x: (y := x.exp()).sin() + y, X)
    assert len(buffers(program, BufferKind.ACTIVATION)) == 1
    assert len(program.buffers) == 3


def test_result_of_another_size_takes_other_bytes() -> None:
    program = check(lambda x: x.exp().double().sin(), X)
    assert len(buffers(program, BufferKind.ACTIVATION)) == 1


def test_broadcast_operand_is_not_overwritten() -> None:
    program = check(lambda x: (x.exp()[:, :1] + x.sin()).cos() + (x.exp()[:1] * x.cos()), X)
    assert sum(kernels_of(program).values()) == 8


def test_view_of_a_part_is_not_taken_for_the_whole() -> None:
    """A result may not take bytes of a buffer that it covers only in part, or in another order."""
    check(lambda x: (y := x.exp())[:, 1:3].sin() + y[:, 1:3], X)
    check(lambda x: x.exp().t().sin().reshape(-1), X)
    check(lambda x: (y := x.exp()).unbind(0)[0].sin() + y[2], X)


def test_pieces_of_a_concatenation_are_computed_in_place() -> None:
    program = check(lambda x: torch.cat([x.exp(), x.sin(), x.cos()]), X)
    assert kernels_of(program) == {"exp": 1, "sin": 1, "cos": 1}
    (output,) = buffers(program, BufferKind.OUTPUT)
    values = [program.values[step.outs[0]] for step in program.steps]
    assert [(value.buffer, value.offset) for value in values] == [
        (output.id, index * X.nbytes) for index in range(3)
    ]


def test_channels_of_one_picture_are_pieces_where_they_are_contiguous() -> None:
    """Rows of channels: contiguous in a picture of one channel each, strided in channels_last."""
    picture = torch.randn(1, 4, 6, 5)
    program = check(lambda x: torch.cat([x.exp(), x.sin()], 1), picture)
    assert kernels_of(program) == {"exp": 1, "sin": 1}
    program = check(lambda x: torch.cat([x.exp(), x.sin()], 3), picture)
    assert kernels_of(program) == {"exp": 1, "sin": 1, "cat": 1}


def test_part_of_two_concatenations_is_copied_into_one_of_them() -> None:
    check(lambda x: (torch.cat([y := x.exp(), x]), torch.cat([x.sin(), y])), X)
    check(lambda x: torch.cat([torch.cat([y := x.exp(), x.sin()]), y]).tanh(), X)


def test_concatenation_that_is_copied_is_never_made() -> None:
    """Its parts go to where the copy would put them."""
    program = check(lambda x: torch.cat([x.exp(), x.sin()[:, :2]], 1).t().reshape(-1).view(2, -1), X)
    assert not {"cat", "concatenate"} & set(kernels_of(program))
    twice = check(lambda x: ((y := torch.cat([x.exp(), x.sin()[:, :2]], 1)).t().reshape(-1), y.sum()), X)
    assert {"cat", "concatenate"} & set(kernels_of(twice))


def test_window_that_moves_over_a_state() -> None:
    """Its concatenation is only copied too, but to where one of its parts is."""

    class Window(nn.Module):
        def __init__(self, forwards: bool) -> None:
            super().__init__()
            self.forwards = forwards
            self.register_buffer("kept", torch.arange(12.0).view(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            total = self.kept.sum() + x
            if self.forwards:
                self.kept.copy_(torch.cat([x, self.kept[:, :-1]], 1))
            else:
                self.kept.copy_(torch.cat([self.kept[:, 1:], x], 1))
            return total

    for forwards in (True, False):
        check(Window(forwards), X[:, :1], runs=3)


def test_steps_that_nobody_needs_are_dropped() -> None:
    def function(x: Tensor) -> Tensor:
        x.exp().sin()
        return x.cos()

    assert kernels_of(check(function, X)) == {"cos": 1}


# Folding --------------------------------------------------------------------------------------------------


def test_what_would_store_more_than_it_saves_is_computed() -> None:
    """A mask of 4 MB is computed from two small vectors at every run; one of 40 kB is stored."""

    def mask(size: int, rows: Tensor, columns: Tensor) -> Tensor:
        return rows[:size, None] > columns[None, :size]

    vectors = {"rows": torch.arange(2048), "columns": torch.arange(2048)}
    large = lowered(Apply(lambda x, **w: mask(2048, **w) & (x > 0), **vectors), torch.ones(1)).program
    assert large.weights_nbytes == 2 * 2048 * 8
    small = lowered(Apply(lambda x, **w: mask(200, **w) & (x > 0), **vectors), torch.ones(1)).program
    assert small.weights_nbytes == 200 * 200


def test_copies_of_a_constant_are_the_constant() -> None:
    def function(x: Tensor) -> Tensor:
        mask = torch.arange(3)[:, None] > torch.arange(4)
        return x.masked_fill(mask.clone(), 0.0) + x.masked_fill(mask.clone(), 1.0)

    assert check(function, X).weights_nbytes == 12


def test_what_every_layer_computes_from_constants_is_stored_once() -> None:
    def function(x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + (torch.arange(4)[:, None] * torch.arange(3.0)).t().contiguous().view(3, 2, 2).flatten(1)
        return x

    assert check(function, X).weights_nbytes == X.nbytes


def test_copy_of_a_broadcast_constant_stores_no_repeats() -> None:
    """8 MB if it were stored as it is copied."""

    def function(x: Tensor, w: Tensor) -> Tensor:
        return (w.expand(1000, 2000).clone().view(2000, 1000) * x[0, 0]).sum(1)

    assert check(Apply(function, w=torch.randn(1, 2000)), X).weights_nbytes == 8000


def test_a_transposed_weight_is_the_same_weight() -> None:
    weight = torch.randn(4, 4)
    program = check(Apply(lambda x, w: (x @ w.t()) @ w, w=weight), X)
    assert program.weights_nbytes == weight.nbytes


def test_a_broadcast_weight_is_stored_without_repeats() -> None:
    program = check(Apply(lambda x, w: x + w.expand(3, 4), w=torch.randn(1, 4)), X)
    assert program.weights_nbytes == 16
    program = check(Apply(lambda x, w: x[:, None] + w[:, None].expand(3, 5, 4), w=torch.randn(3, 4)), X)
    assert program.weights_nbytes == 48


# Weights --------------------------------------------------------------------------------------------------


def tied() -> nn.Module:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 16)
            self.layers = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
            self.layers[1].weight = self.layers[0].weight
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.table(tokens)
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.head(x)

    return Tied()


def test_tied_weights_are_stored_once() -> None:
    program = check(tied(), torch.randint(50, (2, 30)))
    assert program.weights_nbytes == (50 * 16 + 16 * 16 + 2 * 16) * 4


def test_weights_are_named_after_the_parameters() -> None:
    program = check(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), X)
    names = {buffer.name for buffer in buffers(program, BufferKind.WEIGHT)}
    assert names == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_steps_know_the_module_that_they_come_from() -> None:
    program = check(nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Tanh())), X)
    assert [step.module for step in program.steps] == ["0", "1.0"]


# The file -------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.sampled_from([0, 1, 4, 60, 300, 4096, 5000, 65536])), max_size=12
    )
)
@settings(max_examples=100, deadline=None)
def test_layout_of_any_weights(sizes: list[tuple[int, int]]) -> None:
    weights = [(index, rows, row_nbytes) for index, (rows, row_nbytes) in enumerate(sizes)]
    grains, file_nbytes = lay_out(weights)
    assert file_nbytes % PAGE == 0
    position = 0
    for index, rows, row_nbytes in weights:
        own = [grain for grain in grains if grain.weight == index]
        assert sum(grain.nbytes for grain in own) == rows * row_nbytes
        for grain in own:
            assert grain.file_offset >= position
            assert grain.file_offset - grain.first == own[0].file_offset
            assert grain.first % max(row_nbytes, 1) == 0, "a grain is whole rows"
            position = grain.file_offset + grain.nbytes
        if len(own) > 1:
            assert all(grain.nbytes % PAGE == 0 for grain in own[:-1])
    assert position <= file_nbytes < position + PAGE


@pytest.mark.parametrize(("rows", "row_nbytes"), [(4096, 16384), (1000, 2048), (30000, 3072), (77, 4100)])
def test_grains_are_whole_pages_and_whole_rows(rows: int, row_nbytes: int) -> None:
    count = grain_rows(rows, row_nbytes)
    assert count == rows or (count * row_nbytes) % PAGE == 0
    assert count == rows or LEAST_GRAIN <= count * row_nbytes <= max(2 * LARGEST_BLOCK, PAGE * row_nbytes)


@pytest.mark.parametrize("bias", [True, False])
def test_splits_follow_the_grains(bias: bool) -> None:
    layer, convolution = nn.Linear(1024, 512, bias=bias), nn.Conv2d(64, 512, 3, padding=1, bias=bias)
    for module, x, name, row_nbytes in (
        (layer, torch.randn(2, 1024), "weight_rows", 4096),
        (convolution, torch.randn(1, 64, 5, 5), "output_channels", 64 * 9 * 4),
    ):
        program = lowered(module, x).program
        step = next(step for step in program.steps if step.kernel in ("linear", "matmul", "convolution"))
        (axis,) = (axis for axis in step.splits if axis.name == name)
        assert axis.extent == 512
        sizes = {grain.nbytes for grain in program.grains if grain.nbytes > SMALL_WEIGHT}
        assert sizes == {axis.granule * row_nbytes}


def test_pieces_of_a_packed_weight_are_weights_of_their_own() -> None:
    if True not in PACKED:
        pytest.skip("oneDNN's packed weights do not work on this machine")
    program = lowered(nn.Linear(1024, 1500), torch.randn(2, 1024), pack=True).program
    products = [step for step in program.steps if step.kernel == "product"]
    assert len(products) == 3
    weights = {dict(step.args)["weight"] for step in products}
    assert len(weights) == 3
    values = [value for value in program.values if value.packing is not None]
    assert sum(value.packing.shape[0] for value in values if value.packing) == 1500
    check_layout(program)


def test_layout_of_a_model_with_state_and_small_and_large_weights() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(600, 64)
            self.layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
            self.register_buffer("kept", torch.ones(2, 64))
            self.register_buffer("count", torch.zeros(1))

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.layers(self.table(tokens)) + self.kept
            self.kept.copy_(x)
            self.count += 1
            return F.linear(x, self.table.weight)

    program = check(Model(), torch.tensor([3, 500]), runs=3)
    check_layout(program)
    assert len(program.states) == 2
