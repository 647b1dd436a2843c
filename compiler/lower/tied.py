"""Weights that products read beside other operators, an embedding tied to the head above all.

A product wants a weight in oneDNN's layout, everything else as it was. Where all else looks a few rows up,
the file has both: the plain table, of which a gather reads rows and which never is in memory, and the
product's. Where all weights are resident, rows are looked up in the product's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from occ.gathers import gather_pays
from occ.lower.draft import PackedTable, Traced, meta_like
from occ.lower.lowering import Lowering, op_name_or_none

PRODUCTS = frozenset(
    {
        "linear.default",
        "addmm.default",
        "mm.default",
        "matmul.default",
        "conv1d.default",
        "conv2d.default",
        "conv3d.default",
        "conv1d.padding",
        "conv2d.padding",
        "conv3d.padding",
        "conv_transpose1d.default",
        "conv_transpose2d.input",
        "conv_transpose3d.input",
        "lstm.input",
        "gru.input",
        "rnn_tanh.input",
        "rnn_relu.input",
        "lstm_cell.default",
        "gru_cell.default",
        "rnn_tanh_cell.default",
        "rnn_relu_cell.default",
    }
)
"""Operators whose weights may be packed."""

TURNS = frozenset({"t.default", "transpose.int", "permute.default"})
"""Operators that turn a weight around for one of them."""

BLOCKS = (64, 48, 32, 16)
"""Rows that oneDNN puts together in one block of a weight."""


def is_product(user: Node) -> bool:
    """Whether an operator's weight may be packed, or it shows a weight to such operators alone."""
    name = op_name_or_none(user)
    shows = name in TURNS or name == "slice.Tensor"
    return name in PRODUCTS or (shows and all(map(is_product, user.users)))


def is_looked_up(users: Sequence[Node]) -> bool:
    """Whether of those that read a weight one is a product, and all others look a few of its rows up."""
    others = [user for user in users if not is_product(user)]
    return bool(others) and len(users) - len(others) == 1 and all(map(_looks_few_up, others))


def _looks_few_up(user: Node) -> bool:
    if op_name_or_none(user) != "embedding.default":
        return False
    found, table = user.meta["val"], user.all_input_nodes[0].meta["val"]
    row_nbytes = table.shape[1] * table.element_size()
    return row_nbytes > 0 and gather_pays(found.numel() // table.shape[1], row_nbytes, table.nbytes)


def packed_table(low: Lowering, weight: torch.Tensor, pieces: Sequence[Traced]) -> PackedTable | None:
    """A weight [rows, columns] as its packed pieces hold it; None where they are no blocks of rows, each
    with its columns one after another."""
    found: list[Traced] = []
    starts = [0]
    for piece in pieces:
        assert piece.packing is not None
        first, last = starts[-1], starts[-1] + piece.packing.shape[0]
        blocks = _blocks(weight[first:last], low.store.tensors[piece.buffer])
        if blocks is None:
            return None
        strides = (blocks[1] * blocks[2], blocks[2], 1)
        found.append(Traced(piece.name, piece.buffer, meta_like(blocks, strides, weight.dtype)))
        starts.append(last)
    return PackedTable(tuple(starts), tuple(found))


def _blocks(part: torch.Tensor, packed: torch.Tensor) -> tuple[int, int, int] | None:
    """[blocks, columns, rows of a block] of packed rows."""
    rows, columns = part.shape
    if packed.numel() % part.element_size():
        return None
    elements = packed.view(part.dtype)
    for block in BLOCKS:
        count = -(-rows // block)
        if elements.numel() == count * columns * block:
            blocks = elements.view(count, columns, block)
            if torch.equal(blocks.transpose(1, 2).reshape(-1, columns)[:rows], part):
                return count, columns, block
    return None


def use_packed_tables(low: Lowering) -> None:
    """Have lookups in tables of which a product has a packed copy look there, or in the file."""
    for step in low.draft.steps:
        table = step.args["weight"] if step.kernel == "embedding" else None
        packed = low.packed_tables.get(table.buffer) if table is not None else None
        if table is not None and packed is not None:
            step.kernel = "packed_embedding"
            step.args = {
                "weight": table,
                "pieces": packed.pieces,
                "starts": packed.starts,
                "indices": step.args["indices"],
            }
            step.stored = [table]
