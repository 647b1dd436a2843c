"""The manifest: what the runtime has to know of a plan beside the program's text."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import occ
from occ.codegen.checksums import Checksums
from occ.ir import Plan, Program
from occ.runtime_stub.integrity import FORMAT
from occ.serialize import plain


def manifest_of(plan: Plan) -> dict[str, Any]:
    """Everything in the manifest that follows from the plan alone."""
    program, budget, machine = plan.program, plan.budget, plan.machine
    written = {program.values[id].buffer for step in program.steps for id in step.writes}
    by_value = {entry.value: index for index, entry in enumerate(program.inputs)}
    return {
        "format": FORMAT,
        "occ": occ.__version__,
        "model": program.name,
        "machine": plain(machine) if machine.device == "cpu" else asdict(machine),
        "arena_nbytes": budget.arena,
        "budget": {**plain(budget), "total": budget.total},
        "weights_nbytes": program.file_nbytes,
        "inputs": [
            {
                **_tensor(program, entry.name, entry.value),
                "mutated": program.values[entry.value].buffer in written,
            }
            for entry in program.inputs
        ],
        "outputs": [
            {**_tensor(program, entry.name, entry.value), "input": by_value.get(entry.value)}
            for entry in program.outputs
        ],
        "input_tree": plain(program.input_tree),
        "output_tree": plain(program.output_tree),
        "states": [
            {"name": state.name, "nbytes": program.buffers[state.buffer].nbytes} for state in program.states
        ],
        "resident_nbytes": sum(plan.sizing.tiles[id].nbytes for id in plan.sizing.resident),
        "streamed_nbytes": plan.prediction.streamed_nbytes,
    }


def manifest_json(plan: Plan, sums: Checksums, members: dict[str, str]) -> bytes:
    """The manifest's bytes; `members` gives the SHA-256 of every other member of the archive."""
    content = {
        **manifest_of(plan),
        "tile_crcs": list(sums.tiles),
        "state_crcs": list(sums.states),
        "rest_crc": sums.rest,
        "members": members,
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _tensor(program: Program, name: str, value: int) -> dict[str, Any]:
    found = program.values[value]
    return {
        "name": name,
        "dtype": found.dtype,
        "shape": list(found.shape),
        "strides": list(found.strides),
    }
