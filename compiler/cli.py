"""The command line. Errors are one line; exit codes: 0 done, 2 bad input, 3 the budget cannot be met,
4 a damaged artifact, 70 a bug in occ, 128 + n stopped by signal n.

A command is a function from its options to the text that it prints when it is done. While it works only
progress is printed, and with --json nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import occ
from occ import cache
from occ.errors import UsageError
from occ.progress import BYTES, SILENT, Progress, Shown
from occ.runtime_stub.ending import report
from occ.runtime_stub.importing import import_torch
from occ.stopping import stoppable
from occ.units import format_bytes

if TYPE_CHECKING:
    from occ.artifact import Artifact

Command = Callable[[argparse.Namespace], str]

EPILOG = """examples:
  occ compile model.py --budget 512MB -o model.occ
  python model.occ --input x=x.npy --output y=y.npy
  occ inspect model.occ --steps
  occ replan model.occ --budget 256MB -o small.occ
  occ bench model.occ --model model.py
  occ sweep model.py --html curve.html
  occ explain model.occ
"""

ARTIFACT = "what occ compile wrote"
MODEL = "Python that defines `model` (or `name`) and `example_inputs`"
WEIGHTS = "weights that replace the model's, which may then be on the meta device"
INPUT = "an array of the example's type and shape (bfloat16: float32); once for each input"
OUTPUT = "write an output; the others are listed with type and shape"
THREADS = "threads that the program computes with; default: all cores, or as many as the artifact has"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(argv)
    command: Command = options.command
    try:
        with stoppable(), redirect_stdout(sys.stderr if options.json else sys.stdout):
            text = command(options)
        print(text, end="" if text.endswith("\n") or not text else "\n", flush=True)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, options.debug)
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

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, parents=[common])
        added.set_defaults(command=command, json=False)
        return added

    made = add("compile", _compile, "compile MODEL.py, which defines `model` and `example_inputs`")
    made.add_argument("model", metavar="MODEL.py[:name]", help=MODEL)
    _add_planning(made)
    made.add_argument(
        "-o", "--output", metavar="OUT.occ", help="default: the name of MODEL.py with .occ, in this directory"
    )
    made.add_argument("--device", choices=["cpu", "cuda"], help="default: that of --target, or cpu")
    made.add_argument("--weights", metavar="FILE.safetensors", help=WEIGHTS)
    made.add_argument("--portable", action="store_true", help="plain weights, for any processor; slower")
    made.add_argument("--dump", metavar="DIR", help="write every stage as a numbered text file")

    run = add("run", _run, "verify an artifact and run it once")
    run.add_argument("artifact", metavar="MODEL.occ", help=ARTIFACT)
    run.add_argument("--input", action="append", default=[], metavar="NAME=FILE.npy", help=INPUT)
    run.add_argument("--output", action="append", default=[], metavar="NAME=FILE.npy", help=OUTPUT)
    run.add_argument("--trace", metavar="FILE.json", help="write a Chrome trace of the run")
    run.add_argument("--stats", action="store_true", help="print times and bytes to standard error")
    run.add_argument("--json", action="store_true", help="print outputs, times and bytes as JSON")

    inspect = add("inspect", _inspect, "say what an artifact's plan is")
    inspect.add_argument("artifact", metavar="MODEL.occ", help=ARTIFACT)
    inspect.add_argument("--steps", action="store_true", help="a table of the steps")
    inspect.add_argument("--program", action="store_true", help="the generated program")
    inspect.add_argument("--map", action="store_true", help="a map of the arena: addresses across, time down")
    inspect.add_argument("--diff", metavar="OTHER.occ", help="what differs from another artifact's plan")
    inspect.add_argument("--html", metavar="PLAN.html", help="write the plan as one page to look at")
    inspect.add_argument("--json", action="store_true", help="the plan as JSON")

    verify = add("verify", _verify, "check an artifact: structure, plan, program and every weight")
    verify.add_argument("artifact", metavar="MODEL.occ", help=ARTIFACT)
    verify.add_argument("--json", action="store_true", help="print the result as JSON")

    replan = add("replan", _replan, "plan an artifact for another budget, without the model")
    replan.add_argument("artifact", metavar="MODEL.occ", help=ARTIFACT)
    _add_planning(replan)
    replan.add_argument("-o", "--output", metavar="OUT.occ", required=True, help="may be the artifact itself")

    bench = add("bench", _bench, "measure an artifact's memory and latency, beside eager with --model")
    bench.add_argument("artifact", metavar="MODEL.occ", help=ARTIFACT)
    bench.add_argument("--model", metavar="MODEL.py[:name]", help="also run the model in eager, by turns")
    bench.add_argument("--runs", type=int, default=20, help="the median of so many runs (default 20)")
    bench.add_argument("--html", metavar="BENCH.html", help="write predicted and measured timelines")
    bench.add_argument("--json", action="store_true", help="print the result as JSON")

    profile = add("profile", _profile, "measure this machine and write its target profile")
    profile.add_argument(
        "-o", "--output", metavar="PROFILE.json", required=True, help="where; its storage is what is measured"
    )
    profile.add_argument("--threads", type=int, help="default: all cores")
    profile.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="with cuda: the GPU too (default: cpu)"
    )
    profile.add_argument("--json", action="store_true", help="print the profile as JSON too")

    swept = add("sweep", _sweep, "predict, or measure, the latency at many budgets")
    swept.add_argument("model", metavar="MODEL.py[:name]|MODEL.occ", help="a model or an artifact")
    swept.add_argument("--budgets", metavar="SIZE,SIZE,...", help="default: a dozen, from min to unlimited")
    swept.add_argument(
        "--process-budgets", metavar="SIZE,SIZE,...", help="of the whole process, in their place"
    )
    swept.add_argument("--measure", action="store_true", help="also run every plan, in a process of its own")
    swept.add_argument("--runs", type=int, default=10, help="the median of so many runs (default 10)")
    swept.add_argument(
        "--eager", metavar="MODEL.py[:name]", help="with --measure: also in eager; default: MODEL.py itself"
    )
    swept.add_argument("--html", metavar="CURVE.html", help="write the curve as one page")
    swept.add_argument("--png", metavar="CURVE.png", help="draw the curve; needs matplotlib")
    swept.add_argument("--weights", metavar="FILE.safetensors", help=WEIGHTS)
    swept.add_argument("--portable", action="store_true", help="plain weights, for any processor; slower")
    _add_target(swept)

    explain = add("explain", _explain, "say in sentences what a plan is bound by, and what would help")
    explain.add_argument("model", metavar="MODEL.py[:name]|MODEL.occ", help="a model or an artifact")
    explain.add_argument("--budget", metavar="SIZE", help="explain this budget; default: the artifact's own")
    _add_target(explain)

    completion = add("completion", _completion, "print a completion script for a shell")
    completion.add_argument("shell", choices=["bash", "zsh", "fish"], help="whose script")

    cached = add("cache", _cache, "say where measurements are kept and how large they are")
    cached.add_argument("--clear", action="store_true", help="delete them")
    cached.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _add_planning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget", metavar="SIZE", help="such as 512MB or 64MiB, or min, auto or unlimited (the default)"
    )
    parser.add_argument(
        "--slowdown", metavar="SHARE", help="with --budget auto: so much slower than unlimited (default 5%%)"
    )
    parser.add_argument("--latency", metavar="TIME", help="the smallest budget that meets it, such as 120ms")
    parser.add_argument(
        "--process-budget",
        metavar="SIZE",
        help="in place of a budget: what the process may take, the interpreter and torch included",
    )
    parser.add_argument(
        "--stream-from", choices=["ssd", "host"], help="on cuda, where streamed weights lie (default: ssd)"
    )
    parser.add_argument(
        "--host-budget", metavar="SIZE", help="on cuda, what weights may take of the host's memory"
    )
    _add_target(parser)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", metavar="PROFILE.json", help="made by occ profile; default: this machine")
    parser.add_argument("--threads", type=int, help=THREADS)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _compile(options: argparse.Namespace) -> str:
    import_torch()
    from occ.api import compile
    from occ.devices import check_device, device_of
    from occ.feed import parse_feed
    from occ.goals import parse_goal
    from occ.model_file import load_model_file

    # What is wrong with an option is said before the model is loaded, which may take long.
    parse_goal(options.budget, options.slowdown, options.latency, options.process_budget)
    target = _given_target(options)
    device = device_of(options.device, target)
    parse_feed(
        device,
        options.stream_from,
        options.host_budget,
        process_budget=options.process_budget,
        portable=options.portable,
    )
    check_device(device, target)
    model = load_model_file(options.model, options.weights)
    compiled = compile(
        model.module,
        model.example_inputs,
        options.budget,
        f"{model.name}.occ" if options.output is None else options.output,
        slowdown=options.slowdown,
        latency=options.latency,
        process_budget=options.process_budget,
        name=model.name,
        threads=options.threads,
        target=target,
        device=options.device,
        stream_from=options.stream_from,
        host_budget=options.host_budget,
        portable=options.portable,
        dump=options.dump,
        progress=_progress(options.json),
    )
    return _result(compiled.plan, compiled.source, str(compiled.path)) if options.json else ""


def _run(options: argparse.Namespace) -> str:
    from occ.artifact import open_artifact
    from occ.runtime_stub import entry

    artifact = open_artifact(options.artifact)
    return entry.run(artifact.path, artifact.manifest, options)


def _inspect(options: argparse.Namespace) -> str:
    from occ.artifact import open_artifact
    from occ.report.ascii_map import ascii_map
    from occ.report.diff import diff_text
    from occ.report.html import html_page
    from occ.report.text import step_table, summary

    artifact = open_artifact(options.artifact)
    if options.html:
        _write_text(options.html, html_page(artifact.plan, artifact.source))
    if options.json:
        return _json({"artifact": artifact.path, **_inspected(artifact, options)})
    if options.program:
        return artifact.text
    if options.steps:
        return step_table(artifact.plan)
    if options.map:
        columns, lines = shutil.get_terminal_size((120, 48))
        return ascii_map(artifact.plan, max(60, columns), max(8, lines - 1))
    if options.diff:
        other = open_artifact(options.diff)
        source = artifact.source if artifact.source == other.source else None
        return diff_text(other.plan, artifact.plan, source, (options.diff, artifact.path))
    if options.html:
        return f"wrote {options.html}"
    return summary(artifact.plan, artifact.source)


def _inspected(artifact: Artifact, options: argparse.Namespace) -> dict[str, Any]:
    """The plan's figures, and whatever else was asked for under the name of its option."""
    from occ.artifact import open_artifact
    from occ.report.diff import diff_facts
    from occ.report.facts import facts, map_facts, step_facts

    found = facts(artifact.plan, artifact.source)
    if options.steps:
        found["table"] = [asdict(step) for step in step_facts(artifact.plan)]
    if options.map:
        found["map"] = map_facts(artifact.plan)
    if options.program:
        found["program"] = artifact.text
    if options.diff:
        other = open_artifact(options.diff)
        source = artifact.source if artifact.source == other.source else None
        found["diff"] = {"other": other.path, **diff_facts(other.plan, artifact.plan, source)}
    return found


def _verify(options: argparse.Namespace) -> str:
    from occ.artifact import check_weights, open_artifact
    from occ.native import check_library

    artifact = open_artifact(options.artifact)
    compared = check_library(artifact.path, artifact.plan)
    with _progress(options.json).stage("reading", artifact.plan.program.file_nbytes, BYTES) as advance:
        check_weights(artifact, advance)
    tiles = len(artifact.plan.sizing.tiles)
    if options.json:
        return _json({"artifact": artifact.path, "tiles": tiles, "sound": True, "library": compared})
    machine = artifact.plan.machine
    if compared or not machine.native:
        library = ", library" if compared else ""
        return f"{artifact.path}: plan, program{library}, runtime and {tiles} tiles are sound"
    return (
        f"{artifact.path}: plan, program, runtime and {tiles} tiles are sound; its library was not compared"
        f" with its source, which takes {machine.compiler} for {machine.native}"
    )


def _replan(options: argparse.Namespace) -> str:
    from occ.replanning import replan

    compiled = replan(
        options.artifact,
        options.budget,
        options.output,
        slowdown=options.slowdown,
        latency=options.latency,
        process_budget=options.process_budget,
        threads=options.threads,
        target=_given_target(options),
        stream_from=options.stream_from,
        host_budget=options.host_budget,
        progress=_progress(options.json),
    )
    return _result(compiled.plan, compiled.source, str(compiled.path)) if options.json else ""


def _bench(options: argparse.Namespace) -> str:
    from occ.artifact import open_artifact
    from occ.report.text import bench_table
    from occ.runtime_stub.machine import set_allocator, set_openmp

    if options.runs < 1:
        raise UsageError(f"--runs must be at least 1, not {options.runs}")
    artifact = open_artifact(options.artifact)
    # It binds when torch is imported, which the import of occ.bench does.
    set_openmp(artifact.manifest["machine"])
    set_allocator()
    import_torch()
    from occ.bench import bench
    from occ.observed import observed_runs
    from occ.report.bench_page import bench_page
    from occ.runtime_stub.trace import StepTrace

    trace = StepTrace(artifact.text) if options.html else None
    measured = bench(artifact, options.model, options.runs, trace, _progress(options.json))
    if trace is not None:
        # What the first run's head reads was asked for before the trace began.
        runs = observed_runs(trace, len(artifact.plan.program.steps))[1:]
        _write_text(options.html, bench_page(artifact.plan, measured, runs))
    return _json(measured.as_dict()) if options.json else bench_table(measured)


def _sweep(options: argparse.Namespace) -> str:
    import_torch()
    from occ.report.curve import curve_page
    from occ.report.curve_png import require_matplotlib, write_png
    from occ.study import is_model_file, study
    from occ.sweep import limit_within, parse_budgets, sweep, table
    from occ.trial import trial

    if options.runs < 1:
        raise UsageError(f"--runs must be at least 1, not {options.runs}")
    if options.png:
        require_matplotlib()
    if options.budgets and options.process_budgets:
        raise UsageError("--budgets and --process-budgets cannot both be given; leave out one")
    processes = parse_budgets(options.process_budgets) if options.process_budgets else ()
    budgets = parse_budgets(options.budgets) if options.budgets else None
    folder = Path(options.html or options.png or ".").absolute().parent
    progress = _progress(options.json)
    # Eager needs a model file that has its weights.
    has_weights = is_model_file(options.model) and options.weights is None
    eager = options.eager or (options.model if has_weights else None)
    with study(
        options.model,
        folder,
        target=_given_target(options),
        threads=options.threads,
        weights=options.weights,
        portable=options.portable,
        progress=progress,
    ) as studied:
        swept = sweep(
            studied.plans,
            [limit_within(nbytes, studied.plans) for nbytes in processes] or budgets,
            (lambda plan, beside: trial(plan, studied.write, folder, options.runs, eager if beside else None))
            if options.measure
            else None,
            eager is not None,
            progress,
        )
    if options.html:
        _write_text(options.html, curve_page(swept))
        progress(f"wrote {options.html}")
    if options.png:
        write_png(swept, options.png)
        progress(f"wrote {options.png}")
    return _json(swept.as_dict()) if options.json else table(swept)


def _explain(options: argparse.Namespace) -> str:
    import_torch()
    from occ.goals import parse_goal, plan_for
    from occ.report.advice import advise, advise_below
    from occ.study import study

    goal = parse_goal(options.budget)
    folder = Path(options.model).absolute().parent
    with study(options.model, folder, target=_given_target(options), threads=options.threads) as studied:
        plans, source = studied.plans, studied.source
        if isinstance(goal, int) and goal < plans.smallest.budget.total:
            advice = advise_below(goal, source, plans)
        else:
            plan = studied.plan if options.budget is None else plan_for(goal, plans)
            advice = advise(plan, source, plans)
    return _json(advice.as_dict()) if options.json else advice.text()


def _completion(options: argparse.Namespace) -> str:
    from occ.completion import completion

    return completion(_parser(), options.shell)


def _profile(options: argparse.Namespace) -> str:
    from occ.devices import target_for

    output = Path(options.output)
    progress = _progress(options.json)
    target = target_for(options.device, output.absolute().parent, options.threads, progress=progress)
    target.write(output)
    if options.json:
        return _json({"profile": str(output), **json.loads(output.read_bytes())})
    return f"wrote {output}: {target.summary()}"


def _cache(options: argparse.Namespace) -> str:
    nbytes = cache.clear() if options.clear else cache.cache_nbytes()
    if options.json:
        return _json({"cache": str(cache.cache_dir()), "nbytes": nbytes, "deleted": options.clear})
    return f"{cache.cache_dir()}: {format_bytes(nbytes)}{' deleted' if options.clear else ''}"


def _write_text(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _given_target(options: argparse.Namespace) -> Any:
    from occ.target import read_target

    if options.target is None:
        return None
    if options.threads is not None:
        raise UsageError("--threads is part of the profile; pass either --target or --threads")
    return read_target(options.target)


def _progress(silent: bool) -> Progress:
    return SILENT if silent else Shown()


def _result(plan: Any, source: Any, path: str) -> str:
    """A plan's figures as JSON, beside the path of its artifact."""
    from occ.report.facts import facts

    return _json({"artifact": path, **facts(plan, source)})


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1)


if __name__ == "__main__":
    sys.exit(main())
