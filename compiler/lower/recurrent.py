"""LSTM, GRU and simple recurrent layers: for each layer and direction one product with the inputs of all time
steps, then the recurrence, whose only weight is the recurrent one.

The product is an ordinary linear layer, cut into pieces where it is large. So at no step more than one
recurrent weight has to be in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch.fx import Node

from occ.codegen.native.recurrent import GATES, UNITS
from occ.lower import products
from occ.lower.constants import Constant
from occ.lower.draft import Traced
from occ.lower.lowering import Lowering, Rule, op_name

aten = torch.ops.aten

COMPUTED = (torch.float32, torch.float64)
"""Types whose gates are rounded no further than in eager mode, which keeps those of 16-bit layers wider."""

KERNELS = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "rnn", "rnn_relu": "rnn"}


@dataclass(frozen=True, slots=True)
class Cell:
    """The parameters of one direction of one layer, as constants; `kind` is the operator's name."""

    kind: str
    input_weight: Constant
    recurrent_weight: Constant
    input_bias: Constant | None
    recurrent_bias: Constant | None
    projection: Constant | None

    @property
    def size(self) -> int:
        """Units: the gates of one step, over their number."""
        return int(self.recurrent_weight.tensor.shape[0]) // {"lstm": 4, "gru": 3}.get(self.kind, 1)

    @property
    def width(self) -> int:
        """Of the hidden state, which is what the recurrent weight multiplies."""
        return int(self.recurrent_weight.tensor.shape[1])


def layers(low: Lowering, node: Node, operands: dict[str, Any], *, native: bool = False) -> Any:
    """A stack of layers in one or two directions: (out, last hidden states[, last cell states])."""
    kind = op_name(node.target).split(".")[0]
    directions = 2 if operands["bidirectional"] else 1
    x = low.tensor(operands["input"])
    given = operands["hx"] if kind == "lstm" else (operands["hx"],)
    cells = _cells(kind, operands["params"], operands["has_biases"], operands["num_layers"] * directions)
    if cells is None or x.meta.dim() != 3 or x.meta.dtype not in COMPUTED or _drops(operands):
        return low.functional(node, operands)
    batch_first = bool(operands["batch_first"])
    last = [low.new(f"{node.name}_last", t.shape, t.dtype) for t in node.meta["val"][1:]]
    for layer in range(operands["num_layers"]):
        width = cells[layer * directions].width
        out = low.new(f"{node.name}_layer{layer}", (*x.meta.shape[:2], directions * width), x.meta.dtype)
        for direction in range(directions):
            index = layer * directions + direction
            _recurrence(
                low,
                node,
                cells[index],
                low.contiguous(node, x),
                [_state(low, state, index) for state in given],
                direction == 1,
                batch_first,
                native,
                out.viewed_as(out.meta.narrow(2, direction * width, width)),
                [state.viewed_as(state.meta[index]) for state in last],
            )
        x = out
    return (x, *last)


def cell(low: Lowering, node: Node, operands: dict[str, Any], *, native: bool = False) -> Any:
    """One step of one layer: the next hidden state, or (hidden, cell)."""
    kind = op_name(node.target).split("_cell.")[0]
    x = low.tensor(operands["input"])
    given = operands["hx"] if kind == "lstm" else (operands["hx"],)
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    params = [operands[name] for name in names if operands.get(name) is not None]
    cells = _cells(kind, params, len(params) == 4, 1)
    if cells is None or x.meta.dim() != 2 or x.meta.dtype not in COMPUTED:
        return low.functional(node, operands)
    results = node.meta["val"]
    shapes = [t.shape for t in (results if kind == "lstm" else (results,))]
    out = low.new(node.name, (1, *shapes[0]), x.meta.dtype)
    last = [low.new(f"{node.name}_last", shape, x.meta.dtype) for shape in shapes]
    x = low.contiguous(node, x)
    step = x.viewed_as(x.meta.unsqueeze(0))
    states = [None if _is_zero(state) else state for state in given]
    _recurrence(low, node, cells[0], step, states, False, False, native, out, last)
    hidden = out.viewed_as(out.meta[0])
    return (hidden, last[1]) if kind == "lstm" else hidden


def _drops(operands: Mapping[str, Any]) -> bool:
    return bool(operands["train"] and operands["dropout"])


def _cells(kind: str, params: Any, biased: bool, count: int) -> list[Cell] | None:
    """The parameters of `count` cells, in torch's order; None where one of them is computed."""
    if not all(isinstance(p, Constant) for p in params) or len(params) % count:
        return None
    each = len(params) // count
    found = []
    for first in range(0, len(params), each):
        input_weight, recurrent_weight, *rest = params[first : first + each]
        biases = [rest.pop(0), rest.pop(0)] if biased else [None, None]
        found.append(
            Cell(kind, input_weight, recurrent_weight, biases[0], biases[1], rest[0] if rest else None)
        )
    return found


def _state(low: Lowering, states: Any, index: int) -> Any:
    """The initial state of one cell; None for zeros."""
    if _is_zero(states):
        return None
    if isinstance(states, Constant):
        return Constant(f"{states.name}[{index}]", states.tensor[index])
    return low.view(aten.select.int, {"self": states, "dim": 0, "index": index})


def _is_zero(state: Any) -> bool:
    return isinstance(state, Constant) and not bool(torch.count_nonzero(state.tensor))


def _recurrence(
    low: Lowering,
    node: Node,
    cell: Cell,
    x: Traced,
    given: list[Any],
    reverse: bool,
    batch_first: bool,
    native: bool,
    out: Traced,
    last: list[Traced],
) -> None:
    """Emit the product of x (contiguous) with the input weight, and the recurrence over its rows in time.

    x and `out` are [batch, time, features], or [time, batch, features]; `given` and `last` hold the states
    before and after.
    """
    flat = x.viewed_as(x.meta.view(prod(x.meta.shape[:2]), x.meta.shape[2]))
    ahead, left = _biases(low, cell)
    gates = products.linear(low, node, flat, cell.input_weight, ahead)
    gates = gates.viewed_as(gates.meta.view(*x.meta.shape[:2], gates.meta.shape[1]))
    if batch_first:
        gates, out = (t.viewed_as(t.meta.transpose(0, 1)) for t in (gates, out))
    args: dict[str, Any] = {"gates": gates, "weight": cell.recurrent_weight}
    if cell.kind == "lstm":
        args |= {"projection": cell.projection, "hidden": given[0], "cell": given[1]}
    elif cell.kind == "gru":
        args |= {"bias": left, "hidden": given[0]}
    else:
        args |= {"hidden": given[0], "relu": cell.kind == "rnn_relu"}
    kernel = KERNELS[cell.kind]
    if native and cell.projection is None and out.meta.dtype is torch.float32:
        kernel = f"native_{kernel}"
        args.pop("projection", None)
        args["weight"] = low.store.transformed(
            cell.recurrent_weight, kernel, partial(panels, KERNELS[cell.kind])
        )
    low.emit(node, kernel, {**args, "reverse": reverse}, [out, *last])


def panels(kernel: str, weight: torch.Tensor) -> torch.Tensor:
    """A recurrent weight [gates * size, width] as the native kernels read it: [panels, width, gates * units],
    zeros behind the last unit."""
    gates, units = GATES[kernel], UNITS[kernel]
    size, width = weight.shape[0] // gates, weight.shape[1]
    padded = torch.nn.functional.pad(weight.view(gates, size, width), (0, 0, 0, -size % units))
    split = padded.view(gates, -1, units, width)
    return split.permute(1, 3, 0, 2).reshape(-1, width, gates * units).contiguous()


def _biases(low: Lowering, cell: Cell) -> tuple[Constant | None, Constant | None]:
    """The bias that the product with the inputs adds, and what is left: GRU's reset gate multiplies the
    recurrent bias of the new state."""
    first, second = cell.input_bias, cell.recurrent_bias
    if first is None or second is None:
        return first, second
    ahead = second.tensor
    left = None
    if cell.kind == "gru":
        left = Constant(second.name, second.tensor[2 * cell.size :])
        ahead = torch.cat([second.tensor[: 2 * cell.size], torch.zeros_like(left.tensor)])
    key = f"plus {second.tensor.data_ptr()}"
    return low.store.transformed(first, key, lambda t: t + ahead), left


RULES: dict[str, Rule] = {
    **{f"{kind}.input": layers for kind in KERNELS},
    **{f"{kind}_cell.default": cell for kind in KERNELS},
}
NATIVE_RULES: dict[str, Rule] = {
    **{f"{kind}.input": partial(layers, native=True) for kind in KERNELS},
    **{f"{kind}_cell.default": partial(cell, native=True) for kind in KERNELS},
}
