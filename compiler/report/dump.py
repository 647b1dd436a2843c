"""The stages of a compile as numbered text files, so that it can be read as a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from occ.codegen.emit import emit
from occ.ir import Arg, Plan, Program, Ref, Symbol
from occ.report.text import step_table, summary


@dataclass(frozen=True)
class Dump:
    """Writes each stage to `directory`; with None it writes nothing."""

    directory: Path | None
    _numbers: Iterator[int] = field(default_factory=count)

    def text(self, stage: str, text: str) -> None:
        if self.directory is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / f"{next(self._numbers):02d}-{stage}.txt").write_text(text + "\n")

    def program(self, stage: str, program: Program) -> None:
        if self.directory is not None:
            self.text(stage, program_text(program))

    def plan(self, stage: str, plan: Plan, source: Program) -> None:
        if self.directory is not None:
            self.text(stage, f"{summary(plan, source)}\n\n{step_table(plan)}")

    def emitted(self, stage: str, plan: Plan) -> None:
        if self.directory is not None:
            self.text(stage, emit(plan))


def program_text(program: Program) -> str:
    """A program as text: its buffers, then one line per step."""
    lines = [f"{program.name}: {len(program.buffers)} buffers, {len(program.steps)} steps"]
    for buffer in program.buffers:
        lines.append(f"  buffer {buffer.id:>5} {buffer.kind.value:<10} {buffer.nbytes:>12} {buffer.name}")
    for index, step in enumerate(program.steps):
        outs = ", ".join(_value_text(program, value) for value in step.outs)
        args = ", ".join(f"{name}={_arg_text(program, arg)}" for name, arg in step.args)
        axes = "".join(f" | {axis.name} {axis.extent}/{axis.granule}" for axis in step.splits)
        lines.append(f"  {index:>5} {outs} = {step.kernel}({args}){axes}  # {step.module}")
    return "\n".join(lines)


def _value_text(program: Program, value_id: int) -> str:
    value = program.values[value_id]
    shape = "x".join(map(str, value.shape))
    return f"{value.name}@{value.buffer}+{value.offset}:{value.dtype}[{shape}]"


def _arg_text(program: Program, arg: Arg) -> str:
    if isinstance(arg, Ref):
        return _value_text(program, arg.value)
    if isinstance(arg, Symbol):
        return arg.text
    if isinstance(arg, tuple):
        return f"({', '.join(_arg_text(program, item) for item in arg)})"
    return repr(arg)
