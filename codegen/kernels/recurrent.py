"""Recurrent layers: one direction of one layer, whose products with the input come before.

Cut along time, a part begins with the states that the part before left.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from occ.codegen.kernels.rows import ROWS, Splits, outermost
from occ.codegen.kernels.table import Kernel, Operand, Spec, operands_call
from occ.codegen.native.recurrent import GATES, recurrence
from occ.ir import SplitAxis

STATES = {"lstm": ("hidden", "cell"), "gru": ("hidden",), "rnn": ("hidden",)}
"""Operands that hold a state before; their last values are the results behind the first, in this order."""


def _gates_of_one_step(args: Mapping[str, Operand], out: Spec) -> tuple[Spec, ...]:
    gates = args["gates"]
    assert isinstance(gates, Spec)
    _, batch, width = gates.shape
    return (Spec(gates.dtype, (batch, width), (width, 1)),)


def _in_time(kind: str) -> Splits:
    """The axis along time."""
    carries = tuple((state, place) for place, state in enumerate(STATES[kind], 1))

    def splits(args: Mapping[str, Operand], out: Spec) -> tuple[SplitAxis, ...]:
        gates = args["gates"]
        assert isinstance(gates, Spec)
        if outermost(gates) != 0 or outermost(out) != 0:
            return ()
        reverse = bool(args["reverse"])
        axis = SplitAxis(ROWS, out.shape[0], 1, (("gates", 0),), (0,), carries=carries, descending=reverse)
        return (axis,)

    return splits


KERNELS: tuple[Kernel, ...] = (
    Kernel("lstm", operands_call("kernels.lstm"), scratch=_gates_of_one_step, splits=_in_time("lstm")),
    Kernel("gru", operands_call("kernels.gru"), scratch=_gates_of_one_step, splits=_in_time("gru")),
    Kernel("rnn", operands_call("kernels.rnn"), splits=_in_time("rnn")),
    *(Kernel(f"native_{kind}", native=partial(recurrence, kind), splits=_in_time(kind)) for kind in GATES),
)
