"""The command line of an artifact: `python model.occ --input x=x.npy --output y=y.npy`.

`__main__` has checked every member of the archive before this module is imported. Exit codes: 0 done,
2 bad input or an unfit machine, 4 damaged weights, 70 a bug, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from .ending import report
from .errors import InputError
from .integrity import read_member
from .machine import check_machine, set_openmp

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
        run(path, manifest, options)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        return report(error, options.debug)
    return 0


def run(path: str, manifest: dict[str, Any], options: argparse.Namespace) -> None:
    """Run the program once. `options` has lists of NAME=FILE.npy `input` and `output`, `trace` (a path or
    None) and `stats`.

    Every file is written before anything is printed. Raises the errors of this package, DamageError and
    OSError.
    """
    set_openmp(manifest["machine"])
    check_machine(manifest["machine"])
    # OpenMP reads its settings when torch is imported, so nothing that imports it may come before them.
    import torch

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
    with Program(path, manifest, text, read_member(path, "pages.crc")) as program:
        names = [spec["name"] for spec in manifest["outputs"]]
        outputs = dict(zip(names, program.run(arrays, trace=trace), strict=True))
        stats = program.stats()
        for name, file in targets.items():
            write_npy(file, outputs[name])
        # Only now: it is one more run, which goes on from the state of the first and writes over its outputs.
        workspace = _workspace_line(program, arrays, outputs) if options.stats else ""
    if trace is not None:
        trace.write_chrome(options.trace)
    for spec in manifest["outputs"]:
        if spec["name"] not in targets:
            print(f"{spec['name']}: {spec['dtype']} {tuple(spec['shape'])}")
    if options.stats:
        print(
            f"arena {stats.arena_nbytes / 1e6:.1f} MB, start {stats.cold_start * 1e3:.1f} ms,"
            f" run {stats.last_latency * 1e3:.1f} ms of which {stats.last_stall * 1e3:.1f} ms waiting,"
            f" read {stats.nbytes_read / 1e6:.1f} MB ({'direct' if stats.direct else 'buffered'})",
            workspace,
            sep="\n",
            file=sys.stderr,
        )


def _workspace_line(program: Program, arrays: Sequence[object], outputs: Mapping[str, Tensor]) -> str:
    """What the steps took outside the arena in one more run, against what the plan declared."""
    from .workspace import BLOCK, largest_workspace

    declared = program.manifest["budget"]["workspace"]
    try:
        where, taken = largest_workspace(program, arrays, outputs)
    except OSError as error:
        return f"workspace {declared / 1e6:.2f} MB declared; it cannot be measured here ({error})"
    verdict = "more than" if taken > declared + BLOCK else "within"
    return (
        f"workspace {taken / 1e6:.2f} MB at most, in {where}: {verdict} the {declared / 1e6:.2f} MB declared"
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
    parser.add_argument("--input", action="append", default=[], metavar="NAME=FILE.npy")
    parser.add_argument("--output", action="append", default=[], metavar="NAME=FILE.npy")
    parser.add_argument("--trace", metavar="FILE.json", help="write a Chrome trace of the run")
    parser.add_argument("--stats", action="store_true", help="print times and bytes to standard error")
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
