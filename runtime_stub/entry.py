"""The command line of an artifact: `python model.occ --input x=x.npy --output y=y.npy`.

`__main__` has checked every member of the archive before this module is imported. Exit codes: 0 done,
2 bad input or an unfit machine, 4 damaged weights, 70 a bug, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from .ending import report
from .errors import InputError
from .integrity import read_member
from .machine import check_machine, set_allocator, set_openmp

if TYPE_CHECKING:
    from torch import Tensor

    from .program import Program


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see python {self.prog} --help\n")


def main(path: str, manifest: dict[str, Any], argv: Sequence[str]) -> int:
    """Run the program at `path` once, as the arguments say. Returns the exit code."""
    options = _parser(path, manifest).parse_args(argv)
    try:
        text = run(path, manifest, options)
        print(text, end="\n" if text else "", flush=True)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, options.debug)
    return 0


def run(path: str, manifest: dict[str, Any], options: argparse.Namespace) -> str:
    """Run the program once and return what is to be printed. `options` has lists of NAME=FILE.npy `input` and
    `output`, `trace` (a path or None), `stats` and `json`.

    Every file is written before that. Raises the errors of this package, DamageError and
    OSError.
    """
    set_openmp(manifest["machine"])
    set_allocator()
    check_machine(manifest["machine"])
    # OpenMP reads its settings when torch is imported, so nothing that imports it may come before them.
    import torch

    from .chrome import write_chrome
    from .npy import read_npy, write_npy
    from .program import Program
    from .trace import StepTrace

    torch.set_num_threads(manifest["machine"]["threads"])
    inputs = {spec["name"]: spec for spec in manifest["inputs"]}
    files = _assignments("--input", options.input, list(inputs))
    targets = _assignments("--output", options.output, [spec["name"] for spec in manifest["outputs"]])
    missing = [name for name in inputs if name not in files]
    if missing:
        raise InputError(f"input {missing[0]!r} is missing; add --input {missing[0]}=FILE.npy")
    arrays = [read_npy(files[name], spec) for name, spec in inputs.items()]

    text = read_member(path, "program.py").decode("utf-8")
    trace = StepTrace(text) if options.trace else None
    with Program(path, manifest, text, read_member(path, "pages.crc"), trace) as program:
        names = [spec["name"] for spec in manifest["outputs"]]
        outputs = dict(zip(names, program.run(arrays, trace=trace), strict=True))
        stats = program.stats()
        if trace is not None:
            program.settle()
        for name, file in targets.items():
            write_npy(file, outputs[name])
        # Only now: it is one more run, which goes on from the state of the first and writes over its outputs.
        workspace = _workspace(program, arrays, outputs) if options.stats else {}
    if trace is not None:
        write_chrome(options.trace, trace, json.loads(read_member(path, "plan.json"))["plan"])
    if options.json:
        return json.dumps(
            {
                "artifact": path,
                "outputs": [
                    {
                        "name": spec["name"],
                        "dtype": spec["dtype"],
                        "shape": spec["shape"],
                        "file": targets.get(spec["name"]),
                    }
                    for spec in manifest["outputs"]
                ],
                "stats": {**asdict(stats), **workspace},
                "trace": options.trace,
            },
            indent=1,
        )
    if options.stats:
        print(
            f"arena {stats.arena_nbytes / 1e6:.1f} MB, start {stats.cold_start * 1e3:.1f} ms,"
            f" run {stats.last_latency * 1e3:.1f} ms of which {stats.last_stall * 1e3:.1f} ms waiting,"
            f" read {stats.nbytes_read / 1e6:.1f} MB ({'direct' if stats.direct else 'buffered'})",
            _workspace_line(workspace),
            sep="\n",
            file=sys.stderr,
        )
    return "\n".join(
        f"{spec['name']}: {spec['dtype']} {tuple(spec['shape'])}"
        for spec in manifest["outputs"]
        if spec["name"] not in targets
    )


def _workspace(program: Program, arrays: Sequence[object], outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the steps took outside the arena in one more run (bytes), where, and what the plan declared. Where
    it cannot be measured the reason stands in its place."""
    from .workspace import BLOCK, largest_workspace

    declared = program.manifest["budget"]["workspace"]
    try:
        where, taken = largest_workspace(program, arrays, outputs)
    except OSError as error:
        return {"workspace_declared": declared, "workspace_unknown": str(error)}
    return {
        "workspace_declared": declared,
        "workspace": taken,
        "workspace_at": where,
        "workspace_within": taken <= declared + BLOCK,
    }


def _workspace_line(found: Mapping[str, Any]) -> str:
    declared = f"{found['workspace_declared'] / 1e6:.2f} MB declared"
    if "workspace_unknown" in found:
        return f"workspace {declared}; it cannot be measured here ({found['workspace_unknown']})"
    verdict = "within" if found["workspace_within"] else "more than"
    return (
        f"workspace {found['workspace'] / 1e6:.2f} MB at most, in {found['workspace_at']}: {verdict} the"
        f" {declared}"
    )


def _parser(path: str, manifest: dict[str, Any]) -> argparse.ArgumentParser:
    described = [
        f"{role} {spec['name']}: {spec['dtype']} {tuple(spec['shape'])}"
        for role in ("input", "output")
        for spec in manifest[f"{role}s"]
    ]
    parser = _Parser(
        prog=os.path.basename(path),
        description=f"{manifest['model']}, compiled by occ {manifest['occ']}.",
        epilog="; ".join(described),
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="an array of the type and shape below (bfloat16: float32); once for each input",
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="write an output; the others are listed with type and shape",
    )
    parser.add_argument("--trace", metavar="FILE.json", help="write a Chrome trace of the run")
    parser.add_argument("--stats", action="store_true", help="print times and bytes to standard error")
    parser.add_argument("--json", action="store_true", help="print outputs, times and bytes as JSON")
    parser.add_argument("--debug", action="store_true", help="show a traceback for any error")
    return parser


def _assignments(option: str, texts: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or not file:
            raise InputError(f"{option} takes NAME=FILE.npy, not {text!r}")
        if name not in names:
            raise InputError(f"{option} {name!r} is unknown; the model has {', '.join(names) or 'none'}")
        if name in found:
            raise InputError(f"{option} {name} was given twice")
        found[name] = file
    return found
