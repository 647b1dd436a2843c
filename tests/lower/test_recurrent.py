"""Recurrent layers: products ahead of time, recurrences after them, one recurrent weight at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from occ.ir import BufferKind, Choices, Program
from occ.passes.liveness import liveness
from occ.rewrite import rewrite
from tests.kernels.cases import Numbers
from tests.lower.comparing import Apply, check, check_all, fallbacks, kernels_of, lowered
from tests.lower.executor import Executor

numbers = Numbers()


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(6, 5),
    "lstm without bias": lambda: nn.LSTM(6, 5, bias=False),
    "lstm, batch first": lambda: nn.LSTM(6, 5, batch_first=True),
    "lstm, both ways": lambda: nn.LSTM(6, 5, 2, bidirectional=True),
    "lstm, both ways, batch first": lambda: nn.LSTM(6, 20, 2, bidirectional=True, batch_first=True),
    "lstm, wide": lambda: nn.LSTM(6, 37, 2),
    "lstm, projected": lambda: nn.LSTM(6, 5, 2, batch_first=True, proj_size=3, bidirectional=True),
    "gru": lambda: nn.GRU(6, 5, 3, batch_first=True),
    "gru without bias": lambda: nn.GRU(6, 5, bias=False),
    "gru, both ways": lambda: nn.GRU(6, 33, 2, bidirectional=True),
    "rnn": lambda: nn.RNN(6, 5),
    "rnn with relu": lambda: nn.RNN(6, 17, 2, nonlinearity="relu", bias=False, bidirectional=True),
    "dropout between layers": lambda: nn.GRU(6, 5, 2, dropout=0.5),
    "float64": lambda: nn.LSTM(6, 5, dtype=torch.float64),
}


def test_layers() -> None:
    cases = {}
    for name, make in LAYERS.items():
        layer = seeded(make)
        dtype = next(layer.parameters()).dtype
        cases[name] = (layer, (numbers(3, 4, 6, dtype=dtype),))
        cases[f"{name}, one sequence"] = (
            layer,
            (numbers(1 if "batch first" in name else 3, 1, 6, dtype=dtype),),
        )
    assert not fallbacks(check_all(cases))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types(dtype: torch.dtype) -> None:
    check(seeded(lambda: nn.LSTM(6, 5, dtype=dtype)), numbers(3, 4, 6, dtype=dtype))


def test_unbatched() -> None:
    check(seeded(lambda: nn.GRU(6, 5, 2)), numbers(7, 6))


def test_states_that_the_caller_passes() -> None:
    state = numbers(4, 3, 5)
    two_ways: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    lstm = seeded(lambda: nn.LSTM(6, 5, **two_ways))
    assert not fallbacks(check(lstm, numbers(3, 4, 6), (state, state.sin())))
    assert not fallbacks(check(seeded(lambda: nn.GRU(6, 5, **two_ways)), numbers(3, 4, 6), state))
    assert not fallbacks(check(seeded(lambda: nn.RNN(6, 5, **two_ways)), numbers(3, 4, 6), state))
    projected = seeded(lambda: nn.LSTM(6, 5, proj_size=2))
    check(projected, numbers(4, 3, 6), (numbers(1, 3, 2), numbers(1, 3, 5)))


def test_states_that_are_known() -> None:
    lstm = seeded(lambda: nn.LSTM(6, 5))
    learned = Apply(lambda x, h, c: lstm(x, (h, c)), h=numbers(1, 4, 5), c=numbers(1, 4, 5))
    learned.add_module("layer", lstm)
    assert not fallbacks(check(learned, numbers(3, 4, 6)))


def test_some_of_the_results() -> None:
    lstm = seeded(lambda: nn.LSTM(6, 5, 2))
    for choose in (lambda r: r[0], lambda r: r[0][-1], lambda r: r[1][0], lambda r: r[1][1][1]):
        module = Apply(lambda x, choose=choose: choose(lstm(x)))
        module.add_module("layer", lstm)
        check(module, numbers(3, 4, 6))


def test_a_layout_that_is_not_the_layers() -> None:
    gru = seeded(lambda: nn.GRU(6, 5, batch_first=True))
    turned = Apply(lambda x: gru(x.transpose(1, 2))[0])
    turned.add_module("layer", gru)
    check(turned, numbers(3, 6, 4))


def test_cells() -> None:
    x, h, c = numbers(2, 6), numbers(2, 5), numbers(2, 5)
    program = check_all(
        {
            "lstm": (seeded(lambda: nn.LSTMCell(6, 5)), (x, (h, c))),
            "gru": (seeded(lambda: nn.GRUCell(6, 5, bias=False)), (x, h)),
            "rnn": (seeded(lambda: nn.RNNCell(6, 5)), (x, h)),
            "zero": (seeded(lambda: nn.LSTMCell(6, 5)), (x,)),
        }
    )
    assert not fallbacks(program)


class Unrolled(nn.Module):
    """A cell called for each step of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(x.shape[1], 5)
        for step in x:
            hidden = self.cell(step, hidden)
        return hidden


def test_a_cell_that_is_called_often_is_stored_once() -> None:
    program = check(seeded(Unrolled), numbers(4, 2, 6))
    weights = sum(buffer.nbytes for buffer in program.buffers if buffer.kind is BufferKind.WEIGHT)
    # The input's and the recurrent weight, one bias, and the rest of the other.
    assert weights == 4 * (15 * 6 + 15 * 5 + 15 + 5)


def test_weights_that_are_computed() -> None:
    lstm = torch.nn.utils.parametrizations.weight_norm(seeded(lambda: nn.LSTM(6, 5)), "weight_hh_l0")
    check(lstm, numbers(3, 4, 6))


def test_no_step_reads_two_recurrent_weights() -> None:
    program = check(seeded(lambda: nn.LSTM(64, 64, 3, bidirectional=True)), numbers(5, 1, 64))
    recurrent = 4 * 64 * 64 * 4
    assert max(_weights_read(program)) < 1.1 * max(recurrent, 4 * 64 * 128 * 4)
    assert kernels_of(program).total() < 40


def _weights_read(program: Program) -> list[int]:
    """Bytes of the weights that each step reads."""
    nbytes = []
    for step in program.steps:
        buffers = {program.values[value].buffer for value in step.reads}
        weights = [program.buffers[b] for b in buffers if program.buffers[b].kind is BufferKind.WEIGHT]
        nbytes.append(sum(weight.nbytes for weight in weights))
    return nbytes


BANDED: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(6, 5, 2),
    "lstm, projected": lambda: nn.LSTM(6, 5, proj_size=3, bidirectional=True),
    "gru": lambda: nn.GRU(6, 5, 2, bidirectional=True),
    "rnn": lambda: nn.RNN(6, 5, bidirectional=True),
}


@pytest.mark.parametrize("name", BANDED)
def test_bands_over_time(name: str) -> None:
    """Part by part, forwards or backwards, a band computes what its steps do whole."""
    x = numbers(12, 1, 6)
    whole = lowered(seeded(BANDED[name]), x)
    program = whole.program
    wanted = [tensor.clone() for tensor in Executor(whole).run([x])]
    ends = [index for index, step in enumerate(program.steps) if any(axis.carries for axis in step.splits)]
    for last in ends:
        for first in range(last):
            for parts in (2, 5):
                banded = rewrite(program, Choices(bands=((first, last, "rows", parts),)))
                assert len(banded.steps) > len(program.steps)
                found = Executor(replace(whole, program=banded)).run([x])
                for one, other in zip(found, wanted, strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gates_of_all_steps_need_not_exist_at_once(bidirectional: bool) -> None:
    program = lowered(seeded(lambda: nn.GRU(6, 64, bidirectional=bidirectional)), numbers(32, 1, 6)).program
    pairs = range(0, len(program.steps), 2)
    bands = tuple((first, first + 1, "rows", 8) for first in pairs)
    gates = 32 * 3 * 64 * 4
    peaks = [liveness(rewrite(program, Choices(bands=b))).peak_nbytes for b in ((), bands)]
    assert peaks[0] - peaks[1] > 0.8 * gates
