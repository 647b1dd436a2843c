"""What every step costs on the target: seconds of computing, bytes taken outside the arena."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

from occ.child import Answer, Child, ChildError
from occ.codegen.kernels import products
from occ.codegen.native import NativeFunction
from occ.codegen.steps import native_functions, step_text
from occ.contention import CONTENDED
from occ.counter import counter_settings
from occ.errors import InternalError
from occ.gathers import GROUPED_PRODUCT, STORED_PRODUCT
from occ.host import cpus
from occ.ir import BufferKind, Packing, Program, Step, StepCost
from occ.native import local_library
from occ.progress import SILENT, Progress
from occ.reading import sample_file
from occ.sequence import sequence_request
from occ.stored import gather_cost, product_cost, with_one_matrix
from occ.target import Target, keep_kernels, local_target, openmp_settings, rounded
from occ.units import ALIGNMENT, WORKSPACE_GRAIN, round_down, round_up

PRODUCTS = frozenset(kernel.name for kernel in products.KERNELS)
"""Kernels whose time is that of multiplying matrices."""

TELLING = 0.5
"""Share of a run's time that steps have to take which were measured before, for their times now and then to
tell how the machine's speed has changed. Networks share a few small steps, which depend on what is beside
them."""

BUSY = (
    "other processes computed while kernels were measured, so plans may be poor ones;"
    " `occ cache --clear` forgets what was measured"
)

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

    @property
    def request(self) -> Answer:
        """The case as the processes take it that measure it."""
        return {
            "text": self.text,
            "values": [value.facts for value in self.values],
            "buffers": self.buffers,
            "reads": self.reads,
            "writes": self.writes,
            "weights": self.weights,
        }


def case_of(program: Program, step: Step, device: str = "cpu") -> Case:
    """The case that a step is an instance of, called as on `device`.

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
        text=step_text(program.values, step, names.__getitem__, device),
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


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds on the target over seconds here, of kernels that multiply matrices and of all others."""

    products: float = 1.0
    others: float = 1.0

    def of(self, kernel: str) -> float:
        return self.products if kernel in PRODUCTS else self.others


def pace_of(target: Target) -> Pace:
    """How a target compares with this machine: by the rates of both profiles, unless it is such a one."""
    if target.is_here:
        return Pace()
    here = local_target(tempfile.gettempdir(), min(target.threads, cpus()))
    return Pace(here.product_rate / target.product_rate, here.memory_rate / target.memory_rate)


class Measurer:
    """Measures steps on this machine, each case once; `target` is the profile that knows them all.

    For a target that is another machine, what is measured is scaled by how the two compare. For this one,
    steps are also run while a file in `folder` is read, where one is given. A helper process for each spin
    policy starts when a case is met that the profile lacks, and ends with the `with` block. Before that,
    `undisturbed` is called, which returns when nothing goes on beside.
    """

    def __init__(
        self,
        target: Target,
        progress: Progress = SILENT,
        folder: Path | None = None,
        undisturbed: Callable[[], None] = lambda: None,
    ) -> None:
        self.target = target
        self._undisturbed = undisturbed
        self._progress = progress
        self._folder = folder if target.is_here else None
        self._sample = ExitStack()
        self._threads = min(target.threads, cpus())
        self._was_busy = False
        self._children: dict[str, Child] = {}
        self._compiled: dict[str, set[NativeFunction]] = {}
        """The native kernels that each helper process has."""

    def measure(self, program: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
        """The cost of every step of a rewritten program that waits by the policy `spin`, with weights that
        are `resident`, or else come from storage and were in no cache.

        Workspaces are measured of each case by itself, seconds in a run of the program. New costs are kept in
        the cache. Raises InternalError for a kernel that fails and for a helper process that ends, and
        UsageError where the file to be read cannot be written.
        """
        cases = [_measured_case(program, step) for step in program.steps]
        keys = [None if case is None else self._key(case, spin, resident) for case in cases]
        alone: dict[str, StepCost] = {}
        paces: dict[str, float] = {}
        unknown = {key for key in keys if key is not None and key not in self.target.kernels}
        if unknown:
            self._undisturbed()
            with self._progress.stage("compiling kernels"):
                self._compile(program, spin)
        with self._progress.stage("measuring", len(unknown), "kernels") as advance:
            for key, case, step in zip(keys, cases, program.steps, strict=True):
                if key in unknown and key not in alone and key is not None and case is not None:
                    # What a kernel allocates does not depend on how threads wait or where weights are.
                    known = self.target.kernels.get(case.signature)
                    pace = paces[key] = self._pace.of(step.kernel)
                    alone[key] = (
                        self._alone(case, step, spin)
                        if known is None
                        else StepCost(known.seconds / pace, known.workspace)
                    )
                    advance(1)
        if alone:
            with self._progress.stage("measuring kernels in a run"):
                together = self._together(program, keys, alone, spin, resident)
            fresh = {
                key: replace(cost, seconds=rounded(cost.seconds * paces[key], 3))
                for key, cost in together.items()
            }
            keep_kernels(self.target, fresh)
            self.target = self.target.with_kernels(fresh)
        return tuple(self._cost(program, step, key) for key, step in zip(keys, program.steps, strict=True))

    def _cost(self, program: Program, step: Step, key: str | None) -> StepCost:
        if key is None:
            return gather_cost(program, step, self.target)
        found = self.target.kernels[key]
        if step.kernel in (GROUPED_PRODUCT, STORED_PRODUCT):
            return product_cost(program, step, found, self.target)
        return found

    @cached_property
    def _pace(self) -> Pace:
        return pace_of(self.target)

    def close(self) -> None:
        """End the helper processes; the next measurement starts others."""
        for child in self._children.values():
            child.close()
        self._children.clear()
        self._compiled.clear()
        self._sample.close()

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _key(self, case: Case, spin: str, resident: bool) -> str:
        """What the profile knows a case by: for programs that stream, its signature."""
        if resident:
            return f"resident, spin {spin}: {case.signature}"
        return case.signature if spin == self.target.spin else f"spin {spin}: {case.signature}"

    def _compile(self, program: Program, spin: str) -> None:
        """Give the helper process those of a program's native kernels that it lacks, as one library."""
        compiled = self._compiled.setdefault(spin, set())
        lacking = [f for f in native_functions(program.values, program.steps) if f not in compiled]
        if lacking:
            library = base64.b64encode(local_library(lacking)).decode("ascii")
            answer = self._ask({"library": library}, spin, f"program {program.name}")
            if "error" in answer:
                raise InternalError(f"the native kernels of {program.name} cannot be run: {answer['error']}")
            self._compiled.setdefault(spin, set()).update(lacking)

    def _alone(self, case: Case, step: Step, spin: str) -> StepCost:
        """The workspace of a case, and its seconds with operands in the caches."""
        where = f"step {step.name} (kernel {step.kernel}, module {step.module or 'of the model itself'})"
        answer = self._ask(case.request, spin, where)
        if "error" in answer:
            raise InternalError(f"{where} cannot be run as {case.text}: {answer['error']}")
        return StepCost(answer["seconds"], round_up(answer["workspace"], WORKSPACE_GRAIN))

    def _together(
        self,
        program: Program,
        keys: Sequence[str | None],
        alone: Mapping[str, StepCost],
        spin: str,
        resident: bool,
    ) -> dict[str, StepCost]:
        """The costs `alone` with the seconds that their steps take in a run of the program, and how much
        slower they are there beside reads."""
        numbers = {key: number for number, key in enumerate(dict.fromkeys(filter(None, keys)))}
        cases = [
            None if key is None or step.stored else numbers[key]
            for key, step in zip(keys, program.steps, strict=True)
        ]
        request = sequence_request(program, cases, {numbers[key] for key in alone}, resident)
        answer = self._ask(request, spin, f"program {program.name}")
        if "error" in answer:
            raise InternalError(f"program {program.name} cannot be run to be measured: {answer['error']}")
        seconds: dict[str, float] = answer["alone"]
        beside: dict[str, float] = answer["beside"]
        if answer["contended"] > CONTENDED and not self._was_busy:
            self._was_busy = True
            self._progress(BUSY)
        took = {key: seconds[str(number)] for key, number in numbers.items() if str(number) in seconds}
        # A sample of a run has too few other steps to tell.
        drift = self._drift(program, keys, took, alone) if resident else 1.0
        found = dict(alone)
        for key, cost in alone.items():
            if key in took:
                slowed = beside.get(str(numbers[key]))
                slowdown = None if slowed is None else max(1.0, round(slowed / took[key], 2))
                found[key] = replace(cost, seconds=took[key] / drift, slowdown=slowdown)
        return found

    def _drift(
        self,
        program: Program,
        keys: Sequence[str | None],
        took: Mapping[str, float],
        fresh: Collection[str],
    ) -> float:
        """How many times longer steps `took` now than when they were measured, all those that were together;
        1 where those make up too little of the program to tell. A machine's speed changes by more than what
        drafts differ in."""
        now = before = whole = 0.0
        for key, step in zip(keys, program.steps, strict=True):
            if key is None or key not in took:
                continue
            whole += took[key]
            if key not in fresh:
                now += took[key]
                before += self.target.kernels[key].seconds / self._pace.of(step.kernel)
        return now / before if before and now >= TELLING * whole else 1.0

    def _ask(self, request: Answer, spin: str, where: str) -> Answer:
        try:
            if spin not in self._children:
                settings = {**openmp_settings(self._threads, spin), **counter_settings()}
                child = self._children[spin] = Child("occ.measure_child", settings)
                child.ask({"threads": self._threads}, FIRST_SECONDS)
                # What waits as a program that loads nothing is never run beside reads.
                if self._folder is not None and spin == self.target.spin:
                    sample = self._sample.enter_context(sample_file(self._folder))
                    child.ask({"sample": str(sample)}, FIRST_SECONDS)
            return self._children[spin].ask(request, CALL_SECONDS)
        except ChildError as error:
            self.close()
            raise InternalError(f"{where}: the process that measures it {error}") from error


def _measured_case(program: Program, step: Step) -> Case | None:
    """What is measured of a step; None for a lookup in the file, which is not run."""
    if step.kernel == STORED_PRODUCT:
        return case_of(*with_one_matrix(program, step))
    return None if step.stored else case_of(program, step)


def measure(
    program: Program, target: Target, folder: Path | None = None
) -> tuple[tuple[StepCost, ...], Target]:
    """The cost of every step as programs that stream wait, and the target that knows them; see
    Measurer."""
    with Measurer(target, folder=folder) as measurer:
        return measurer.measure(program, target.spin), measurer.target


def signatures(program: Program) -> Mapping[str, Step]:
    """The distinct cases among a program's steps, each with the first step that is one."""
    found: dict[str, Step] = {}
    for step in program.steps:
        if not step.stored:
            found.setdefault(case_of(program, step).signature, step)
    return found
