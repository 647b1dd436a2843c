"""Measuring steps: what counts as the same step, what is seen, and what happens when a kernel fails."""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path
from time import sleep
from typing import Any, cast

import pytest
from memory_oracle import footprint, limited
from other_processes import computing

from occ import measure as measuring
from occ.codegen.text import contiguous_strides
from occ.contention import PRESSURE
from occ.counter import counter_settings
from occ.errors import InternalError, UsageError
from occ.host import cpu_model, cpus, isa
from occ.ir import Arg, Buffer, BufferKind, Program, Ref, Step, StepCost, Symbol, Value
from occ.measure import Measurer, Pace, case_of, measure, pace_of, signatures
from occ.measure_child import SCOPE, Operands
from occ.numbers import CACHES_NBYTES, Pool
from occ.progress import as_progress
from occ.reading import Sample
from occ.sequence import SAMPLES, reused_layout, sampled, sequence_request
from occ.sequence_child import FEWEST_PASSES, sequence_seconds
from occ.sequence_child import Memory as SequenceMemory
from occ.stored import product_cost, with_one_matrix
from occ.target import Target, cached_kernels
from occ.units import WORKSPACE_GRAIN

TARGET = Target(
    name="here",
    cpu=cpu_model(),
    arch=platform.machine(),
    isa=isa(),
    torch="2.13.0",
    threads=1,
    bandwidth=1e9,
    overhead=1e-4,
    slowdown=1.0,
    interruption=0.0,
    lag=0.0,
    response=0.0,
    product_rate=1e11,
    memory_rate=1e10,
    spin="default",
)
MB = 1 << 20
COST = StepCost(1e-3, WORKSPACE_GRAIN)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCC_CACHE_DIR", str(tmp_path / "cache"))


class Memory:
    """Buffers and values, added one after another."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.values: list[Value] = []

    def buffer(self, nbytes: int, kind: BufferKind = BufferKind.ACTIVATION) -> int:
        id = len(self.buffers)
        self.buffers.append(Buffer(id, f"b{id}", kind, nbytes))
        return id

    def value(self, buffer: int, *shape: int, offset: int = 0, dtype: str = "float32") -> int:
        id = len(self.values)
        self.values.append(Value(id, f"name{id}", buffer, offset, dtype, shape, contiguous_strides(shape)))
        return id

    def program(self, *steps: Step) -> Program:
        return Program(
            name="p",
            buffers=tuple(self.buffers),
            values=tuple(self.values),
            steps=steps,
            inputs=(),
            outputs=(),
            states=(),
            grains=(),
            input_tree={},
            output_tree={},
            weights_nbytes=0,
            file_nbytes=0,
            activation_peak=0,
        )


def step(kernel: str, outs: int, name: str = "s", **args: Arg) -> Step:
    return Step(name, "net.layer", kernel, tuple(args.items()), (outs,))


def one_step(kernel: str, *shape: int, in_place: bool = False, **args: Arg) -> Program:
    memory = Memory()
    nbytes = max(4 * MB, 4 * prod(shape))
    x = memory.value(memory.buffer(nbytes), *shape)
    out = x if in_place else memory.value(memory.buffer(nbytes), *shape)
    return memory.program(step(kernel, out, self=Ref(x), **args))


def fallback(text: str) -> Program:
    return one_step("fallback", 1024, op=Symbol(text), results=None)


# What is the same


def test_names_do_not_matter_and_overlap_does() -> None:
    memory = Memory()
    a, b = memory.buffer(400), memory.buffer(400)
    x, y, z = memory.value(a, 100), memory.value(b, 100), memory.value(b, 50)
    program = memory.program(
        step("relu", y, name="first", self=Ref(x)),
        step("relu", x, name="second", self=Ref(y)),
        step("relu", x, name="in place", self=Ref(x)),
        step("relu", z, name="smaller", self=Ref(z)),
        step("add", x, self=Ref(x), other=2),
        step("add", x, self=Ref(x), other=3),
        step("add", x, self=Ref(x), other=2.0),
    )
    cases = [case_of(program, s).signature for s in program.steps]
    assert cases[0] == cases[1]
    assert len(set(cases)) == 6
    assert list(signatures(program)) == list(dict.fromkeys(cases))


def test_parts_of_a_split_step_are_one_case() -> None:
    memory = Memory()
    weight, result = memory.buffer(64 * 4 * 16, BufferKind.WEIGHT), memory.buffer(64 * 4)
    x = memory.value(memory.buffer(4 * 16), 16)
    parts = [
        step(
            "mv",
            memory.value(result, 16, offset=64 * part),
            self=Ref(memory.value(weight, 16, 16, offset=1024 * part)),
            vec=Ref(x),
        )
        for part in range(4)
    ]
    program = memory.program(*parts)
    assert len(signatures(program)) == 1
    case = case_of(program, parts[2])
    assert case.weights == (0,)
    assert case.buffers == (1024, 64, 64)


# What is measured


def test_costs_are_measured_once_and_kept() -> None:
    program = one_step("exp", 64, 1024)
    costs, target = measure(program, TARGET)
    assert costs[0].seconds > 0
    assert list(target.kernels.values()) == list(costs)
    assert cached_kernels(TARGET) == target.kernels
    with Measurer(target) as measurer:
        assert measurer.measure(program, TARGET.spin) == costs
        assert not measurer._children


def test_nothing_goes_on_beside_what_is_measured() -> None:
    asked: list[str] = []
    with Measurer(TARGET, undisturbed=lambda: asked.append("quiet?")) as measurer:
        measurer.measure(one_step("exp", 30), TARGET.spin)
        assert asked == ["quiet?"]
        measurer.measure(one_step("exp", 30), TARGET.spin)
        assert asked == ["quiet?"]


def test_one_process_measures_all_that_wait_in_one_way() -> None:
    with Measurer(TARGET) as measurer:
        measurer.measure(one_step("exp", 10), TARGET.spin)
        [process] = measurer._children.values()
        measurer.measure(one_step("exp", 20), TARGET.spin)
        assert list(measurer._children.values()) == [process]
        measurer.measure(one_step("exp", 20), "passive")
        assert list(measurer._children) == [TARGET.spin, "passive"]
        assert len(measurer.target.kernels) == 3


@pytest.mark.parametrize("counted", [True, False])
def test_workspace_is_what_a_kernel_allocates(counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if counted and not counter_settings():
        pytest.skip("NOT TESTED: there is no C compiler, so allocations cannot be counted")
    if not counted:
        monkeypatch.setattr(measuring, "counter_settings", dict)
    memory = Memory()
    x, out = (memory.value(memory.buffer(4 * MB), MB) for _ in range(2))
    program = memory.program(
        step("exp", out, self=Ref(x)),
        step("fallback", out, op=Symbol("aten.exp.default"), self=Ref(x), results=None),
        step("fallback", out, op=Symbol("(lambda x: (x + 1) * x)"), self=Ref(x), results=None),
    )
    small, one, two = (cost.workspace for cost in measure(program, TARGET)[0])
    noise = WORKSPACE_GRAIN if counted else 16 * WORKSPACE_GRAIN
    assert small <= noise
    assert 4 * MB <= one <= 4 * MB + noise
    assert 8 * MB <= two <= 8 * MB + noise
    assert one % WORKSPACE_GRAIN == 0


def test_integers_index_the_first_row_and_divide() -> None:
    memory = Memory()
    table = memory.value(memory.buffer(40, BufferKind.WEIGHT), 1, 10)
    indices = memory.value(memory.buffer(16), 2, dtype="int64")
    rows = memory.value(memory.buffer(80), 2, 10)
    program = memory.program(
        step("embedding", rows, weight=Ref(table), indices=Ref(indices)),
        step("remainder", indices, self=Ref(indices), other=Ref(indices)),
    )
    assert all(cost.seconds > 0 for cost in measure(program, TARGET)[0])


def test_large_weights_are_read_cold() -> None:
    memory = Memory()
    weight = memory.value(memory.buffer(2 * MB, BufferKind.WEIGHT), 512, 1024)
    x, out = memory.value(memory.buffer(4096), 1024), memory.value(memory.buffer(2048), 512)
    program = memory.program(step("mv", out, self=Ref(weight), vec=Ref(x)))
    case = case_of(program, program.steps[0])
    request = {
        "values": [value.facts for value in case.values],
        "buffers": case.buffers,
        "reads": case.reads,
        "writes": case.writes,
        "weights": case.weights,
    }
    sets = Operands(request, Pool()).sets()
    weights = [values[0] for values in sets]
    assert len({w.data_ptr() for w in weights}) * 2 * MB > CACHES_NBYTES
    assert all(0.9 < float(w.std()) < 1.1 for w in weights)
    assert len({values[1].data_ptr() for values in sets}) == 1


def test_a_gather_is_modelled() -> None:
    memory = Memory()
    table = memory.value(memory.buffer(4000, BufferKind.WEIGHT), 100, 10)
    indices = memory.value(memory.buffer(40), 5, dtype="int64")
    rows = memory.value(memory.buffer(200), 5, 10)
    gather = Step(
        "g", "", "gather", (("weight", Ref(table)), ("indices", Ref(indices))), (rows,), stored=(table,)
    )
    [cost], target = measure(memory.program(gather), TARGET)
    # 5 requests of 0.1 ms and a page each, and 200 bytes at 1 GB/s
    assert cost == StepCost(0.000521, WORKSPACE_GRAIN)
    assert not target.kernels


@pytest.mark.parametrize(("rows", "matrices"), [(3, 3), (20, 8)])
def test_a_product_with_experts_counts_the_worst_case(rows: int, matrices: int) -> None:
    """Each row is of a matrix of its own, 256 kB that memory gives at 10 GB/s and the file at 1 GB/s."""
    memory = Memory()
    nbytes = 4 * 256 * 250
    weight = memory.value(memory.buffer(8 * nbytes, BufferKind.WEIGHT), 8, 256, 250)
    x, out = memory.value(memory.buffer(MB), rows, 256), memory.value(memory.buffer(MB), rows, 250)
    numbers = memory.value(memory.buffer(8 * rows), rows, dtype="int64")
    args = {"input": Ref(x), "weight": Ref(weight), "experts": Ref(numbers)}
    product = step("grouped_product", out, **args)
    one = StepCost(1e-6, WORKSPACE_GRAIN, 1.5)
    cost = product_cost(memory.program(product), product, one, TARGET)
    computing = matrices * nbytes / 1e10
    assert cost == replace(one, seconds=pytest.approx(computing, rel=1e-2))
    stored = replace(product, kernel="stored_product", stored=(weight,))
    cost = product_cost(memory.program(stored), stored, one, replace(TARGET, response=1e-3))
    reading = matrices * (1e-4 + nbytes / 1e9)
    # What is computed beside reading takes longer, and that of the last matrix is beside nothing.
    assert cost.seconds == pytest.approx(reading + 1.5 * computing / matrices + 1e-3, rel=1e-2)
    # Multiplying is measured with one of the matrices.
    program, proxy = with_one_matrix(memory.program(stored), stored)
    assert (proxy.kernel, proxy.stored, program.values[-1].shape) == ("grouped_product", (), (1, 256, 250))
    assert program.buffers[-1].nbytes == nbytes


# For another machine


def test_costs_on_another_machine_are_scaled_by_how_it_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine that multiplies matrices 10 times slower, and does everything else twice as fast.
    here = replace(TARGET, product_rate=1e11, memory_rate=1e10)
    other = replace(TARGET, name="board", product_rate=1e10, memory_rate=2e10, threads=64)
    monkeypatch.setattr(measuring, "local_target", lambda directory, threads: here)
    monkeypatch.setattr(Target, "is_here", property(lambda target: target.name != "board"))
    assert pace_of(here) == Pace(1.0, 1.0)
    assert pace_of(other) == Pace(10.0, 0.5)
    memory = Memory()
    x = memory.value(memory.buffer(4 * 64 * 64), 64, 64)
    y, z = (memory.value(memory.buffer(4 * 64 * 64), 64, 64) for _ in range(2))
    program = memory.program(step("mm", y, self=Ref(x), mat2=Ref(x)), step("exp", z, self=Ref(y)))
    monkeypatch.setattr(
        Measurer, "_together", lambda self, program, keys, alone, *_: dict.fromkeys(alone, COST)
    )
    product, other_kernel = measure(program, other)[0]
    assert (product.seconds, other_kernel.seconds) == (0.01, 0.0005)
    assert product.workspace == other_kernel.workspace == COST.workspace


# In a run of the program


def chain(*kinds: BufferKind) -> Program:
    """x -> exp -> relu -> ... through a buffer of each kind; all of 100 floats."""
    memory = Memory()
    values = [memory.value(memory.buffer(400, kind), 100) for kind in kinds]
    return memory.program(*(step("relu", out, self=Ref(x)) for x, out in pairwise(values)))


def test_memory_is_used_again_when_it_is_free() -> None:
    activation, output = BufferKind.ACTIVATION, BufferKind.OUTPUT
    layout = reused_layout(chain(BufferKind.INPUT, activation, activation, activation, activation, output))
    # Input, output, and two activations that take turns; 400 bytes are 448 in whole cache lines.
    assert layout.nbytes == 4 * 448
    assert layout.offsets[1] == layout.offsets[3]
    assert layout.offsets[2] == layout.offsets[4]
    assert len({layout.offsets[buffer] for buffer in (0, 1, 2, 5)}) == 4


def sequence(program: Program, cases: list[int | None]) -> dict[int, float]:
    request = json.loads(json.dumps(sequence_request(program, cases, set(cases) - {None})))
    return sequence_seconds(request, Pool(), SCOPE).alone


def test_a_program_is_run_in_its_order_with_what_its_steps_compute() -> None:
    seen: list[float] = []
    memory = Memory()
    weight = memory.value(memory.buffer(400, BufferKind.WEIGHT), 100)
    a, b = (memory.value(memory.buffer(400), 100) for _ in range(2))
    program = memory.program(
        step("fill", a, value=3.0),
        step("add", b, self=Ref(a), other=2.0),
        step("mul", a, self=Ref(b), other=Ref(b)),
        step("fallback", b, op=Symbol("seen"), self=Ref(a), results=None),
        step("mul", b, self=Ref(a), other=Ref(weight)),
    )
    scope = {**SCOPE, "seen": lambda x: seen.append(float(x.mean())) or x}
    request = json.loads(json.dumps(sequence_request(program, [0, 1, 2, 3, 2], range(4))))
    passes = sequence_seconds(request, Pool(), scope)
    assert not passes.beside
    assert set(passes.alone) == {0, 1, 2, 3}
    assert all(0 < taken < 0.1 for taken in passes.alone.values())
    assert len(seen) > FEWEST_PASSES
    assert set(seen) == {25.0}


def test_steps_of_a_case_are_spread_over_the_program_and_have_others_before_them() -> None:
    cases = [None, 0, *[1, 2] * 50, None, 3, 4]
    places = sampled(cases, {1, 4})
    assert places == sorted(set(places))
    chosen = Counter(cases[place] for place in places)
    assert chosen[None] == 0
    assert chosen[4] == 1
    assert SAMPLES <= chosen[1] <= 3 * SAMPLES
    assert {place for place in places if cases[place] == 1} >= {2, 100}
    assert {101, 103, 104} <= set(places)
    assert sampled(cases, range(5))[:3] == [1, 2, 3]
    assert sampled(cases, set()) == []


def test_resident_weights_stay_where_they_are_and_others_move_on() -> None:
    memory = Memory()
    weight = memory.value(memory.buffer(2 * MB, BufferKind.WEIGHT), 512, 1024)
    x, out = memory.value(memory.buffer(4096), 1024), memory.value(memory.buffer(2048), 512)
    program = memory.program(step("mv", out, self=Ref(weight), vec=Ref(x)))
    for resident in (True, False):
        run = SequenceMemory(json.loads(json.dumps(sequence_request(program, [0], [0], resident))), Pool())
        places = [run.tensors()[weight].data_ptr() for _ in range(5)]
        assert len(set(places)) == (1 if resident else 5)


def test_resident_costs_are_kept_apart_and_take_no_second_look_at_the_workspace(tmp_path: Path) -> None:
    program = one_step("exp", 64, 1024)
    with Measurer(TARGET, folder=tmp_path) as measurer:
        [streaming] = measurer.measure(program, TARGET.spin)
        known = replace(streaming, workspace=7 * WORKSPACE_GRAIN)
        [signature] = measurer.target.kernels
        measurer.target = replace(measurer.target, kernels={signature: known})
        [resident] = measurer.measure(program, TARGET.spin, resident=True)
        assert measurer.measure(program, TARGET.spin) == (known,)
        assert measurer.measure(program, TARGET.spin, resident=True) == (resident,)
    assert resident.workspace == known.workspace
    assert (streaming.slowdown is None, resident.slowdown is None) == (False, True)


def test_a_machine_that_has_become_slower_is_seen_by_the_steps_that_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Memory()
    x, y, z = (memory.value(memory.buffer(400), 100) for _ in range(3))
    before = memory.program(step("exp", y, self=Ref(x)))
    program = memory.program(step("exp", y, self=Ref(x)), step("relu", z, self=Ref(y)))
    runs = iter([{"0": 10e-3}, {"0": 20e-3, "1": 6e-3}, {"0": 20e-3, "1": 5e-3}, {"0": 20e-3, "1": 30e-3}])

    def ask(measurer: Measurer, request: dict[str, Any], spin: str, where: str) -> dict[str, Any]:
        if "steps" in request:
            return {"alone": next(runs), "beside": {}, "contended": 0.0}
        return {"seconds": 1.0, "workspace": 0}

    monkeypatch.setattr(Measurer, "_ask", ask)

    def seconds(measurer: Measurer, resident: bool = True) -> list[float]:
        return [cost.seconds for cost in measurer.measure(program, "default", resident)]

    with Measurer(TARGET) as measurer:
        [known] = measurer.measure(before, "default", resident=True)
        assert known.seconds == 10e-3
        kernels = dict(measurer.target.kernels)
        assert seconds(measurer) == [10e-3, 3e-3]
        # A sample of a run has too few other steps to tell.
        measurer.target = replace(measurer.target, kernels=dict.fromkeys(signatures(before), known))
        assert seconds(measurer, resident=False) == [10e-3, 5e-3]
        # And so have those that take little of it.
        measurer.target = replace(measurer.target, kernels=kernels)
        assert seconds(measurer) == [10e-3, 30e-3]


class SlowReads:
    """A sample beside which a program takes a millisecond longer a pass, and once 100 milliseconds."""

    def __init__(self, slow: list[float]) -> None:
        self.slow = slow
        self.passes = 0

    def beside(self, action: Callable[[], dict[int, float]]) -> dict[int, float]:
        self.passes += 1
        self.slow.append(0.1 if self.passes == 2 else 0.001)
        try:
            return action()
        finally:
            self.slow.clear()


def test_steps_are_also_timed_beside_reads() -> None:
    slow: list[float] = []
    memory = Memory()
    x, out = (memory.value(memory.buffer(400), 100) for _ in range(2))
    program = memory.program(
        step("exp", out, self=Ref(x)),
        step("fallback", out, op=Symbol("delayed"), self=Ref(x), results=None),
    )
    scope = {**SCOPE, "delayed": lambda x: sleep(sum(slow)) or x}
    request = json.loads(json.dumps(sequence_request(program, [0, 1], [0, 1])))
    sample = SlowReads(slow)
    passes = sequence_seconds(request, Pool(), scope, cast("Sample", sample))
    assert set(passes.alone) == set(passes.beside) == {0, 1}
    assert sample.passes > FEWEST_PASSES - 1
    assert passes.alone[1] < 0.001 < passes.beside[1] < 0.1


@pytest.mark.parametrize("threads", [1, cpus()])
def test_it_is_said_where_other_processes_compute(threads: int) -> None:
    """Twice as many as there are processors."""
    if not PRESSURE.exists():
        pytest.skip("NOT TESTED: this system does not count how long threads wait for a processor")
    lines: list[str] = []
    with (
        computing(2 * cpus()),
        Measurer(replace(TARGET, threads=threads), as_progress(lines.append)) as measurer,
    ):
        for rows in (8192, 16384):
            measurer.measure(one_step("exp", rows, 2048), TARGET.spin)
    assert lines == [measuring.BUSY]


def test_how_much_slower_steps_are_beside_reads_is_measured_on_the_storage_they_read(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    program = one_step("exp", 64, 1024)
    with Measurer(TARGET, folder=disk) as measurer:
        [streaming] = measurer.measure(program, TARGET.spin)
        assert len(list(disk.glob(".occ-profile-*"))) == 1
        [resident] = measurer.measure(program, "passive")
    assert not list(disk.iterdir())
    assert streaming.slowdown is not None
    assert streaming.slowdown >= 1.0
    assert resident.slowdown is None
    assert measure(program, measurer.target, disk)[0] == (streaming,)
    with pytest.raises(UsageError, match="to measure how fast it is read"):
        measure(one_step("exp", 32), TARGET, tmp_path / "nowhere")


def test_weights_are_somewhere_else_at_every_pass() -> None:
    memory = Memory()
    weight = memory.value(memory.buffer(8 * MB, BufferKind.WEIGHT), 2 * MB)
    out = memory.value(memory.buffer(8 * MB), 2 * MB)
    program = memory.program(step("exp", out, self=Ref(weight)))
    lies = SequenceMemory(json.loads(json.dumps(sequence_request(program, [0], [0]))), Pool())
    places = [lies.tensors()[weight].data_ptr() for _ in range(16)]
    assert len(set(places)) == 16
    assert max(places) - min(places) >= CACHES_NBYTES


def test_a_step_that_made_up_numbers_stop_is_left_out() -> None:
    memory = Memory()
    x, out = (memory.value(memory.buffer(400), 100) for _ in range(2))
    program = memory.program(
        step("fallback", out, op=Symbol("(lambda x: 1 // 0)"), self=Ref(x), results=None),
        step("exp", out, self=Ref(x)),
    )
    assert set(sequence(program, [0, 1])) == {1}


# What goes wrong


def test_a_kernel_that_fails_is_named() -> None:
    with pytest.raises(InternalError) as caught:
        measure(one_step("sum", 10, dim=(7,)), TARGET)
    text = str(caught.value)
    assert "\n" not in text
    for word in ("step s", "kernel sum", "net.layer", "torch.sum(v0", "Dimension out of range"):
        assert word in text, text


KILLED = "(lambda x: __import__('os').kill(__import__('os').getpid(), 9))"
CRASHED = "(lambda x: __import__('ctypes').string_at(0))"
EXITED = "(lambda x: __import__('os')._exit(3))"


@pytest.mark.parametrize(
    ("text", "words"), [(KILLED, "was killed"), (CRASHED, "died of SIGSEGV"), (EXITED, "ended with code 3")]
)
def test_a_kernel_that_ends_the_process_is_an_error(text: str, words: str) -> None:
    with Measurer(TARGET) as measurer:
        with pytest.raises(InternalError, match=f"step s .*the process that measures it {words}"):
            measurer.measure(fallback(text), TARGET.spin)
        assert measurer.measure(one_step("exp", 10), TARGET.spin)[0].seconds > 0


def test_a_kernel_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "CALL_SECONDS", 0.5)
    with pytest.raises(InternalError, match="gave no answer within"):
        measure(fallback("(lambda x: __import__('time').sleep(60))"), TARGET)


def test_a_kernel_that_prints_does_not_disturb() -> None:
    assert measure(fallback("(lambda x: (print('{}'), x)[1])"), TARGET)[0][0].seconds > 0


# The tests' own oracle


def test_the_oracle_counts(tmp_path: Path) -> None:
    assert footprint("", "x = bytearray(3 << 20)", tmp_path).large == 1
    found = footprint("import torch; x = torch.ones(1 << 20)", "y = (x + 1).sum()", tmp_path)
    assert 4 * MB <= found.peak <= 4 * MB + 65536
    mapped = footprint("import mmap", "mmap.mmap(-1, 1 << 20).close(); mmap.mmap(-1, 1 << 20)", tmp_path)
    assert MB <= mapped.peak <= MB + 65536
    none = footprint("import torch; x = torch.ones(1 << 20)", "x.exp_()", tmp_path)
    assert none.large == 0
    assert none.peak < 65536


def test_the_limit_is_real() -> None:
    def attempt(group: Any, nbytes: int) -> int:
        code = f"x = bytearray({nbytes}); print(len(x))"
        result: int = group.run([sys.executable, "-c", code]).returncode
        return result

    with limited(64 * MB) as group:
        assert attempt(group, 8 * MB) == 0
        assert attempt(group, 256 * MB) == -9
