"""Recurrent layers: one direction of one layer, whose products with the input come before."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from occ.codegen.kernels.table import Kernel, Operand, Spec, operands_call
from occ.codegen.native.recurrent import GATES, recurrence


def _gates_of_one_step(args: Mapping[str, Operand], out: Spec) -> tuple[Spec, ...]:
    gates = args["gates"]
    assert isinstance(gates, Spec)
    _, batch, width = gates.shape
    return (Spec(gates.dtype, (batch, width), (width, 1)),)


KERNELS: tuple[Kernel, ...] = (
    Kernel("lstm", operands_call("kernels.lstm"), scratch=_gates_of_one_step),
    Kernel("gru", operands_call("kernels.gru"), scratch=_gates_of_one_step),
    Kernel("rnn", operands_call("kernels.rnn")),
    *(Kernel(f"native_{kind}", native=partial(recurrence, kind)) for kind in GATES),
)
