"""`occ.compile` and `occ.load` as a user meets them: a loaded program behaves as the module does in eager."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import occ
from occ.errors import BudgetError, UsageError
from occ.runtime_stub.errors import HandleError, IndexRangeError, InputError
from occ.runtime_stub.packed import probe
from occ.runtime_stub.program import Program


class Layers(nn.Module):
    """Three layers, of 460 kB."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(64, 256)
        self.second = nn.Linear(256, 256)
        self.third = nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(x))))
        return self.third(hidden)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of Layers that streams."""
    path = tmp_path_factory.mktemp("layers") / "layers.occ"
    with pytest.raises(BudgetError) as refused:
        occ.compile(Layers(), (torch.randn(4, 64),), 1, path)
    made = occ.compile(Layers(), (torch.randn(4, 64),), refused.value.smallest + 65536, path)
    assert made.plan.sizing.loads
    return path


def close(found: Any, expected: Any) -> bool:
    """Whether two results have the same structure, types and nearly the same numbers."""
    if isinstance(expected, Tensor):
        return (
            isinstance(found, Tensor)
            and found.dtype == expected.dtype
            and found.shape == expected.shape
            and torch.allclose(found.double(), expected.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
        )
    if type(found) is not type(expected):
        return False
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(close(found[key], expected[key]) for key in expected)
    if isinstance(expected, (tuple, list)):
        return len(found) == len(expected) and all(map(close, found, expected))
    return bool(found == expected)


def compiled(module: nn.Module, inputs: object, folder: Path, budget: int | str | None = None) -> Program:
    occ.compile(module, inputs, budget, folder / "model.occ")
    return occ.load(folder / "model.occ")


# Calling


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        return x * scale if y is None else (x + y) * scale


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        ((torch.ones(2, 3),), 1, []),
        ((torch.ones(2, 3), torch.ones(3)), 2, []),
        ({"y": torch.ones(3), "x": torch.ones(2, 3)}, 0, ["x", "y"]),
        (((torch.ones(2, 3),), {"y": torch.ones(3), "scale": 2.0}), 1, ["y", "scale"]),
        ((torch.ones(2, 3), None), 2, []),
    ],
)
def test_called_as_the_module_is(inputs: Any, args: int, kwargs: list[str], tmp_path: Path) -> None:
    without = isinstance(inputs, tuple) and inputs[-1] is None
    given = {"x": torch.randn(2, 3), "y": None if without else torch.randn(3), "scale": 2.0}
    positional = [given[name] for name in ("x", "y")[:args]]
    keywords = {name: given[name] for name in kwargs}
    with compiled(Sum(), inputs, tmp_path) as program:
        expected = Sum()(*positional, **keywords)
        assert close(program(*positional, **keywords), expected)
        # Whatever is taken by position may be named, in any order.
        named = {**dict(zip(("x", "y"), positional, strict=False)), **keywords}
        tensors = {name: value for name, value in reversed(named.items()) if isinstance(value, Tensor)}
        assert close(program(**tensors), expected)


@pytest.mark.parametrize("budget", [None, "unlimited", "1MB", "1MiB", 1_000_000])
def test_budgets(budget: str | int | None, tmp_path: Path) -> None:
    made = occ.compile(Layers(), (torch.ones(4, 64),), budget, tmp_path / "model.occ")
    assert made.path == tmp_path / "model.occ"
    limits = {"1MB": 10**6, "1MiB": 1 << 20, 1_000_000: 10**6}
    assert made.plan.budget.limit == limits.get(budget)  # type: ignore[arg-type]
    assert budget is None or budget == "unlimited" or made.plan.budget.total <= 1 << 20


@pytest.mark.parametrize("budget", ["lots", "12XB", 0, -1, "0MB"])
def test_what_is_no_budget(budget: str | int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="size"):
        occ.compile(Layers(), (torch.ones(4, 64),), budget, tmp_path / "model.occ")
    assert not list(tmp_path.iterdir())


class Constants(nn.Module):
    def forward(self, x: Tensor, power: int, mode: str | None, *, causal: bool = True) -> Tensor:
        return x**power + (1 if mode is None else 2) + (3 if causal else 4)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((3, None), {}, "positional input 1 was 2 when the model was compiled, not 3"),
        ((2.0, None), {}, "positional input 1 was 2 .* not 2.0"),
        ((2, "fast"), {}, "positional input 2 was None .* not 'fast'"),
        ((2, None), {"causal": False}, "'causal' was True .* not False"),
        ((2, None), {"causal": 1}, "'causal' was True .* not 1"),
        ((torch.tensor(2), None), {}, "positional input 1 was 2 .* not Tensor"),
    ],
)
def test_constants_have_to_be_the_same(args: Any, kwargs: Any, words: str, constants: Program) -> None:
    x = torch.randn(3)
    with pytest.raises(InputError, match=words):
        constants(x, *args, **kwargs)
    assert close(constants(x, 2, None, causal=True), Constants()(x, 2, None))
    assert close(constants(x), Constants()(x, 2, None))


@pytest.fixture(scope="module")
def constants(tmp_path_factory: pytest.TempPathFactory) -> Program:
    inputs = ((torch.ones(3), 2, None), {"causal": True})
    return compiled(Constants(), inputs, tmp_path_factory.mktemp("constants"))


def test_inputs_of_any_layout(layers: Path) -> None:
    module = Layers()
    x = torch.randn(4, 64)
    wide = torch.randn(4, 128)
    with occ.load(layers) as program:
        for given in (
            x.t().contiguous().t(),
            wide[:, ::2],
            torch.randn(1, 64).expand(4, 64),
            x.requires_grad_(),
        ):
            before = given.detach().clone()
            assert close(program(given), module(given).detach())
            assert torch.equal(given, before)


# Results


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None
    hidden: tuple[Tensor, ...]


class Structures(nn.Module):
    def forward(self, x: Tensor) -> Any:
        y = x + 1
        return OrderedDict(
            z=y * 2,
            a=(y, [y.sum(), None, 3, "text", 2.5, True], {}),
            answer=Answer(logits=y - 3, loss=None, hidden=(x * 0, x > 0, x.argmax())),
        )


def test_structures_are_those_of_eager(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    with compiled(Structures(), (torch.ones(2, 3),), tmp_path) as program:
        expected = dict(Structures()(x))
        answer = expected["answer"]
        # A dataclass comes back as a dict in the order of its fields, without those that are None.
        expected["answer"] = {"logits": answer.logits, "hidden": answer.hidden}
        assert close(program(x), expected)


class Twins(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = x * 2
        return x, x[1], y, y.t(), y[0], y


def test_outputs_alias_as_in_eager(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    with compiled(Twins(), (torch.ones(2, 3),), tmp_path) as program:
        same, row, y, turned, first, again = program(x)  # type: ignore[misc]
        assert same is x
        assert close((same, row, y, turned, first, again), Twins()(x))
        y.fill_(7.0)
        for alias in (turned, first, again):
            assert alias.eq(7.0).all()
        row.fill_(3.0)
        assert x[1].eq(3.0).all()


def test_results_are_the_callers(layers: Path) -> None:
    with occ.load(layers) as program:
        first = program(torch.ones(4, 64))
        kept = first.clone()
        program(torch.zeros(4, 64))
        assert torch.equal(first, kept)
        mine = torch.empty(4, 64)
        [name] = [spec["name"] for spec in program.manifest["outputs"]]
        assert program(torch.zeros(4, 64), out={name: mine}) is not None
        again = program(torch.zeros(4, 64))
        assert torch.equal(mine, again)
    assert torch.equal(first, kept)


class InPlace(nn.Module):
    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        counts.add_(1)
        x[0].mul_(2)
        return x + counts


def test_changed_inputs_are_written_back(tmp_path: Path) -> None:
    with compiled(InPlace(), (torch.ones(2, 3), torch.zeros(3)), tmp_path) as program:
        for layout in (lambda t: t, lambda t: t.t().contiguous().t()):
            ours, counts = layout(torch.arange(6.0).reshape(2, 3)), torch.zeros(3)
            theirs, expected_counts = ours.clone(), counts.clone()
            for _ in range(2):
                assert close(program(ours, counts), InPlace()(theirs, expected_counts))
                assert torch.equal(ours, theirs)
                assert torch.equal(counts, expected_counts)


class Tied(nn.Module):
    def __init__(self, rows: int = 500) -> None:
        super().__init__()
        self.embed = nn.Embedding(rows, 64)
        self.head = nn.Linear(64, rows, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    module = Tied()
    made = occ.compile(module, (torch.tensor([3]),), None, tmp_path / "tied.occ")
    assert made.source.weights_nbytes == 500 * 64 * 4
    assert made.source.file_nbytes < 1.5 * 500 * 64 * 4
    with occ.load(tmp_path / "tied.occ") as program:
        assert close(program(torch.tensor([499])), module(torch.tensor([499])).detach())


@pytest.mark.skipif(not probe(), reason="oneDNN's layouts do not work here")
def test_a_tied_head_has_the_table_packed(tmp_path: Path) -> None:
    """In memory the table is there once, as the product reads it; rows come from there or from the file."""
    module = Tied(10_007)
    ids = torch.randint(10_007, (40,))
    ids[:3] = torch.tensor([0, 10_006, 10_006])
    expected = module(ids).detach()
    nbytes = 10_007 * 64 * 4
    made = occ.compile(module, (ids,), None, tmp_path / "all.occ")
    assert nbytes <= made.source.weights_nbytes <= 1.02 * nbytes
    assert 2 * nbytes <= made.source.file_nbytes <= 2.1 * nbytes
    assert made.plan.budget.arena - ids.numel() * 10_007 * 4 < 1.1 * nbytes
    small = occ.replan(tmp_path / "all.occ", "min", tmp_path / "min.occ")
    lookups = [(plan.program.steps[0].kernel, plan.choices.gathers) for plan in (made.plan, small.plan)]
    assert lookups == [("packed_embedding", ()), ("gather", (0,))]
    for name in ("all", "min"):
        with occ.load(tmp_path / f"{name}.occ") as program:
            assert close(program(ids), expected)
            with pytest.raises(IndexError, match="10007"):
                program(torch.full((40,), 10_007))
            assert close(program(ids), expected)


# The handle


def test_a_closed_handle(layers: Path) -> None:
    with occ.load(layers) as program:
        result = program(torch.ones(4, 64))
    for _ in range(2):
        program.close()
    with pytest.raises(HandleError, match=r"layers\.occ was closed; load it again"):
        program(torch.ones(4, 64))
    with pytest.raises(HandleError, match="was closed"):
        program.reset()
    assert close(result, Layers()(torch.ones(4, 64)).detach())


def test_threads_take_turns(layers: Path) -> None:
    module = Layers()
    inputs = [torch.randn(4, 64) for _ in range(6)]
    expected = [module(x).detach() for x in inputs]
    wrong: list[int] = []

    with occ.load(layers) as program:

        def work(begin: int) -> None:
            for turn in range(12):
                index = (begin + turn) % len(inputs)
                if not close(program(inputs[index]), expected[index]):
                    wrong.append(index)

        workers = [threading.Thread(target=work, args=(begin,)) for begin in (0, 3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert program.stats().runs == 24
    assert not wrong


def test_a_wrong_call_does_no_harm(layers: Path) -> None:
    x = torch.randn(4, 64)
    with occ.load(layers) as program:
        for args, kwargs, words in (
            ((), {}, "input 'x' is missing; the model takes x"),
            ((x, x), {}, "2 positional inputs were passed and 1 are taken"),
            ((x,), {"x": x}, "'x' was passed twice"),
            ((x,), {"z": x}, "'z' is unknown"),
            ((x[:3],), {}, r"a float32 tensor of shape \(4, 64\), not a float32 tensor of shape \(3, 64\)"),
            ((x.double(),), {}, "not a float64 tensor"),
            ((x.numpy(),), {}, "not ndarray"),
            ((x,), {"out": {"z": x}}, "'z', which is no output"),
        ):
            with pytest.raises(InputError, match=words):
                program(*args, **kwargs)
            assert close(program(x), Layers()(x).detach())


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(2000, 64)
        self.linear = nn.Linear(64, 64)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.table(ids))


@pytest.mark.parametrize(("budget", "kernel"), [(None, "embedding"), ("400kB", "gather")])
def test_an_index_outside_a_table(budget: str | None, kernel: str, tmp_path: Path) -> None:
    made = occ.compile(Lookup(), (torch.tensor([1, 2]),), budget, tmp_path / "lookup.occ")
    # Read from memory or by row from the file, an index outside is the same error, before anything is read.
    assert any(kernel in step.kernel for step in made.plan.program.steps)
    assert bool(any(step.stored for step in made.plan.program.steps)) is (kernel == "gather")
    with occ.load(tmp_path / "lookup.occ") as program:
        for index in (2000, -1, 1 << 40):
            with pytest.raises(IndexRangeError, match=rf"index {index} is outside .*2000 rows"):
                program(torch.tensor([0, index]))
            ids = torch.tensor([1999, 0])
            assert close(program(ids), Lookup()(ids).detach())


@pytest.mark.parametrize("use", [lambda x, index: x[index], lambda x, index: x.gather(0, index[:, None])])
def test_an_index_outside_any_tensor(use: Any, tmp_path: Path) -> None:
    class Use(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Any:
            return use(x, index)

    x = torch.randn(10, 3)
    with compiled(Use(), (x, torch.tensor([1, 2])), tmp_path) as program:
        with pytest.raises(IndexRangeError, match="index 10 is out of bounds for dimension 0 with size 10"):
            program(x, torch.tensor([1, 10]))
        assert close(program(x, torch.tensor([9, 0])), use(x, torch.tensor([9, 0])))


# State


class Decoder(nn.Module):
    """One attention layer with its keys and values of up to 16 tokens in buffers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 32)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 50)
        self.register_buffer("keys", torch.zeros(16, 32))
        self.register_buffer("values", torch.zeros(16, 32))

    def forward(self, token: Tensor, position: Tensor) -> Tensor:
        query, key, value = self.qkv(self.embed(token)).chunk(3, dim=-1)
        self.keys.index_copy_(0, position, key)
        self.values.index_copy_(0, position, value)
        scores = query @ self.keys.t() / 32**0.5
        scores = scores.masked_fill(torch.arange(16) > position, float("-inf"))
        return self.out(scores.softmax(-1) @ self.values)


def decode(step: Any, tokens: Tensor) -> list[Tensor]:
    return [step(tokens[i : i + 1], torch.tensor([i])).detach() for i in range(len(tokens))]


def test_decoding_with_state_equals_eager(tmp_path: Path) -> None:
    module = Decoder()
    tokens = torch.randint(0, 50, (16,), generator=torch.Generator().manual_seed(0))
    with compiled(module, (torch.tensor([0]), torch.tensor([0])), tmp_path) as program:
        with torch.no_grad():
            expected = decode(copy.deepcopy(module), tokens)
        assert close(decode(program, tokens), expected)
        assert not close(program(tokens[:1], torch.tensor([15])), expected[15])
        program.reset()
        assert close(decode(program, tokens), expected)
    assert module.keys.eq(0).all()  # type: ignore[union-attr, operator]


class Counter(nn.Module):
    """Counts its runs before it looks up a row."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.register_buffer("count", torch.full((1,), 5.0))

    def forward(self, index: Tensor) -> Tensor:
        self.count.add_(1)
        return self.table(index) * 0 + self.count


def test_a_failed_run_leaves_state_unknown_until_reset(tmp_path: Path) -> None:
    with compiled(Counter(), (torch.tensor([0]),), tmp_path) as program:
        assert program(torch.tensor([1])).eq(6).all()
        with pytest.raises(InputError):
            program(torch.tensor([1.0]))
        assert program(torch.tensor([1])).eq(7).all()
        with pytest.raises(IndexRangeError):
            program(torch.tensor([10]))
        for _ in range(2):
            with pytest.raises(HandleError, match=r"state half updated; call reset\(\)"):
                program(torch.tensor([1]))
        program.reset()
        assert program(torch.tensor([1])).eq(6).all()
