"""Inputs, outputs, state: what the caller passes, gets and finds changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ.errors import UsageError
from occ.ir import BufferKind, Program
from tests.lower.comparing import Apply, check, kernels_of, lowered
from tests.lower.executor import Executor

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def kinds(program: Program) -> list[BufferKind]:
    """The kind of each output's buffer."""
    return [program.buffers[program.values[output.value].buffer].kind for output in program.outputs]


# Results --------------------------------------------------------------------------------------------------


def test_result_is_written_by_the_step_that_computes_it() -> None:
    program = check(lambda x: torch.tanh(x.exp()), X)
    assert kernels_of(program) == {"exp": 1, "tanh": 1}
    assert len(program.buffers) == 2


def test_same_tensor_twice() -> None:
    program = check(lambda x: ((y := x.exp()), y), X)
    assert len({output.value for output in program.outputs}) == 1


def test_view_of_another_result() -> None:
    program = check(lambda x: ((y := x.exp()), y[1:], y.t(), y.view(-1)[2:5]), X)
    assert kernels_of(program) == {"exp": 1}


def test_view_before_the_tensor_that_it_shows() -> None:
    check(lambda x: ((y := x.exp())[0], y), X)


def test_views_of_a_tensor_that_is_no_result() -> None:
    """They share bytes in eager."""
    check(lambda x: (x.exp()[:2].t(), x.sin()[1]), X)


def test_parts_of_one_tensor() -> None:
    """Eager's parts share a storage; no byte is in two of them."""
    program = lowered(Apply(lambda x: x.exp().unbind(0)), X).program
    assert len(program.outputs) == 3


def test_input_returned() -> None:
    program = check(lambda x: (x, x.exp()), X)
    assert kinds(program) == [BufferKind.INPUT, BufferKind.OUTPUT]


def test_view_of_an_input_returned() -> None:
    program = check(lambda x: (x[1:], x.exp()), X)
    assert kinds(program)[0] is BufferKind.INPUT


def test_copy_of_an_input_is_a_copy() -> None:
    program = check(lambda x: (x.clone(), x), X)
    assert kinds(program) == [BufferKind.OUTPUT, BufferKind.INPUT]


def test_weights_constants_and_buffers_returned() -> None:
    weight, table = torch.randn(4), torch.arange(3)
    check(Apply(lambda x, w, t: (w, t, w * 2, x + w), w=weight, t=table), X)
    check(lambda x: (torch.arange(5), torch.zeros(2, 3), x + 1, torch.tensor(3.0)), X)


def test_only_constants() -> None:
    check(Apply(lambda x, w: w * 2, w=torch.randn(4)), X)


def test_results_of_no_dimensions_and_of_no_elements() -> None:
    check(lambda x: (x.sum(), x.sum() > 0, x[:0], x.exp()[:, :0], x[0, 0]), X)


def test_a_result_that_later_steps_read() -> None:
    program = check(lambda x: ((y := x.exp()), torch.tanh(y) + y), X)
    assert kernels_of(program)["copy"] == 0


def test_result_that_would_be_overwritten() -> None:
    """relu may take its operand's bytes, but the caller gets both."""
    check(lambda x: ((y := x.exp()), y.relu(), y.relu().sin()), X)


def test_results_have_the_strides_of_eager() -> None:
    picture = torch.randn(1, 3, 5, 4)
    check(lambda x: F.conv2d(x, torch.ones(2, 3, 1, 1)), picture)
    check(lambda x: F.conv2d(x, torch.ones(2, 3, 1, 1)).permute(0, 2, 3, 1), picture)
    check(lambda x: x.exp().t(), X)
    check(lambda x: x.t().exp(), X)
    check(lambda x: x.exp().expand(2, 3, 4), X)
    for module in (nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 1), nn.MaxPool2d(2), nn.BatchNorm2d(3)):
        for layout in (torch.contiguous_format, torch.channels_last):
            check_strides(module.eval(), picture.contiguous(memory_format=layout))


def check_strides(module: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        wanted = module(*inputs)
    (found,) = Executor(lowered(module, *inputs)).run([tensor.clone() for tensor in inputs])
    assert found.stride() == wanted.stride()


def test_structures() -> None:
    class Nested(nn.Module):
        def forward(
            self, x: Tensor, pair: tuple[Tensor, Tensor], *, more: dict[str, Tensor]
        ) -> dict[str, Any]:
            return {"sum": x + pair[0], "rest": [pair[1] * 2, (more["a"], None)], "count": 3}

    check(Nested(), X, (X + 1, X + 2), more={"a": X - 1, "b": X})


def test_unused_inputs_and_weights() -> None:
    program = check(Apply(lambda x, y, w, unused: x + w, w=X + 1, unused=X + 2), X, X)
    assert len(program.inputs) == 2
    assert program.weights_nbytes == X.nbytes


def test_inputs_in_other_layouts() -> None:
    check(lambda x: x.exp() + 1, X.t())
    check(lambda x: x.exp() + 1, torch.randn(6, 8)[::2, ::2])
    check(lambda x: x.exp() + 1, torch.randn(1, 4).expand(3, 4))
    check(
        lambda x: x.reshape(-1) + 1,
        torch.randn(2, 4, 3, 2).contiguous(memory_format=torch.channels_last)[:, :, 0],
    )


# Changed inputs and state --------------------------------------------------------------------------------


def test_changed_input() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        x.add_(y)
        x[0].zero_()
        return x * 2

    check(function, X, X + 1)


def test_changed_input_that_is_returned() -> None:
    check(lambda x: x.mul_(2), X)
    check(lambda x, y: (x.copy_(y), y), X, X + 1)


def test_inputs_that_change_places() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        before = x.clone()
        x.copy_(y)
        y.copy_(before)
        return x + 2 * y

    check(function, X, X + 1)


class Counting(nn.Module):
    """A counter and a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.ones(4) * 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.count += 1
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return x - self.mean, self.count.clone()


def test_state() -> None:
    program = check(Counting(), X, runs=4)
    assert [(state.name, state.file_offset is None) for state in program.states] == [
        ("count", True),
        ("mean", False),
    ]


class Cache(nn.Module):
    """A key-value cache: rows are written at a position, all are read."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(1, 2, 6, 4))
        self.register_buffer("position", torch.zeros(1, dtype=torch.int64))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        row = x.view(1, 2, 1, 4)
        if self.how == "index_copy":
            self.keys.index_copy_(2, self.position, row)
        elif self.how == "assigned":
            self.keys[:, :, self.position] = row
        elif self.how == "scatter":
            self.keys.scatter_(2, self.position.view(1, 1, 1, 1).expand(1, 2, 1, 4), row)
        else:
            self.keys.copy_(torch.cat([self.keys[:, :, 1:], row], 2))
        self.position += 1
        return F.scaled_dot_product_attention(row, self.keys, self.keys)


@pytest.mark.parametrize("how", ["index_copy", "assigned", "scatter", "rolled"])
def test_cache(how: str) -> None:
    program = check(Cache(how), torch.randn(2, 4), runs=4)
    large = [buffer for buffer in program.buffers if buffer.nbytes >= 2 * 6 * 4 * 4]
    if how == "index_copy":
        # The rows are written in place: there is no second cache.
        assert [buffer.kind for buffer in large] == [BufferKind.STATE]


class Last(nn.Module):
    """Returns what the state was before the run, the state itself, or a view of it."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(3, 4))
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        before = self.kept * 1
        if self.what == "before, unchanged":
            before = self.kept.clone()
        self.kept.copy_(x)
        if self.what.startswith("before"):
            return before
        return self.kept * 2 if self.what == "after" else self.kept[1:].clone()


@pytest.mark.parametrize("what", ["before", "before, unchanged", "after", "view"])
def test_state_and_results(what: str) -> None:
    check(Last(what), X, runs=3)


def test_states_that_change_places() -> None:
    class Swap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("one", torch.ones(4))
            self.register_buffer("two", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            one = self.one.clone()
            self.one.copy_(self.two)
            self.two.copy_(one + x[0])
            return self.one + 2 * self.two

    check(Swap(), X, runs=4)


def test_states_that_change_places_unchanged() -> None:
    class Swap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("one", torch.ones(3, 3))
            self.register_buffer("two", torch.arange(9.0).view(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            one = self.one.clone()
            self.one.copy_(self.two.t())
            self.two.copy_(one)
            return self.one + x[0, :3]

    check(Swap(), X, runs=4)


def test_state_that_moves_within_itself() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.arange(9.0).view(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            self.kept.copy_(self.kept.t().clone())
            self.kept[1:] = self.kept[:2].clone() + x[0, :3]
            return self.kept.sum()

    check(Shift(), X, runs=4)


def test_state_read_after_it_was_changed_and_before() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.ones(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            before = torch.tanh(self.kept)
            view = self.kept[0]
            self.kept.add_(x)
            return before + self.kept + view

    check(Both(), X, runs=3)


def test_state_that_the_next_run_begins_with() -> None:
    """An LSTM that keeps its hidden state."""

    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(4, 5)
            self.register_buffer("h", torch.zeros(3, 5))
            self.register_buffer("c", torch.zeros(3, 5))

        def forward(self, x: Tensor) -> Tensor:
            h, c = self.cell(x, (self.h, self.c))
            self.h.copy_(h)
            self.c.copy_(c)
            return h

    check(Kept(), X, runs=3)


# What cannot be planned ----------------------------------------------------------------------------------


def test_quantized_types_are_named_in_the_error() -> None:
    with pytest.raises(UsageError, match="float8_e4m3fn"):
        lowered(Apply(lambda x: x.to(torch.float8_e4m3fn).float()), X)
