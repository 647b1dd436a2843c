"""The process that runs one artifact as a device does; `occ.fresh_run` talks to it."""

from __future__ import annotations

from occ.runtime_stub.machine import set_allocator

# As in a program's process: before torch, and before any thread.
set_allocator()

import gc  # noqa: E402
from time import perf_counter  # noqa: E402

import torch  # noqa: E402

from occ.child import Answer, serve  # noqa: E402
from occ.resident import peak_nbytes, reset_peak, resident_nbytes  # noqa: E402
from occ.runtime_stub import entry, npy  # noqa: E402, F401
from occ.runtime_stub.integrity import DamageError  # noqa: E402
from occ.runtime_stub.machine import trim_heap  # noqa: E402
from occ.runtime_stub.program import load  # noqa: E402
from occ.warm_up import warm_up  # noqa: E402


def main() -> None:
    def handle(request: Answer) -> Answer:
        torch.set_num_threads(request["threads"])
        inputs = torch.load(request["inputs"], weights_only=True)
        warm_up()
        gc.collect()
        trim_heap()
        before = resident_nbytes()
        reset_peak()
        began = perf_counter()
        try:
            with load(request["path"]) as program:
                outputs = program.run(inputs)
                cold_start = perf_counter() - began
                del outputs
                for _ in range(request["runs"] - 1):
                    program.run(inputs)
                return {"cold_start": cold_start, "growth": peak_nbytes() - before, "process": peak_nbytes()}
        except DamageError as error:
            return {"damage": str(error)}

    serve(handle)
