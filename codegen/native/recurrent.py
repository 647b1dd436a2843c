"""One direction of a recurrent layer in C: for each step the product with the recurrent weight and, in the
same pass over it, the new states (`recurrent.h`).

The work of a step is cut among threads by panels of the weight, so that each thread reads its part of the
weight from its own cache at every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from occ.codegen.native.unit import NativeFunction, Parameter, native_function
from occ.codegen.native.vectors import header, row
from occ.codegen.specs import Operand, Spec

GATES = {"lstm": 4, "gru": 3, "rnn": 1}

UNITS = {"lstm": 16, "gru": 16, "rnn": 64}
"""Units of one panel; gates and units together make 64 columns at most."""

WORTH_THREADS = 256 << 10
"""Bytes of a recurrent weight from which a step is cut among threads, which meet after every step."""


def recurrence(
    kind: str, args: Mapping[str, Operand], outs: Sequence[Spec], scratch: Sequence[Spec]
) -> NativeFunction:
    """The function of a `native_lstm`, `native_gru` or `native_rnn` (with `relu`), all float32.

    `gates` [time, batch, gates * size]; `weight` [panels, width, gates * units], see `recurrent.h`; `hidden`
    [batch, width] and `cell` [batch, size], or None for zeros; `bias` [size] or None. Results [time, batch,
    size] and [batch, size], any strides. `reverse`: from the last step to the first.
    """
    specs = {name: arg for name, arg in args.items() if isinstance(arg, Spec)}
    parameters = [Parameter(name, spec.dtype) for name, spec in specs.items()]
    for name, out in zip(("out", "last_hidden", "last_cell"), outs, strict=False):
        specs[name] = out
        parameters.append(Parameter(name, out.dtype, written=True))
    time, batch, size = outs[0].shape
    panels, width, columns = cast(Spec, args["weight"]).shape
    constants = {
        **{name: name for name in specs},
        "kind": {"lstm": "LSTM", "gru": "GRU"}.get(kind, "RELU" if args.get("relu") else "TANH"),
        "reverse": int(bool(args["reverse"])),
        **{"time": time, "batch": batch, "size": size, "width": width},
        **{"units": UNITS[kind], "columns": columns},
        **{f"{name}_strides": row(spec.strides) for name, spec in specs.items() if name != "weight"},
    }
    layer = [
        "const layer_t l = {",
        *(f"    .{name} = {value}," for name, value in constants.items()),
        "};",
    ]
    threads = panels > 1 and 4 * panels * width * columns >= WORTH_THREADS
    # What the threads run is a function of its own, which sees the numbers only where they stand in it.
    lines = [
        *([*layer, "first_cells(&l);"] if kind == "lstm" else layer),
        f"#pragma omp parallel if ({int(threads)})",
        "{",
        *(f"    {line}" for line in layer),
        f"    for (long n = 0; n < {time}; n++) {{",
        "#pragma omp for schedule(static)",
        f"        for (long p = 0; p < {panels}; p++) step_of_panel(&l, n, p);",
        "    }",
        "}",
        "last_states(&l);",
    ]
    body = "\n".join(line if line.startswith("#") else f"    {line}" for line in lines)
    note = f"{kind.upper()}: {time} steps of {batch} x {size} units, the weight in {panels} panels."
    return native_function(kind, parameters, body, (header("vectors.h"), header("recurrent.h")), note)
