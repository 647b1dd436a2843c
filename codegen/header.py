"""The first thing a reader of a program sees: what it claims, and how to run it."""

from __future__ import annotations

from occ.codegen.addresses import Addresses
from occ.codegen.names import comment, listing
from occ.ir import Plan
from occ.units import format_bytes, format_seconds


def title(plan: Plan) -> str:
    """`resnet50 in 64 MB`: the model and the total it runs in."""
    return f"{comment(plan.program.name)} in {format_bytes(plan.budget.total)}"


def header(plan: Plan) -> list[str]:
    """Lines for the program's docstring."""
    budget, prediction, machine = plan.budget, plan.prediction, plan.machine
    of_limit = "" if budget.limit is None else f"of a budget of {budget.limit:,}"
    rows = [
        ("arena", f"{budget.arena:>15,}", _claim(plan)),
        ("outputs", f"{budget.outputs:>15,}", ""),
        ("workspace", f"{budget.workspace:>15,}", "the most that any step takes outside the arena"),
        *_loader(plan),
        ("total", f"{budget.total:>15,}", of_limit),
        ("weights", f"{plan.program.weights_nbytes:>15,}", _weights(plan)),
    ]
    lines = ["bytes" if machine.device == "cpu" else "bytes of the device, but for the host's"]
    lines += [f"  {name:<10} {nbytes}  {note}".rstrip() for name, nbytes, note in rows]
    lines += [
        "",
        f"predicted  {format_seconds(prediction.latency)} a run, {format_seconds(prediction.stall)} of it"
        f" waiting for loads; {format_seconds(prediction.cold_start)} to start",
        comment(f"made for   {_machine(plan)}"),
        f"inputs     {_names([entry.name for entry in plan.program.inputs])}",
        f"outputs    {_names([entry.name for entry in plan.program.outputs])}",
        f"run        {_command(plan)}",
    ]
    return [line[:118] for line in lines]


def _loader(plan: Plan) -> list[tuple[str, str, str]]:
    """What loading takes: of the same memory on a CPU, of the host's beside a device."""
    budget, machine = plan.budget, plan.machine
    if machine.device == "cpu":
        return [("loader", f"{budget.loader:>15,}", "")]
    limit = "" if budget.host_limit is None else f", of a budget of {budget.host_limit:,}"
    kept = "a pinned ring" if machine.stream_from == "ssd" else "a pinned ring and the streamed weights"
    return [
        ("host", f"{budget.host:>15,}", f"{kept}{limit}; not in the total"),
        ("context", f"{budget.context:>15,}", "what the driver takes besides; not in the total"),
    ]


def _machine(plan: Plan) -> str:
    machine = plan.machine
    if machine.device == "cpu":
        return f"{machine.device}, {machine.threads} threads, torch {machine.torch}, {machine.cpu}"
    return (
        f"{machine.device} {machine.capability} ({machine.cpu}), torch {machine.torch};"
        f" streams from {machine.stream_from}"
    )


def _claim(plan: Plan) -> str:
    placement = plan.placement
    if placement.height == placement.bound:
        return "the bound itself: no arena for these live ranges is smaller (proven)"
    over = 100 * (placement.height / placement.bound - 1) if placement.bound else 0.0
    text = f"{over:.2f} % over the bound of {placement.bound:,}"
    return f"{text}; no arena is smaller (proven)" if placement.optimal else f"{text}; not proven least"


def _weights(plan: Plan) -> str:
    resident = sum(plan.sizing.tiles[id].nbytes for id in plan.sizing.resident)
    stored = sum(table.rows * table.row_nbytes for table in Addresses(plan).stored)
    parts = (
        (resident, "resident"),
        (plan.prediction.streamed_nbytes, "read at every run"),
        (stored, "in tables read by row"),
    )
    return "; ".join(f"{nbytes:,} {what}" for nbytes, what in parts if nbytes)


def _names(names: list[str]) -> str:
    return comment(listing(names, 6)) or "none"


def _command(plan: Plan) -> str:
    words = [f"python {plan.program.name}.occ"]
    words += [f"--input {entry.name}={entry.name}.npy" for entry in plan.program.inputs[:2]]
    words += [f"--output {entry.name}={entry.name}.npy" for entry in plan.program.outputs[:1]]
    return comment(" ".join(words))
