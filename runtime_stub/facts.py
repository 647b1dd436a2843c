"""What a trace says of a plan, read from plan.json: names, bytes, and what the arena holds at every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

ALIGNMENT = 64
HELD = {"activation": "activations", "scratch": "scratch", "state": "state"}


@dataclass(frozen=True, slots=True)
class StepFacts:
    """A step: `writes` are the bytes its results span, `seconds` and `workspace` what the plan expects."""

    name: str
    module: str
    kernel: str
    writes: int
    seconds: float
    workspace: int


@dataclass(frozen=True, slots=True)
class TileFacts:
    """A tile: `weights` names what it holds and `module` where that is first used; `nbytes` bytes of the file
    from `file_offset`, at `address` of the arena."""

    name: str
    weights: tuple[str, ...]
    module: str
    file_offset: int
    address: int
    nbytes: int
    resident: bool


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """`in_use` has the bytes that the plan says are taken at every step, by what holds them."""

    model: str
    steps: tuple[StepFacts, ...]
    tiles: tuple[TileFacts, ...]
    in_use: Mapping[str, tuple[int, ...]]


def plan_facts(plan: Mapping[str, Any]) -> PlanFacts:
    """The facts of a plan as plan.json has it."""
    program = plan["program"]
    return PlanFacts(
        model=program["name"],
        steps=tuple(_step(program, *each) for each in zip(program["steps"], plan["costs"], strict=True)),
        tiles=tuple(_tiles(plan)),
        in_use=_in_use(plan),
    )


def _step(program: Mapping[str, Any], step: Mapping[str, Any], cost: Mapping[str, Any]) -> StepFacts:
    buffers = {program["values"][value]["buffer"] for value in step["outs"]}
    return StepFacts(
        name=step["name"],
        module=step["module"],
        kernel=step["kernel"],
        writes=sum(program["buffers"][buffer]["nbytes"] for buffer in buffers),
        seconds=cost["seconds"] if isinstance(cost["seconds"], (int, float)) else 0.0,
        workspace=cost["workspace"],
    )


def _tiles(plan: Mapping[str, Any]) -> Iterator[TileFacts]:
    program, sizing = plan["program"], plan["sizing"]
    resident = set(sizing["resident"])
    modules: dict[int, str] = {}
    for step in program["steps"]:
        for value in _values(step):
            modules.setdefault(program["values"][value]["buffer"], step["module"])
    for tile in sizing["tiles"]:
        grains = program["grains"][tile["first_grain"] : tile["last_grain"]]
        pieces: dict[int, tuple[int, int]] = {}
        for grain in grains:
            first = pieces.get(grain["weight"], (grain["first"], 0))[0]
            pieces[grain["weight"]] = (first, grain["first"] + grain["nbytes"])
        weights = tuple(_piece(program["buffers"][weight], *piece) for weight, piece in pieces.items())
        yield TileFacts(
            name=weights[0] + (f" and {len(weights) - 1} more" if len(weights) > 1 else ""),
            weights=weights,
            module=next((modules[weight] for weight in pieces if weight in modules), ""),
            file_offset=tile["file_offset"],
            address=plan["tile_offsets"][tile["id"]],
            nbytes=tile["nbytes"],
            resident=tile["id"] in resident,
        )


def _piece(weight: Mapping[str, Any], first: int, last: int) -> str:
    whole = (first, last) == (0, weight["nbytes"])
    return str(weight["name"]) if whole else f"{weight['name']}[{first}:{last}]"


def _in_use(plan: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """A buffer is there from its first step to its last, state always; a tile from its load's issue, not
    usable before the deadline, to its last use."""
    program, sizing = plan["program"], plan["sizing"]
    count = len(program["steps"])
    taken: dict[str, list[int]] = {}

    def take(what: str, first: int, last: int, nbytes: int) -> None:
        change = taken.setdefault(what, [0] * (count + 1))
        change[first] += nbytes
        change[last] -= nbytes

    touched: dict[int, tuple[int, int]] = {}
    for index, step in enumerate(program["steps"]):
        for value in _values(step):
            buffer = program["values"][value]["buffer"]
            touched[buffer] = (touched.get(buffer, (index, 0))[0], index + 1)
    for buffer in program["buffers"]:
        if buffer["kind"] in HELD:
            span = (0, count) if buffer["kind"] == "state" else touched.get(buffer["id"], (0, 0))
            take(HELD[buffer["kind"]], *span, -(-buffer["nbytes"] // ALIGNMENT) * ALIGNMENT)
    for tile in sizing["resident"]:
        take("resident weights", 0, count, sizing["tiles"][tile]["nbytes"])
    for load in sizing["loads"]:
        nbytes, end = sizing["tiles"][load["tile"]]["nbytes"], load["last_use"] + 1
        wraps = load.get("wraps", False)
        take("weights on their way", load["issue"], count if wraps else load["deadline"], nbytes)
        if wraps:
            take("weights on their way", 0, load["deadline"], nbytes)
        take("streamed weights", load["deadline"], end, nbytes)
    return {what: tuple(accumulate(change[:-1])) for what, change in sorted(taken.items()) if any(change)}


def _values(step: Mapping[str, Any]) -> Iterator[int]:
    """Every value a step reads in memory or writes."""
    stored = set(step.get("stored", ()))
    for _, arg in step["args"]:
        yield from (value for value in _refs(arg) if value not in stored)
    yield from step["outs"]
    yield from step.get("scratch", ())


def _refs(arg: object) -> Iterator[int]:
    if isinstance(arg, dict):
        if "value" in arg:
            yield arg["value"]
    elif isinstance(arg, list):
        for item in arg:
            yield from _refs(item)
