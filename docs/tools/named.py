"""Whether what a page names exists: commands that a test cannot run, files, modules, links.

For a command that is shown and not run, the program, the script, the make target and every option must be
there. In prose only what is named is looked at: a span such as `occ sweep --measure` may leave arguments out.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from itertools import pairwise
from pathlib import Path

from docs.tools.pages import ROOT, Block, Inline
from occ import cli
from occ.runtime_stub import entry

OUTSIDE = frozenset({".", "cd", "docker", "echo", "git", "scp", "sudo", "systemd-run", "taskset"})
"""Programs of the system, which pages may name and about which nothing is checked."""

_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)
_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?$")
_DOTTED = re.compile(r"occ(?:\.\w+)+")


def missing_in_block(block: Block) -> Iterator[str]:
    """What the commands of a block name that does not exist, a line each."""
    if block.language == "python":
        ast.parse(block.text)
        return
    text = block.text.replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), 1):
        for command in _commands(line):
            for trouble in _missing(command):
                yield f"{block.page}:{block.line + number}: {trouble}, in {shlex.join(command)}"


def missing_in_prose(span: Inline) -> Iterator[str]:
    """What a code span names that does not exist."""
    words = span.text.split()
    trouble: list[str] = []
    if words[0] == "occ" and len(words) > 1:
        trouble += _missing_options(words[1:])
    elif words[0] == "make" and len(words) == 2:
        trouble += _missing_targets(words[1:])
    elif words[0] == "python" and len(words) > 1 and words[1].endswith(".py"):
        trouble += _missing_path(words[1])
    elif _PATH.match(span.text):
        trouble += _missing_path(span.text)
    elif dotted := _DOTTED.match(span.text):
        trouble += _missing_name(dotted[0])
    yield from (f"{span.page}:{span.line}: {text}" for text in trouble)


def missing_links(page: str, text: str) -> Iterator[str]:
    """Links of a page to files and headings that do not exist."""
    for link in _LINK.findall(text):
        if ":" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        if not target.exists():
            yield f"{page}: the link {link} leads to no file"
        elif anchor and anchor not in _anchors(target.read_text()):
            yield f"{page}: the link {link} leads to no heading"


def _anchors(text: str) -> set[str]:
    return {re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


def _commands(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell, each without variables in front and redirections behind."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    redirected = False
    for token in (*lexer, ";"):
        if redirected or token in (">", ">>", "<"):
            redirected = not redirected
            continue
        if token in (";", "&&", "||", "|"):
            while command and _ASSIGNMENT.match(command[0]):
                del command[0]
            if command:
                yield command
            command = []
        else:
            command.append(token)


def _missing(command: Sequence[str]) -> Iterator[str]:
    program, arguments = Path(command[0]).name or command[0], list(command[1:])
    if program == "occ":
        yield from _unparsed(cli._parser(), arguments)
    elif program == "make":
        yield from _missing_targets(arguments)
    elif program == "pip":
        yield from _missing_requirements(arguments)
    elif program.startswith("python"):
        yield from _missing_in_python(arguments)
    elif program not in OUTSIDE:
        yield f"no program is known as {program}"


def _missing_in_python(arguments: list[str]) -> Iterator[str]:
    if arguments[:2] == ["-m", "pytest"]:
        for path in arguments[2:]:
            if "/" in path:
                yield from _missing_path(path)
    elif arguments[:2] == ["-m", "venv"]:
        return
    elif arguments and arguments[0] == "-m":
        yield from _missing_help(tuple(arguments[:2]), arguments[2:])
    elif arguments[0].endswith(".occ"):
        manifest = {"model": "", "occ": "", "inputs": [], "outputs": []}
        yield from _unparsed(entry._parser(arguments[0], manifest), arguments[1:])
    elif trouble := list(_missing_path(arguments[0])):
        yield from trouble
    else:
        yield from _missing_help((arguments[0],), arguments[1:])


def _missing_help(script: tuple[str, ...], arguments: Sequence[str]) -> Iterator[str]:
    options = [argument for argument in arguments if argument.startswith("-")]
    if not options and script[0] != "-m" and "ArgumentParser" not in (ROOT / script[0]).read_text():
        return
    text = _help(script)
    yield from (f"no option {option}" for option in options if option not in text)


@cache
def _help(script: tuple[str, ...]) -> str:
    """What `python SCRIPT --help` prints; the options in its source where it lacks a package to start."""
    done = subprocess.run(
        [sys.executable, *script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    if done.returncode == 0:
        return done.stdout
    if "ModuleNotFoundError" in done.stderr and script[0] != "-m":
        folder = (ROOT / script[0]).parent
        return " ".join(option for path in folder.glob("*.py") for option in _options_in(path))
    raise AssertionError(f"python {' '.join(script)} --help: {done.stderr}")


def _options_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("--"):
            yield node.value


def _unparsed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Iterator[str]:
    said = StringIO()
    try:
        with redirect_stderr(said):
            parser.parse_args(list(arguments))
    except SystemExit:
        yield said.getvalue().strip()


def _missing_options(words: Sequence[str]) -> Iterator[str]:
    """Of a command in prose: a subcommand that does not exist, or an option that it lacks."""
    [subparsers] = [a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    name, *arguments = words
    if name.startswith("-"):
        return
    if name not in subparsers.choices:
        yield f"occ has no command {name}"
        return
    known = subparsers.choices[name]._option_string_actions
    for argument in arguments:
        if argument.startswith("-") and argument.partition("=")[0] not in known:
            yield f"occ {name} has no option {argument}"


def _missing_targets(targets: Sequence[str]) -> Iterator[str]:
    known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    yield from (f"make has no target {name}" for name in targets if name not in known and "=" not in name)


def _missing_requirements(arguments: Sequence[str]) -> Iterator[str]:
    extras = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for before, argument in pairwise(arguments):
        if before == "-r":
            yield from _missing_path(argument)
        for extra in re.findall(r"\[([\w,]+)\]", argument):
            for name in extra.split(","):
                if name not in extras:
                    yield f"no extra is called {name}"


def _missing_path(path: str) -> Iterator[str]:
    """A path that begins with a folder of the repository and is not there."""
    if (
        (ROOT / path.partition("/")[0]).is_dir()
        and not path.startswith("build/")
        and not (ROOT / path).exists()
    ):
        yield f"{path} does not exist"


def _missing_name(dotted: str) -> Iterator[str]:
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        name = ".".join(parts[:count])
        if _is_module(name):
            found = importlib.import_module(name)
            for part in parts[count:]:
                if not hasattr(found, part):
                    yield f"{dotted} does not exist"
                    return
                found = getattr(found, part)
            return
    yield f"{dotted} does not exist"


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
