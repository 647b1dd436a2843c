"""When each step, wait and load of a run began and ended, taken without a word in the program's text.

The step functions are compiled once more, with a mark in front of every statement; a statement lasts until
the next mark. That costs a fraction of a microsecond a statement, and nothing when no trace is taken.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Protocol

from .cells import cells_of
from .jobs import Job, Read, StagedJob

if TYPE_CHECKING:
    from .device import Clock

_CALL = re.compile(r"\s*(?P<call>[\w.]+)\(")
_STEP = re.compile(r"\S.*#\s*(?P<step>\d+)(?= |$)")
STRETCH = "stretch_"
"""What the names of stretches begin with."""

_TILE = re.compile(r"\s*(?P<call>load|wait)\((?P<tile>\d+)\)")


class Loads(Protocol):
    """A loader: where `jobs` is a list, it adds to it whatever it is asked to read, and marks its copies by
    the `clock`."""

    jobs: list[Job] | None
    clock: Clock | None


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that ran: a call of step `number`, or the load of tile `number` or the wait for it
    (`kind` is "step", "load" or "wait"). Times are seconds of `time.perf_counter`."""

    kind: str
    number: int
    text: str
    began: float
    ended: float


class StepTrace:
    """The events of one run, or of several in a row. `text` is the program's text.

    `jobs` are the reads that were asked for while it was recorded, `runs` when each run began and ended, and
    `began` when it was first told to record, in seconds of `time.perf_counter`.
    """

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._text = text
        self._begun: list[tuple[int, float]] = []
        self._marks: list[tuple[int, object]] = []
        self._clock: Clock | None = None
        self._sections: list[Callable[[], None]] = []
        self._marked: dict[str, Callable[[], None]] = {}
        self.began: float | None = None
        self.runs: list[tuple[float, float]] = []
        self.jobs: list[Job] = []

    def watch(self, loader: Loads) -> None:
        """Record what `loader` is asked for from now until the next recording ends."""
        self.began = self.began or perf_counter()
        loader.jobs = self.jobs

    @contextmanager
    def recording(self, loader: Loads, clock: Clock | None = None) -> Iterator[None]:
        """Record a run: what `loader` is asked for until the block ends, and when that is.

        With the `clock` of a device, statements last from when the device gets to them: a wait as long as
        its stream waited. The block then ends when the device has done the last.
        """
        self.watch(loader)
        self._clock = loader.clock = clock
        began = perf_counter()
        try:
            yield
            if clock is not None:
                self._begun += [(line, clock.seconds(mark)) for line, mark in self._marks]
                for job in self.jobs:
                    if isinstance(job, StagedJob):
                        _resolve(job, clock)
            self.runs.append((began, perf_counter()))
        finally:
            self._clock = loader.clock = None
            self._marks.clear()
            loader.jobs = None

    def sections(
        self, filename: str, functions: Sequence[Callable[[], None]], namespace: dict[str, Any]
    ) -> list[Callable[[], None]]:
        """The program's step functions, calling `mark` at every statement; `namespace` has its globals.

        Stretches that are otherwise replayed as a whole are then run step by step.
        """
        if not self._sections:
            wanted = {function.__name__ for function in functions}
            self._marked = {
                name: FunctionType(code, namespace, name, (self.mark,))
                for name, code in _marked(self._text, filename, wanted)
            }
            self._sections = [self._marked[function.__name__] for function in functions]
        return self._sections

    def stretch(self, name: str) -> Callable[[], None]:
        """The function of that name, calling `mark` at every statement."""
        return self._marked[name]

    def mark(self, line: int) -> None:
        """Called before the statement that begins at `line` of the text, and with 0 after the last of a
        function."""
        if self._clock is None:
            self._begun.append((line, perf_counter()))
        else:
            self._marks.append((line, self._clock.now()))

    def statements(self) -> list[tuple[str, float, float]]:
        """(text, began, ended) of each statement that ran, in seconds of `time.perf_counter`."""
        return [(each.text, each.began, each.ended) for each in self.events()]

    def events(self) -> list[Statement]:
        """Each statement that ran, in order."""
        following = [*self._begun[1:], (0, 0.0)]
        return [
            Statement(*self._parsed(line), began, ended)
            for (line, began), (_, ended) in zip(self._begun, following, strict=True)
            if line and ended
        ]

    def _label(self, line: int) -> str:
        return self._parsed(line)[2]

    def _parsed(self, line: int) -> tuple[str, int, str]:
        """Kind, number and text of the statement that begins at `line`."""
        tile = _TILE.match(self._lines[line - 1])
        if tile:
            return tile["call"], int(tile["tile"]), tile.group().strip()
        call = _CALL.match(self._lines[line - 1])
        text = call["call"] if call else self._lines[line - 1].strip()
        for candidate in self._lines[line - 1 :]:
            step = _STEP.search(candidate)
            if step:
                return "step", int(step["step"]), f"{step['step']} {text}"
        return "step", -1, text


def _resolve(job: StagedJob, clock: Clock) -> None:
    """Turn the marks around a job's copies into times."""
    while job.marks:
        file_offset, nbytes, before, after = job.marks.pop(0)
        ended = clock.seconds(after)
        job.copies.append(Read(0, file_offset, nbytes, clock.seconds(before), ended, ended))


def _marked(text: str, filename: str, wanted: set[str]) -> Iterator[tuple[str, CodeType]]:
    """Code of the functions named in `wanted`, and of the stretches, which takes as an argument what it calls
    with the line of each of its statements. It is compiled a cell at a time, as that takes memory."""
    for before, cell in cells_of(text):
        tree = ast.parse(cell)
        functions = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and (node.name in wanted or node.name.startswith(STRETCH))
        ]
        if not functions:
            continue
        for function in functions:
            function.args.args = [ast.arg("mark")]
            body: list[ast.stmt] = []
            for node in function.body:
                stretch = _replayed(node)
                body += [_mark(node.lineno + before), node] if stretch is None else [_stretch(stretch)]
            # Inside a section, the statement after a stretch marks its end.
            function.body = body if function.name.startswith(STRETCH) else [*body, _mark(0)]
        tree.body = list(functions)
        ast.increment_lineno(tree, before)
        module = compile(ast.fix_missing_locations(tree), filename, "exec", dont_inherit=True)
        for code in module.co_consts:
            if isinstance(code, CodeType):
                yield code.co_name, code


def _replayed(node: ast.stmt) -> str | None:
    """The name of the stretch that a statement replays."""
    match node:
        case ast.Expr(ast.Call(ast.Name("replay"), [ast.Name(name)], [])):
            return name
    return None


def _stretch(name: str) -> ast.stmt:
    """The call of a stretch that marks its statements: `mark` is a method of the trace."""
    trace = ast.Attribute(ast.Name("mark", ast.Load()), "__self__", ast.Load())
    marked = ast.Call(ast.Attribute(trace, "stretch", ast.Load()), [ast.Constant(name)], [])
    return ast.Expr(ast.Call(marked, [], []))


def _mark(line: int) -> ast.stmt:
    return ast.Expr(ast.Call(ast.Name("mark", ast.Load()), [ast.Constant(line)], []))
