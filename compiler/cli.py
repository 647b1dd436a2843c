"""The command line. Errors are one line; exit codes: 0 done, 2 bad input, 3 the budget cannot be met,
4 a damaged artifact, 70 a bug in occ."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import occ
from occ import cache
from occ.errors import OccError, UsageError
from occ.units import format_bytes

EPILOG = """examples:
  occ compile model.py --budget 512MB -o model.occ
  python model.occ --input x=x.npy --output y=y.npy
  occ inspect model.occ --steps
  occ replan model.occ --budget 256MB -o small.occ
  occ bench model.occ --model model.py
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except OccError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if options.debug:
            raise
        # The runtime, which knows nothing of occ, gives its errors an exit code too.
        code = getattr(error, "exit_code", 70)
        what = "error" if code != 70 else "error: a bug in occ (run with --debug for where)"
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"{what}: {text}" if code != 70 else f"{what}: {type(error).__name__}: {text}", file=sys.stderr)
        return int(code)
    return 0


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback for any error")
    parser = _Parser(
        prog="occ",
        description="Compile a PyTorch model into one file that runs in a fixed amount of memory.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"occ {occ.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, parents=[common])
        added.set_defaults(command=command)
        return added

    made = add("compile", _compile, "compile MODEL.py, which defines `model` and `example_inputs`")
    made.add_argument("model", metavar="MODEL.py[:name]")
    _add_planning(made)
    made.add_argument("-o", "--output", metavar="OUT.occ", help="default: MODEL.occ")
    made.add_argument("--device", choices=["cpu"], default="cpu")
    made.add_argument("--weights", metavar="FILE.safetensors", help="weights to load into the model")
    made.add_argument("--portable", action="store_true", help="plain weights, for any processor; slower")
    made.add_argument("--dump", metavar="DIR", help="write every stage as a numbered text file")

    run = add("run", _run, "verify an artifact and run it once")
    run.add_argument("artifact")
    run.add_argument("--input", action="append", default=[], metavar="NAME=FILE.npy")
    run.add_argument("--output", action="append", default=[], metavar="NAME=FILE.npy")
    run.add_argument("--trace", metavar="FILE.json", help="write a Chrome trace of the run")
    run.add_argument("--stats", action="store_true", help="print times and bytes to standard error")

    inspect = add("inspect", _inspect, "say what an artifact's plan is")
    inspect.add_argument("artifact")
    inspect.add_argument("--steps", action="store_true", help="a table of the steps")
    inspect.add_argument("--program", action="store_true", help="the generated program")
    inspect.add_argument("--map", action="store_true", help="a map of the arena: addresses across, time down")
    inspect.add_argument("--diff", metavar="OTHER.occ", help="what differs from another artifact's plan")
    inspect.add_argument("--html", metavar="PLAN.html", help="write the plan as one page to look at")
    inspect.add_argument("--json", action="store_true", help="the plan as JSON")

    verify = add("verify", _verify, "check an artifact: structure, plan, program and every weight")
    verify.add_argument("artifact")

    replan = add("replan", _replan, "plan an artifact for another budget, without the model")
    replan.add_argument("artifact")
    _add_planning(replan)
    replan.add_argument("-o", "--output", metavar="OUT.occ", required=True)

    bench = add("bench", _bench, "measure an artifact's memory and latency, beside eager with --model")
    bench.add_argument("artifact")
    bench.add_argument("--model", metavar="MODEL.py[:name]", help="also run the model in eager")
    bench.add_argument("--runs", type=int, default=20, help="the median of so many runs (default 20)")
    bench.add_argument("--json", action="store_true")

    profile = add("profile", _profile, "measure this machine and write its target profile")
    profile.add_argument("-o", "--output", metavar="PROFILE.json", required=True)
    profile.add_argument("--threads", type=int)

    cached = add("cache", _cache, "say where measurements are kept and how large they are")
    cached.add_argument("--clear", action="store_true", help="delete them")
    return parser


def _add_planning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", metavar="SIZE", help="such as 512MB or 64MiB; default: unlimited")
    parser.add_argument("--target", metavar="PROFILE.json", help="made by occ profile; default: this machine")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _compile(options: argparse.Namespace) -> None:
    from occ.api import parse_budget
    from occ.model_file import load_model_file
    from occ.pipeline import compile_model
    from occ.report.dump import Dump

    budget = parse_budget(options.budget)
    model = load_model_file(options.model, options.weights)
    output = Path(options.output or f"{model.name}.occ")
    args, kwargs = model.example_inputs
    compiled = compile_model(
        model.name,
        model.module,
        args,
        kwargs,
        budget=budget,
        output=output,
        target=_target(options, output),
        portable=options.portable,
        progress=_progress(options.json),
        dump=Dump(Path(options.dump) if options.dump else None),
    )
    if options.json:
        _print_plan(compiled.plan, compiled.source, {"artifact": str(output)})


def _run(options: argparse.Namespace) -> None:
    from occ.artifact import open_artifact
    from occ.runtime_stub import entry

    artifact = open_artifact(options.artifact)
    argv = [f"--input={text}" for text in options.input] + [f"--output={text}" for text in options.output]
    argv += [f"--trace={options.trace}"] if options.trace else []
    argv += ["--stats"] if options.stats else []
    code = entry.main(artifact.path, artifact.manifest, argv)
    if code:
        sys.exit(code)


def _inspect(options: argparse.Namespace) -> None:
    from occ.artifact import open_artifact
    from occ.report.ascii_map import ascii_map
    from occ.report.diff import diff_text
    from occ.report.html import html_page
    from occ.report.text import step_table, summary

    artifact = open_artifact(options.artifact)
    if options.json:
        _print_plan(artifact.plan, artifact.source, {"artifact": artifact.path})
    elif options.program:
        print(artifact.text, end="")
    elif options.steps:
        print(step_table(artifact.plan))
    elif options.map:
        columns, lines = shutil.get_terminal_size((120, 48))
        print(ascii_map(artifact.plan, max(60, columns), max(8, lines - 1)))
    elif options.diff:
        other = open_artifact(options.diff)
        source = artifact.source if artifact.source == other.source else None
        print(diff_text(other.plan, artifact.plan, source, (options.diff, artifact.path)))
    elif options.html:
        _write_text(options.html, html_page(artifact.plan, artifact.source))
        print(f"wrote {options.html}")
    else:
        print(summary(artifact.plan, artifact.source))


def _verify(options: argparse.Namespace) -> None:
    from occ.artifact import check_weights, open_artifact

    artifact = open_artifact(options.artifact)
    check_weights(artifact.path, artifact)
    tiles = len(artifact.plan.sizing.tiles)
    print(f"{artifact.path}: plan, program, runtime and {tiles} tiles are sound")


def _replan(options: argparse.Namespace) -> None:
    from occ.api import replan

    target = _given_target(options)
    compiled = replan(
        options.artifact, options.budget, options.output, target=target, progress=_progress(options.json)
    )
    if options.json:
        _print_plan(compiled.plan, compiled.source, {"artifact": str(compiled.path)})


def _bench(options: argparse.Namespace) -> None:
    from occ.artifact import open_artifact
    from occ.report.text import bench_table
    from occ.runtime_stub.machine import set_openmp

    if options.runs < 1:
        raise UsageError(f"--runs must be at least 1, not {options.runs}")
    artifact = open_artifact(options.artifact)
    # It binds when torch is imported, which the import of occ.bench does.
    set_openmp(artifact.manifest["machine"])
    from occ.bench import bench

    measured = bench(artifact, options.model, options.runs)
    print(json.dumps(measured.as_dict(), indent=1) if options.json else bench_table(measured))


def _profile(options: argparse.Namespace) -> None:
    from occ.target import local_target

    target = local_target(Path(options.output).absolute().parent, options.threads)
    target.write(options.output)
    print(f"wrote {options.output}: {target.summary()}")


def _cache(options: argparse.Namespace) -> None:
    if options.clear:
        print(f"{cache.cache_dir()}: {format_bytes(cache.clear())} deleted")
    else:
        print(f"{cache.cache_dir()}: {format_bytes(cache.cache_nbytes())}")


def _write_text(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _target(options: argparse.Namespace, output: Path) -> Any:
    from occ.target import local_target

    return _given_target(options) or local_target(output.absolute().parent, options.threads)


def _given_target(options: argparse.Namespace) -> Any:
    from occ.target import read_target

    if options.target is None:
        return None
    if options.threads is not None:
        raise UsageError("--threads is part of the profile; pass either --target or --threads")
    return read_target(options.target)


def _progress(quiet: bool) -> Callable[[str], None]:
    began = time.monotonic()

    def show(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True)

    return (lambda line: None) if quiet else show


def _print_plan(plan: Any, source: Any, extra: dict[str, Any]) -> None:
    from occ.report.facts import facts

    print(json.dumps({**extra, **facts(plan, source)}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
