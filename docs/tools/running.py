"""Running a page: its blocks in order, in one folder, as a reader would who starts with nothing else.

The folder has a link to the repository's examples/. A second folder stands for the device: `scp FILES
device:` copies there, and commands that run on it find a Python with torch and numpy that cannot import occ.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from docs.tools.matching import heading, matched
from docs.tools.pages import ROOT, Block, Kind, blocks
from examples.device import without_occ
from occ.cache import cache_dir

STRICT = ("-e", "-o", "pipefail", "-c")
"""Options of bash: a block ends with its first command that fails."""

SECONDS = 600.0
"""After which a block has failed."""

# Code comes as one JSON text a line; the answer, too. What the code prints goes through files, because
# libraries write to the descriptors themselves.
_INTERPRETER = """
import json, os, sys, tempfile, traceback
answers = os.fdopen(os.dup(1), "w")
sys.path.insert(0, "")
space = {"__name__": "__main__"}
for line in sys.stdin:
    request = json.loads(line)
    with tempfile.TemporaryFile("w+") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        failed = False
        try:
            exec(compile(request["code"], request["name"], "exec"), space)
        except BaseException:
            failed = True
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        printed.seek(0)
        answers.write(json.dumps({"failed": failed, "printed": printed.read()}) + "\\n")
        answers.flush()
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a block. `failure` is empty where all is well; `printed` is all output, in order."""

    block: Block
    printed: str
    failure: str = ""


@dataclass
class PageRun:
    """A page being run in `folder`, which need not exist. Use as a context manager."""

    folder: Path
    page: Path = field(init=False)
    home: Path = field(init=False)
    device: Path = field(init=False)
    _environment: dict[str, str] = field(init=False)
    _device_environment: dict[str, str] = field(init=False)
    _interpreter: subprocess.Popen[str] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.page, self.home, self.device = (self.folder / name for name in ("page", "home", "device"))
        for folder in (self.page, self.home, self.device):
            folder.mkdir(parents=True)
        (self.page / "examples").symlink_to(ROOT / "examples")
        command, outside = without_occ(self.folder / "installed")
        common = {
            "HOME": str(self.home),
            "COLUMNS": "110",
            "OCC_CACHE_DIR": str(cache_dir()),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }
        # How OpenMP's threads wait is up to whoever runs the pages: where much else runs, they should sleep.
        kept = {
            name: value
            for name, value in outside.items()
            if not name.startswith(("OCC_", "OMP_", "GOMP_")) or name == "OMP_WAIT_POLICY"
        }
        bare = {name: value for name, value in kept.items() if name != "PYTHONPATH"}
        tools, device_tools = self.folder / "tools", self.folder / "device-tools"
        _write_tool(tools / "scp", f'[ "${{!#}}" = device: ] && cp -- "${{@:1:$#-1}}" "{self.device}"')
        _write_tool(device_tools / "python", f'exec {" ".join(command)} "$@"')
        scripts = Path(sys.executable).parent
        self._environment = {**bare, **common, "PATH": f"{tools}:{scripts}:{common['PATH']}"}
        self._device_environment = {**kept, **common, "PATH": f"{device_tools}:{common['PATH']}"}

    def __enter__(self) -> PageRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._interpreter is not None:
            assert self._interpreter.stdin is not None
            self._interpreter.stdin.close()
            self._interpreter.wait()

    def run(self, block: Block, before: Outcome | None) -> Outcome:
        """Do what the block is for; `before` is the outcome of the last one that ran commands."""
        if block.kind is Kind.SHELL:
            return self._command(block, ["bash", *STRICT, block.text], self.page, self._environment)
        if block.kind is Kind.DEVICE:
            program = ["python", "-c"] if block.language == "python" else ["bash", *STRICT]
            return self._command(block, [*program, block.text], self.device, self._device_environment)
        if block.kind is Kind.PYTHON:
            return self._python(block)
        if block.kind is Kind.FILE:
            path = self.page / block.subject
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        if block.kind is Kind.OUTPUT:
            return _compared(block, before)
        return Outcome(block, "")

    def _command(
        self, block: Block, command: list[str], folder: Path, environment: dict[str, str]
    ) -> Outcome:
        try:
            # `env`, because a program is looked for in this process's PATH.
            done = subprocess.run(
                ["env", *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            return Outcome(block, str(error.stdout or ""), f"took longer than {SECONDS:.0f} s")
        failure = f"ended with exit code {done.returncode}" if done.returncode else ""
        return Outcome(block, done.stdout, failure)

    def _python(self, block: Block) -> Outcome:
        if self._interpreter is None:
            self._interpreter = subprocess.Popen(
                [sys.executable, "-c", _INTERPRETER],
                cwd=self.page,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self._interpreter
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"code": block.text, "name": f"{block.page}:{block.line}"}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            return Outcome(block, "", f"the page's Python ended with exit code {process.wait()}")
        answer = json.loads(line)
        return Outcome(block, answer["printed"], "raised an exception" if answer["failed"] else "")


def _write_tool(path: Path, line: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{line}\n")
    path.chmod(0o755)


def _compared(block: Block, before: Outcome | None) -> Outcome:
    if before is None:
        return Outcome(block, "", "no command stands above this output")
    _, missing = matched(heading(block.text) if block.varies else block.text, before.printed)
    return Outcome(block, before.printed, missing)


def run_page(page: str, text: str, folder: Path) -> list[Outcome]:
    """Run the blocks of a page in a new `folder`; their outcomes, up to the first command that fails.

    Raises PageError.
    """
    outcomes: list[Outcome] = []
    last: Outcome | None = None
    with PageRun(folder) as run:
        for block in blocks(page, text):
            outcome = run.run(block, last)
            outcomes.append(outcome)
            if block.kind in (Kind.SHELL, Kind.DEVICE, Kind.PYTHON):
                last = outcome
                if outcome.failure:
                    break
    return outcomes


def report(outcome: Outcome) -> str:
    """A failed block for people: where, what, and what it printed."""
    block = outcome.block
    indented = "".join(f"    {line}\n" for line in outcome.printed.splitlines()[-40:])
    return f"{block.page}:{block.line}: {outcome.failure}\n{block.text}printed:\n{indented}"
