"""The command line of an artifact: `python model.occ --input x=x.npy --output y=y.npy`.

`__main__` has checked every member of the archive before this module is imported. Exit codes: 0 done,
2 bad input or an unfit machine, 4 damaged weights.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .errors import InputError, ProgramError
from .integrity import DamageError, read_member
from .machine import check_machine, set_openmp


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see python {self.prog} --help\n")


def main(path: str, manifest: dict[str, Any], argv: Sequence[str]) -> int:
    """Run the program at `path` once, as the arguments say. Returns the exit code."""
    options = _parser(path, manifest).parse_args(argv)
    set_openmp(manifest["machine"])
    try:
        check_machine(manifest["machine"])
        _run(path, manifest, options)
    except (ProgramError, DamageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(path: str, manifest: dict[str, Any], options: argparse.Namespace) -> None:
    # OpenMP reads its settings when torch is imported, so nothing that imports it may come before them.
    import torch

    from .npy import read_npy, write_npy
    from .program import Program
    from .trace import StepTrace

    torch.set_num_threads(manifest["machine"]["threads"])
    specs = {spec["name"]: spec for spec in manifest["inputs"]}
    files = _assignments("--input", options.input, specs)
    targets = _assignments("--output", options.output, {spec["name"] for spec in manifest["outputs"]})
    missing = [name for name in specs if name not in files]
    if missing:
        raise InputError(f"input {missing[0]!r} is missing; add --input {missing[0]}=FILE.npy")
    inputs = [read_npy(files[name], spec) for name, spec in specs.items()]

    text = read_member(path, "program.py").decode("utf-8")
    trace = StepTrace(text) if options.trace else None
    with Program(path, manifest, text, read_member(path, "pages.crc")) as program:
        outputs = program.run(inputs, trace=trace)
        stats = program.stats()
    for spec, tensor in zip(manifest["outputs"], outputs, strict=True):
        if spec["name"] in targets:
            write_npy(targets[spec["name"]], tensor)
        else:
            print(f"{spec['name']}: {spec['dtype']} {tuple(spec['shape'])}")
    if trace is not None:
        trace.write_chrome(options.trace)
    if options.stats:
        print(
            f"arena {stats.arena_nbytes / 1e6:.1f} MB, start {stats.cold_start * 1e3:.1f} ms,"
            f" run {stats.last_latency * 1e3:.1f} ms of which {stats.last_stall * 1e3:.1f} ms waiting,"
            f" read {stats.nbytes_read / 1e6:.1f} MB ({'direct' if stats.direct else 'buffered'})",
            file=sys.stderr,
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
    return parser


def _assignments(option: str, texts: Sequence[str], names: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or not file:
            raise InputError(f"{option} takes NAME=FILE.npy, not {text!r}")
        if name not in names:
            raise InputError(f"{option} {name!r} is unknown; the model has {', '.join(names)}")
        if name in found:
            raise InputError(f"{option} {name} was given twice")
        found[name] = file
    return found
