"""Mixtures of experts: a run reads the matrices that it asks for from the file, and no others."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import occ
from occ.gathers import GROUPED_PRODUCT, STORED_PRODUCT, experts_nbytes
from occ.ir import Plan, weight_file_offsets
from occ.planned import Compiled
from occ.report.text import claim, summary
from occ.runtime_stub.integrity import DamageError
from occ.units import PAGE, format_bytes
from tests.damaging import flip

pytest.importorskip("transformers.integrations.moe", reason="it registers the operator")

COUNT, WIDTH = 16, 96
MATRIX_NBYTES = 4 * WIDTH * WIDTH


class Experts(nn.Module):
    """Two layers in which row i [rows, WIDTH] meets matrix ids[i] [rows]; ids ascend."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(COUNT, WIDTH, WIDTH) / WIDTH) for _ in range(2))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        ends = (ids <= torch.arange(COUNT)[:, None]).sum(1).to(torch.int32)
        for weight in (self.first, self.second):
            x = torch.ops.transformers.grouped_mm_fallback(x, weight.mT, ends)
        return x


def compiled(path: Path, budget: str | int | None, rows: int = 5) -> tuple[Experts, Compiled]:
    torch.manual_seed(0)
    model = Experts().eval()
    example = (torch.randn(rows, WIDTH), torch.zeros(rows, dtype=torch.int64))
    return model, occ.compile(model, example, budget=budget, output=path)


def kernels(plan: Plan) -> list[str]:
    return [s.kernel for s in plan.program.steps if s.kernel in (GROUPED_PRODUCT, STORED_PRODUCT)]


IDS = [
    [0, 0, 0, 0, 0],
    [15, 15, 15, 15, 15],
    [0, 3, 3, 7, 15],
    [4, 5, 6, 7, 8],
    [2, 2, 9, 16, 17],  # of the last two there are no matrices: zeros, as in eager
]


@pytest.mark.parametrize("budget", ["min", None])
@pytest.mark.parametrize("ids", IDS)
def test_rows_meet_their_matrices(ids: list[int], budget: str | None, tmp_path: Path) -> None:
    model, made = compiled(tmp_path / "m.occ", budget)
    assert kernels(made.plan) == [GROUPED_PRODUCT if budget is None else STORED_PRODUCT] * 2
    x = torch.randn(5, WIDTH)
    with occ.load(tmp_path / "m.occ") as program, torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(program(x, torch.tensor(ids)), model(x, torch.tensor(ids)))


@pytest.mark.parametrize("rows", [1, 40])
def test_one_row_and_many(rows: int, tmp_path: Path) -> None:
    model, made = compiled(tmp_path / "m.occ", "min", rows)
    assert kernels(made.plan) == [STORED_PRODUCT] * 2
    x, ids = torch.randn(rows, WIDTH), torch.randint(0, COUNT, (rows,)).sort().values
    with occ.load(tmp_path / "m.occ") as program, torch.no_grad():
        torch.testing.assert_close(program(x, ids), model(x, ids))


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    _, made = compiled(tmp_path / "m.occ", "min")
    plan = made.plan
    assert plan.budget.total < COUNT * MATRIX_NBYTES
    assert experts_nbytes(plan.program) == 2 * 5 * MATRIX_NBYTES
    assert f" up to {format_bytes(2 * 5 * MATRIX_NBYTES)} of experts read," in claim(plan)
    assert "\nexperts      up to" in summary(plan, made.source)
    with occ.load(tmp_path / "m.occ") as program:
        x = torch.randn(5, WIDTH)
        program(x, torch.zeros(5, dtype=torch.int64))
        for ids in ([3, 3, 3, 3, 3], [1, 2, 3, 4, 4]):
            before = program.stats().nbytes_read
            program(x, torch.tensor(ids))
            read, wanted = program.stats().nbytes_read - before, 2 * len(set(ids))
            assert wanted * MATRIX_NBYTES <= read <= wanted * (MATRIX_NBYTES + 2 * PAGE)


def test_a_damaged_matrix_is_never_used(tmp_path: Path) -> None:
    path = tmp_path / "m.occ"
    model, made = compiled(path, "min")
    program = made.plan.program
    [weight, *_] = [v for s in program.steps for v in s.stored]
    start = weight_file_offsets(program)[program.values[weight].buffer]
    x = torch.randn(5, WIDTH)
    sound, damaged = torch.tensor([1, 1, 2, 2, 2]), torch.tensor([1, 5, 5, 5, 5])
    with occ.load(path) as loaded, torch.no_grad():
        torch.testing.assert_close(loaded(x, damaged), model(x, damaged))
        flip(path, start + 5 * MATRIX_NBYTES + 700)
        torch.testing.assert_close(loaded(x, sound), model(x, sound))
        with pytest.raises(DamageError, match=r"of table 'first' has CRC-32"):
            loaded(x, damaged)
        torch.testing.assert_close(loaded(x, sound), model(x, sound))
        flip(path, start + 5 * MATRIX_NBYTES + 700)
        torch.testing.assert_close(loaded(x, damaged), model(x, damaged))


def test_memory_holds_as_many_tables_as_fit_it(tmp_path: Path) -> None:
    least = compiled(tmp_path / "m.occ", "min")[1].plan
    found = []
    latency = math.inf
    for tables in (0.0, 0.5, 1.2, 2.2):
        limit = least.budget.total + int(tables * COUNT * MATRIX_NBYTES) + 16 * PAGE
        plan = occ.replan(tmp_path / "m.occ", limit, tmp_path / "n.occ").plan
        assert plan.budget.total <= limit
        assert plan.prediction.latency <= latency
        latency = plan.prediction.latency
        found.append(kernels(plan).count(GROUPED_PRODUCT))
    assert found == [0, 0, 1, 2]


def test_a_mixture_of_a_library_with_a_few_tokens(tmp_path: Path) -> None:
    """Routing, sorting and weighing are the library's; tested at a quarter of the demand, too, with all small
    networks."""
    from tests.small_models import build

    model = build("mixture_of_experts")
    plan = occ.compile(model.module, model.example_inputs, budget="min", output=tmp_path / "m.occ").plan
    assert kernels(plan) == [STORED_PRODUCT] * 4
    assert not [step.name for step in plan.program.steps if step.kernel == "fallback"]
    with occ.load(tmp_path / "m.occ") as program, torch.no_grad():
        for _ in range(3):
            ids = torch.randint(0, 1000, (1, 3))
            torch.testing.assert_close(program(input_ids=ids), model.module(input_ids=ids))
