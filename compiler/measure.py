"""What every step costs on the target: seconds of computing, bytes taken outside the arena."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import TracebackType

from occ.child import Child, ChildError
from occ.codegen.kernels import call_text
from occ.codegen.text import operand
from occ.counter import counter_settings
from occ.errors import InternalError
from occ.ir import BufferKind, Packing, Program, Ref, Step, StepCost
from occ.runtime_stub.loader import THREADS as READERS
from occ.target import Target, keep_kernels, openmp_settings, rounded
from occ.units import ALIGNMENT, round_down, round_up

WORKSPACE_GRAIN = 64 << 10
"""Bytes; workspaces are rounded up to multiples, so that they do not depend on the length of a name."""

GATHER_ROW_NBYTES = 512
"""Bytes of lists and dictionaries that a gather keeps per row."""

FIRST_SECONDS = 120.0
CALL_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class LocalValue:
    """A value of a case: a view of buffer `buffer`, at `offset` bytes, strides in elements."""

    buffer: int
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    packing: Packing | None

    @property
    def facts(self) -> list[object]:
        """The fields as JSON."""
        packing = self.packing and [self.packing.dtype, self.packing.shape, self.packing.layout]
        return [self.buffer, self.offset, self.dtype, self.shape, self.strides, packing]


@dataclass(frozen=True, slots=True)
class Case:
    """A step without its names: what its cost depends on.

    `text` is its call with values v0, v1, ...; `values` are those, over buffers of `buffers` bytes. `reads`
    and `writes` list the values it reads and writes, `weights` those that come from the file. Two steps
    whose values overlap in the same way are the same case.
    """

    text: str
    values: tuple[LocalValue, ...]
    buffers: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    weights: tuple[int, ...]

    @property
    def signature(self) -> str:
        """The case as one line of JSON, the same in every process."""
        facts = {"call": self.text, "values": [v.facts for v in self.values], "weights": self.weights}
        return json.dumps(facts, separators=(",", ":"))


def case_of(program: Program, step: Step) -> Case:
    """The case that a step is an instance of.

    Offsets count from the first byte of the buffer that the step touches (rounded down to the alignment of
    buffers), so the parts of a split step are mostly one case.
    """
    ids = tuple(dict.fromkeys((*step.reads, *step.outs, *step.scratch)))
    local = {id: index for index, id in enumerate(ids)}
    values = [program.values[id] for id in ids]
    firsts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for value in values:
        first, end = value.extent
        firsts[value.buffer] = min(firsts.get(value.buffer, first), first)
        ends[value.buffer] = max(ends.get(value.buffer, end), end)
    begins = {buffer: round_down(first, ALIGNMENT) for buffer, first in firsts.items()}
    numbers = {buffer: number for number, buffer in enumerate(begins)}
    names = {id: f"v{index}" for id, index in local.items()}
    return Case(
        text=call_text(
            step.kernel,
            {name: operand(arg, names.__getitem__) for name, arg in step.args},
            [names[id] for id in step.outs],
            [names[id] for id in step.scratch],
        ),
        values=tuple(
            LocalValue(
                numbers[value.buffer],
                value.offset - begins[value.buffer],
                value.dtype,
                value.shape,
                value.strides,
                value.packing,
            )
            for value in values
        ),
        buffers=tuple(ends[buffer] - begins[buffer] for buffer in begins),
        reads=tuple(local[id] for id in step.reads),
        writes=tuple(local[id] for id in step.writes),
        weights=tuple(
            local[id]
            for id in step.reads
            if program.buffers[program.values[id].buffer].kind is BufferKind.WEIGHT
        ),
    )


class Measurer:
    """Measures steps on this machine, each case once; `target` is the profile that knows them all.

    The helper process starts when a case is met that the profile lacks, and ends with the `with` block.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._child: Child | None = None

    def measure(self, program: Program) -> tuple[StepCost, ...]:
        """The cost of every step of a rewritten program.

        New costs are kept in the cache. Raises InternalError for a kernel that fails and for a helper process
        that ends.
        """
        costs: list[StepCost] = []
        fresh: dict[str, StepCost] = {}
        try:
            for step in program.steps:
                if step.stored:
                    costs.append(gather_cost(program, step, self.target))
                    continue
                case = case_of(program, step)
                signature = case.signature
                cost = self.target.kernels.get(signature) or fresh.get(signature)
                if cost is None:
                    cost = fresh[signature] = self._run(case, step)
                costs.append(cost)
        finally:
            if fresh:
                keep_kernels(self.target, fresh)
                self.target = self.target.with_kernels(fresh)
        return tuple(costs)

    def close(self) -> None:
        """End the helper process; the next measurement starts another."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, case: Case, step: Step) -> StepCost:
        where = f"step {step.name} (kernel {step.kernel}, module {step.module or 'of the model itself'})"
        request = {
            "text": case.text,
            "values": [value.facts for value in case.values],
            "buffers": case.buffers,
            "reads": case.reads,
            "writes": case.writes,
            "weights": case.weights,
        }
        try:
            if self._child is None:
                settings = {**openmp_settings(self.target.threads, self.target.spin), **counter_settings()}
                self._child = Child("occ.measure_child", settings)
                self._child.ask({"threads": self.target.threads}, FIRST_SECONDS)
            answer = self._child.ask(request, CALL_SECONDS)
        except ChildError as error:
            self.close()
            raise InternalError(f"{where}: the process that measures it {error}") from error
        if "error" in answer:
            raise InternalError(f"{where} cannot be run as {case.text}: {answer['error']}")
        return StepCost(rounded(answer["seconds"], 3), round_up(answer["workspace"], WORKSPACE_GRAIN))


def measure(program: Program, target: Target) -> tuple[tuple[StepCost, ...], Target]:
    """The cost of every step, and the target that knows them; see Measurer.measure."""
    with Measurer(target) as measurer:
        return measurer.measure(program), measurer.target


def gather_cost(program: Program, step: Step, target: Target) -> StepCost:
    """What reading rows from the file takes by the profile: one request a row, the loader's threads at once.

    It counts every index as a row of its own, the worst case.
    """
    indices = dict(step.args)["indices"]
    if not isinstance(indices, Ref):
        raise InternalError(f"step {step.name} gathers rows without a tensor of indices")
    rows = prod(program.values[indices.value].shape)
    nbytes = sum(program.values[out].extent[1] - program.values[out].extent[0] for out in step.outs)
    seconds = -(-rows // READERS) * target.overhead + nbytes / target.bandwidth
    return StepCost(rounded(seconds, 3), round_up(rows * GATHER_ROW_NBYTES, WORKSPACE_GRAIN))


def signatures(program: Program) -> Mapping[str, Step]:
    """The distinct cases among a program's steps, each with the first step that is one."""
    found: dict[str, Step] = {}
    for step in program.steps:
        if not step.stored:
            found.setdefault(case_of(program, step).signature, step)
    return found
