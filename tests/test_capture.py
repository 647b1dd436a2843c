"""Capture: structures, names, constants, ties, mutation, errors, and the activation peak."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_models import SMALL, build
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves

from occ.capture import Captured, capture
from occ.errors import UsageError
from occ.model_file import as_call, load_model_file
from occ.runtime_stub.tree import flatten_inputs, unflatten

FEW_KINDS = ["resnet", "bert", "llama", "gpt2_decode", "t5", "lstm_lm", "gru_speech", "unet"]


class Calls(nn.Module):
    """A module made of a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def run(captured: Captured, *args: Any, **kwargs: Any) -> Any:
    """What an artifact does around its steps, with the exported graph in the place of the steps."""
    names = [taken.name for taken in captured.inputs]
    tensors = flatten_inputs(captured.input_tree, names, args, kwargs)
    values = {taken.node: tensor for taken, tensor in zip(captured.inputs, tensors, strict=True)}
    values |= captured.tensors
    placeholders = [n.name for n in captured.exported.graph.nodes if n.op == "placeholder"]
    interpreter = Interpreter(captured.exported.graph_module)
    results = interpreter.run(*(values.get(name) for name in placeholders))
    specs = captured.exported.graph_signature.output_specs
    wanted = [
        result
        for result, spec in zip(results, specs, strict=True)
        if spec.kind.name == "USER_OUTPUT" and isinstance(result, Tensor)
    ]
    return unflatten(captured.output_tree, wanted)


def assert_same(got: Any, expected: Any) -> None:
    got_leaves, expected_leaves = tree_leaves(got), tree_leaves(expected)
    assert len(got_leaves) == len(expected_leaves)
    for one, other in zip(got_leaves, expected_leaves, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


# Structures


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(
        self,
        x: Tensor,
        pair: tuple[Tensor, int],
        options: dict[str, Any],
        scale: float | None,
        *,
        bias: Tensor,
    ) -> dict[str, Any]:
        y = self.layer(x) * pair[1] + pair[0]
        if scale is not None:
            y = y * scale
        if options["square"]:
            y = y * y
        return {"y": y, "parts": [y + bias, (bias.t(), None, 3)], "same": x, "w": self.layer.weight}


def test_nested_structures_come_back_as_eager_returns_them() -> None:
    module = Nested()
    args = (torch.randn(4, 4), (torch.randn(4), 2), {"square": True, "offset": [torch.ones(1)]}, 0.5)
    kwargs = {"bias": torch.randn(4, 4)}
    captured = capture(module, (args, kwargs))
    assert [taken.name for taken in captured.inputs] == ["x", "pair_0", "options_offset_0", "bias"]
    assert captured.input_tree == {
        "tuple": [
            {
                "tuple": [
                    {"tensor": 0},
                    {"tuple": [{"tensor": 1}, {"constant": 2}]},
                    {"dict": [["square", {"constant": True}], ["offset", {"list": [{"tensor": 2}]}]]},
                    {"constant": 0.5},
                ]
            },
            {"dict": [["bias", {"tensor": 3}]]},
        ]
    }
    with torch.no_grad():
        expected = module(*args, **kwargs)
    result = run(captured, *args, **kwargs)
    assert list(result) == ["y", "parts", "same", "w"]
    assert isinstance(result["parts"], list)
    assert result["parts"][1][1:] == (None, 3)
    assert_same(result, expected)
    assert captured.outputs[3:] == ("x", "p_layer_weight")


def test_keyword_inputs_keep_their_names() -> None:
    captured = capture(nn.Bilinear(3, 4, 5), {"input2": torch.randn(2, 4), "input1": torch.randn(2, 3)})
    assert sorted(taken.name for taken in captured.inputs) == ["input1", "input2"]
    by_name = {taken.name: taken.example.shape for taken in captured.inputs}
    assert by_name == {"input1": (2, 3), "input2": (2, 4)}


Pair = namedtuple("Pair", "low high")


@dataclasses.dataclass
class Scores:
    logits: Tensor
    hidden: Tensor | None
    parts: Pair


def test_dataclasses_become_dicts_and_named_tuples_tuples() -> None:
    captured = capture(Calls(lambda x: Scores(x + 1, None, Pair(x.amin(), x.amax()))), (torch.randn(3),))
    assert captured.output_tree == {
        "dict": [["logits", {"tensor": 0}], ["parts", {"tuple": [{"tensor": 1}, {"tensor": 2}]}]]
    }


def test_constants_keep_infinities_and_none() -> None:
    captured = capture(
        Calls(lambda x, limit, unused: (x.clamp(max=limit), -limit)), (torch.ones(2), math.inf, None)
    )
    assert captured.input_tree["tuple"][0]["tuple"][1:] == [
        {"constant": {"float": "inf"}},
        {"constant": None},
    ]
    assert captured.output_tree == {"tuple": [{"tensor": 0}, {"constant": {"float": "-inf"}}]}


def test_names_are_unique() -> None:
    captured = capture(Calls(lambda *xs: xs[0][0] + xs[1]), ([torch.ones(1)], torch.ones(1)))
    names = [taken.name for taken in captured.inputs]
    assert names == ["args_0_0", "args_1"]


def test_transformers_outputs_and_caches() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=50
    )
    captured = capture(
        transformers.LlamaForCausalLM(config), {"input_ids": torch.ones(1, 6, dtype=torch.long)}
    )
    tree = dict(captured.output_tree["dict"])
    assert tree["logits"] == {"tensor": 0}
    assert len(tree["past_key_values"]["tuple"]) == 2
    assert len(captured.outputs) == 5


# Weights, state, inputs that change


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("transposed", self.embed.weight.detach().t())
        self.lifted = torch.arange(3.0)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens)) @ self.transposed.t() + self.lifted.sum()


def test_tied_tensors_are_one_object() -> None:
    captured = capture(Tied(), (torch.tensor([1, 2]),))
    tensors = captured.tensors
    assert tensors["c_lifted"].tolist() == [0.0, 1.0, 2.0]
    weights = [t for t in tensors.values() if t.shape == (10, 4)]
    assert len({id(t) for t in weights}) == 1
    assert len({t.data_ptr() for t in tensors.values()}) == 2


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(6, 4))
        self.register_buffer("table", torch.ones(4))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        self.keys.index_copy_(0, position, x)
        x.add_(1)
        return (self.keys * self.table).sum(0)


def test_changed_buffers_and_inputs_are_told_apart() -> None:
    captured = capture(Cached(), (torch.randn(1, 4), torch.tensor([2])))
    assert captured.mutated_buffers == {"b_keys": "index_copy"}
    assert list(captured.mutated_inputs) == ["x"]
    assert set(captured.tensors) == {"b_keys", "b_table"}


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4).eval())
    capture(module, (torch.randn(2, 4),))
    assert module.training
    assert module[0].training
    assert not module[1].training
    assert not module._forward_hooks


@pytest.mark.parametrize("name", FEW_KINDS)
def test_real_structures(name: str, recwarn: pytest.WarningsRecorder, caplog: Any) -> None:
    model = build(name)
    with caplog.at_level(logging.WARNING):
        captured = capture(model.module, model.example_inputs)
    assert not caplog.records
    assert not recwarn.list
    args, kwargs = as_call(model.example_inputs)
    with torch.no_grad():
        result = run(captured, *args, **kwargs)
        expected = model.module(*args, **kwargs)
    expected = dict(expected) if isinstance(expected, dict) else expected
    assert_same(result, expected)


def test_every_small_network_is_known_here() -> None:
    assert set(FEW_KINDS) <= set(SMALL)


# Errors


def branches(x: Tensor) -> Tensor:
    return x + 1 if x.sum() > 0 else x - 1


@pytest.mark.parametrize(
    ("function", "inputs", "words"),
    [
        (branches, (torch.ones(2),), ["test_capture.py", "control flow depends on the values"]),
        (lambda x: x.nonzero(), (torch.ones(2),), ["size that depends on the data", "nonzero"]),
        (lambda x: x @ x, (torch.ones(2, 3),), ["RuntimeError", "test_capture.py"]),
        (lambda x, y: x, (torch.ones(2),), ["TypeError", "argument"]),
        (lambda x: object(), (torch.ones(2),), ["the result", "type object"]),
        (lambda x: {3: x}, (torch.ones(2),), ["the key 3"]),
        (lambda x, y: x, (torch.ones(2), object()), ["type object"]),
        (lambda x: x.shape[0] * x.sum().item(), (torch.ones(2),), ["depends on the data"]),
    ],
)
def test_errors_are_one_line(function: Any, inputs: Any, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        capture(Calls(function), inputs)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


# The activation peak


def peak_of(function: Any, *inputs: Tensor) -> int:
    return capture(Calls(function), inputs).activation_peak


VECTOR = torch.ones(256)  # 1024 bytes


def test_a_chain_holds_its_input_and_two_values() -> None:
    assert peak_of(lambda x: ((x + 1) * 2).exp(), VECTOR) == 3 * 1024


def test_the_last_of_a_long_chain_is_no_more() -> None:
    assert peak_of(lambda x: x.exp().exp().exp().exp().exp(), VECTOR) == 3 * 1024


def test_a_value_lives_to_its_last_use() -> None:
    def function(x: Tensor) -> Tensor:
        kept = x + 1
        return kept.exp().exp().exp() * kept

    assert peak_of(function, VECTOR) == 4 * 1024


def test_views_are_free_and_keep_their_base() -> None:
    def function(x: Tensor) -> Tensor:
        first = (x + 1).view(16, 16).t()[0]  # 64 bytes that keep 1024
        other = x.exp().exp()
        return first.sum() + other.sum()

    # x, the base of `first`, and both sides of the second exp
    assert peak_of(function, VECTOR) == 4 * 1024


def test_a_reshape_that_copies_counts() -> None:
    assert peak_of(lambda x: (x + 1).view(16, 16).t().reshape(256), VECTOR) == 3 * 1024


def test_weights_are_not_counted_and_outputs_are() -> None:
    captured = capture(nn.Linear(256, 64), (VECTOR,))
    assert captured.activation_peak == 1024 + 256


def test_state_counts_once() -> None:
    captured = capture(Cached(), (torch.randn(1, 4), torch.tensor([2])))
    # keys 96, x 16, position 8, keys * table 96, its sum 16
    assert captured.activation_peak == 96 + 16 + 8 + 96 + 16


def test_returned_inputs_and_weights_take_nothing() -> None:
    class Returns(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return x, self.weight

    assert capture(Returns(2, 2), (VECTOR,)).activation_peak == 1024


class Footprint(Interpreter):
    """Runs a graph and notes the largest sum of distinct storages that its values hold, those of `inputs`
    always and those of `weights` never."""

    def __init__(self, graph_module: Any, inputs: list[Tensor], weights: list[Tensor]) -> None:
        super().__init__(graph_module)
        self.inputs = inputs
        self.weights = {tensor.untyped_storage()._cdata for tensor in weights}
        self.peak = 0

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        used = [value for node, value in self.env.items() if node.users]
        held = [t for t in tree_leaves([self.inputs, used, result]) if isinstance(t, Tensor)]
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}
        self.peak = max(self.peak, sum(size for key, size in storages.items() if key not in self.weights))
        return result


@pytest.mark.parametrize("name", ["resnet", "bert", "llama", "swin", "densenet", "lstm_lm"])
def test_the_peak_is_what_running_the_graph_holds(name: str) -> None:
    model = build(name)
    captured = capture(model.module, model.example_inputs)
    inputs = {taken.node: taken.example.clone() for taken in captured.inputs}
    weights = {key: tensor.clone() for key, tensor in captured.tensors.items()}
    footprint = Footprint(captured.exported.graph_module, list(inputs.values()), list(weights.values()))
    placeholders = [n.name for n in captured.exported.graph.nodes if n.op == "placeholder"]
    with torch.no_grad():
        footprint.run(*((inputs | weights).get(name) for name in placeholders))
    assert footprint.peak == captured.activation_peak


# MODEL.py


def write(folder: Path, text: str) -> str:
    path = folder / "net.py"
    path.write_text("import torch\nfrom torch import nn\n" + text)
    return str(path)


def test_a_model_file(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_net.py").write_text("WIDTH = 3\n")
    text = (
        "from neighbour_of_net import WIDTH\nmodel = nn.Linear(WIDTH, 2)\nexample_inputs = (torch.ones(3),)\n"
    )
    found = load_model_file(write(tmp_path, text))
    assert found.name == "net"
    assert isinstance(found.module, nn.Linear)
    assert len(found.example_inputs[0]) == 1


def test_functions_and_another_name(tmp_path: Path) -> None:
    text = (
        "def model(): raise ValueError('not this one')\n"
        "def small(): return nn.Linear(3, 2)\n"
        "def example_inputs(): return {'input': torch.ones(1, 3)}\n"
    )
    found = load_model_file(write(tmp_path, text) + ":small")
    assert isinstance(found.module, nn.Linear)
    assert list(found.example_inputs[1]) == ["input"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = 1 / 0\n", ["ZeroDivisionError", "net.py:3", "division by zero"]),
        ("def broken(:\n", ["SyntaxError", "net.py:3"]),
        ("raise SystemExit('bye')\n", ["SystemExit", "bye"]),
        ("def model():\n  return unknown\nexample_inputs = ()\n", ["NameError", "net.py:4"]),
        ("example_inputs = (torch.ones(1),)\n", ["does not define `model`"]),
        ("model = nn.Linear(1, 1)\n", ["does not define `example_inputs`"]),
        ("model = 3\nexample_inputs = ()\n", ["an nn.Module, not an int"]),
        ("model = nn.ReLU\nexample_inputs = ()\n", ["the class ReLU"]),
        ("model = nn.ReLU()\nexample_inputs = 3\n", ["a tuple or dict of tensors, not an int"]),
        ("model = nn.ReLU()\nexample_inputs = {1: torch.ones(1)}\n", ["names of arguments"]),
        ("model = nn.Linear(1, 1, device='meta')\nexample_inputs = ()\n", ["meta device", "--weights"]),
    ],
)
def test_a_bad_model_file_is_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_model_file(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_a_missing_model_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.py does not exist"):
        load_model_file(str(tmp_path / "nothing.py"))


# Weights from a safetensors file

TIED_FILE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4, device="meta")
        self.head = nn.Linear(4, 10, bias=False, device="meta")
        self.head.weight = self.embed.weight
    def forward(self, x):
        return self.head(self.embed(x))
model = Net()
example_inputs = (torch.tensor([1]),)
"""


def test_weights_are_mapped_tied_and_converted(tmp_path: Path) -> None:
    weight = torch.randn(10, 4, dtype=torch.float64)
    save_file({"embed.weight": weight.float()}, tmp_path / "single.safetensors")
    save_file({"embed.weight": weight}, tmp_path / "double.safetensors")
    model = write(tmp_path, TIED_FILE)
    for name in ("single", "double"):
        module = load_model_file(model, tmp_path / f"{name}.safetensors").module
        state = module.state_dict()
        assert torch.equal(state["head.weight"], weight.float())
        assert state["head.weight"].data_ptr() == state["embed.weight"].data_ptr()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, ["lacks 2 tensors", "embed.weight"]),
        ({"embed.weight": (10, 4), "extra": (1,)}, ["holds extra that the model lacks"]),
        ({"embed.weight": (9, 4)}, ["embed.weight has shape (9, 4)", "(10, 4)"]),
    ],
)
def test_wrong_weights(tmp_path: Path, tensors: dict[str, tuple[int, ...]], words: list[str]) -> None:
    path = tmp_path / "w.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    with pytest.raises(UsageError) as caught:
        load_model_file(write(tmp_path, TIED_FILE), path)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_weights_that_are_no_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for content in (None, b"not a safetensors file"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match="cannot read the weights"):
            load_model_file(write(tmp_path, TIED_FILE), path)
