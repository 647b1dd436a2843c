"""How weights reach a device that has memory of its own, and what that takes of the host's.

From storage ("ssd") they pass through a ring of pinned memory; from the host ("host") those that a run
streams are copied out of pinned memory that holds them. Either is memory that the host cannot use otherwise,
and has a budget of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from occ.errors import BudgetError, UsageError
from occ.ir import BufferKind, Machine, Plan, Program, Sizing, Value, weight_file_offsets
from occ.runtime_stub.hostmemory import host_nbytes as host_memory
from occ.runtime_stub.hostmemory import least_ring_nbytes, ring_of
from occ.target import Target
from occ.units import PAGE, format_bytes, parse_bytes, round_down

DEVICES = ("cpu", "cuda")
SOURCES = ("ssd", "host")


@dataclass(frozen=True, slots=True)
class Feed:
    """Where weights come from, "ssd" or "host", and the bytes of the host that they may take (None: as many
    as they need)."""

    stream_from: str = "ssd"
    host_limit: int | None = None


def parse_feed(
    device: str,
    stream_from: str | None,
    host_budget: str | int | None,
    *,
    process_budget: object = None,
    portable: bool = False,
) -> Feed:
    """The feed that a user's options describe, for the device that programs run on.

    Raises UsageError for options that do not go together.
    """
    if device not in DEVICES:
        raise UsageError(f"there is no device {device!r}; it is one of {', '.join(DEVICES)}")
    if device == "cpu":
        for option, given in (("--stream-from", stream_from), ("--host-budget", host_budget)):
            if given is not None:
                raise UsageError(
                    f"{option} {given} is for a device with memory of its own; with --device cpu the budget"
                    " is the host's memory"
                )
        return Feed()
    if process_budget is not None:
        raise UsageError(
            f"a process budget of {process_budget} counts one memory and --device cuda uses two; give"
            " --budget for the device and --host-budget for the host"
        )
    if portable:
        raise UsageError(
            "--portable is about layouts of weights on a CPU; with --device cuda weights are plain anyway"
        )
    if stream_from not in (None, *SOURCES):
        raise UsageError(f"weights cannot come from {stream_from!r}; --stream-from is ssd or host")
    return Feed(stream_from or "ssd", None if host_budget is None else parse_bytes(host_budget))


def ring_nbytes(program: Program, feed: Feed) -> int:
    """Bytes of the pinned ring, whole pages: what the program can use, and no more than the host's budget.

    Raises BudgetError where the budget is below the least ring.
    """
    tables = _embedded(program)
    wanted = ring_of(0, [(0, program.file_nbytes)], tables)
    if feed.host_limit is None:
        return wanted
    least = least_ring_nbytes(tables)
    if feed.host_limit < least:
        raise BudgetError(
            f"a host budget of {feed.host_limit} bytes ({format_bytes(feed.host_limit)}) is too small for"
            f" {program.name}: its weights pass through a pinned ring of at least {least} bytes"
            f" ({format_bytes(least)})",
            least,
        )
    return min(wanted, round_down(feed.host_limit, PAGE))


def host_nbytes(program: Program, sizing: Sizing, machine: Machine) -> int:
    """Bytes of host memory that the runtime of a rewritten program takes for its weights."""
    tiles = [(tile.file_offset, tile.nbytes) for tile in sizing.tiles]
    stored = dict.fromkeys(value for step in program.steps for value in step.stored)
    tables = [_table(program, program.values[value]) for value in stored]
    return host_memory(machine.stream_from, machine.ring_nbytes, tiles, sizing.resident, tables)


def check_memories(plan: Plan, target: Target) -> None:
    """Raise BudgetError where a plan takes more than its host budget, or than the device has."""
    budget, accelerator = plan.budget, target.accelerator
    if budget.host_limit is not None and budget.host > budget.host_limit:
        raise BudgetError(
            f"a host budget of {budget.host_limit} bytes ({format_bytes(budget.host_limit)}) is too small for"
            f" {plan.program.name} in {format_bytes(budget.total)} of device memory: the weights that it"
            f" streams from the host take {budget.host} bytes of it ({format_bytes(budget.host)}); give it"
            f" more of either, or stream from the SSD (--stream-from ssd) through"
            f" {format_bytes(plan.machine.ring_nbytes)}",
            budget.host,
        )
    if accelerator is not None and budget.total + budget.context > accelerator.total_nbytes:
        raise UsageError(
            f"{plan.program.name} takes {format_bytes(budget.total)} and the CUDA context"
            f" {format_bytes(budget.context)}; {accelerator.name} has"
            f" {format_bytes(accelerator.total_nbytes)}: give a --budget of at most"
            f" {format_bytes(accelerator.total_nbytes - budget.context)}"
        )


def _table(program: Program, value: Value) -> tuple[int, int, int]:
    """A weight as a table in the file: its offset there, bytes a row, rows."""
    begin = weight_file_offsets(program)[value.buffer] + value.offset
    return begin, value.strides[0] * value.itemsize, value.shape[0]


def _embedded(program: Program) -> list[tuple[int, int, int]]:
    """The tables that any plan may leave in the file."""
    reads = (step.reads[0] for step in program.steps if step.kernel == "embedding")
    values = (program.values[value] for value in dict.fromkeys(reads))
    return [
        _table(program, value)
        for value in values
        if program.buffers[value.buffer].kind is BufferKind.WEIGHT and value.shape
    ]
