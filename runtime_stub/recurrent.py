"""Recurrent layers, one direction of one layer at a time, over a sequence whose products with the input are
done.

Every function takes `gates` [time, batch, gates * size], which is x @ W_ih^T with the biases that can be
added ahead, the recurrent weight [gates * size, width of the hidden state], and initial states (None for
zeros). It writes the hidden states to `out` [time, batch, width] and the states after the last step. Where
`reverse`, time runs from the last step to the first.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def lstm(
    gates: Tensor,
    weight: Tensor,
    projection: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    reverse: bool,
    scratch: Tensor,
    out: Tensor,
    last_hidden: Tensor,
    last_cell: Tensor,
) -> None:
    """LSTM (Hochreiter and Schmidhuber, 1997; projection: Sak et al., 2014); the gates are i, f, g, o.

    `scratch` is [batch, 4 * size]; `last_cell` holds the cell state on the way.
    """
    size = last_cell.shape[-1]
    inner, forget, candidate, outer = (scratch[:, size * k : size * (k + 1)] for k in range(4))
    both, recurrent = scratch[:, : 2 * size], weight.t()
    if cell is None:
        last_cell.zero_()
    else:
        last_cell.copy_(cell)
    for given, state in _in_time(gates, out, reverse):
        if hidden is None:
            scratch.copy_(given)
        else:
            torch.addmm(given, hidden, recurrent, out=scratch)
        both.sigmoid_()
        candidate.tanh_()
        outer.sigmoid_()
        last_cell.mul_(forget).addcmul_(inner, candidate)
        torch.tanh(last_cell, out=inner)
        if projection is None:
            torch.mul(outer, inner, out=state)
        else:
            torch.mm(outer.mul_(inner), projection.t(), out=state)
        hidden = state
    if hidden is not None:
        last_hidden.copy_(hidden)


def gru(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    reverse: bool,
    scratch: Tensor,
    out: Tensor,
    last_hidden: Tensor,
) -> None:
    """GRU (Cho et al., 2014) in the form of cuDNN and torch: gates r, z, n, and r applied after the product.

    `bias` [size] is the recurrent bias of n, which r multiplies; `scratch` is [batch, 3 * size].
    """
    size = last_hidden.shape[-1]
    reset, update, new = (scratch[:, size * k : size * (k + 1)] for k in range(3))
    both, recurrent = scratch[:, : 2 * size], weight.t()
    for given, state in _in_time(gates, out, reverse):
        if hidden is None:
            scratch.zero_()
        else:
            torch.mm(hidden, recurrent, out=scratch)
        if bias is not None:
            new.add_(bias)
        both.add_(given[:, : 2 * size]).sigmoid_()
        new.mul_(reset).add_(given[:, 2 * size :]).tanh_()
        if hidden is None:
            torch.sub(new, update.mul_(new), out=state)
        else:
            torch.lerp(new, hidden, update, out=state)
        hidden = state
    if hidden is not None:
        last_hidden.copy_(hidden)


def rnn(
    gates: Tensor,
    weight: Tensor,
    hidden: Tensor | None,
    relu: bool,
    reverse: bool,
    out: Tensor,
    last_hidden: Tensor,
) -> None:
    """Elman's network (1990) with tanh or ReLU."""
    recurrent = weight.t()
    for given, state in _in_time(gates, out, reverse):
        if hidden is None:
            state.copy_(given)
        else:
            torch.addmm(given, hidden, recurrent, out=state)
        if relu:
            state.clamp_min_(0)
        else:
            state.tanh_()
        hidden = state
    if hidden is not None:
        last_hidden.copy_(hidden)


def _in_time(gates: Tensor, out: Tensor, reverse: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """What each step reads and writes. Made one at a time: views of a long sequence take megabytes."""
    steps = range(gates.shape[0])
    for step in reversed(steps) if reverse else steps:
        yield gates[step], out[step]
