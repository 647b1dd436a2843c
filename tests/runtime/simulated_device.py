"""A device whose streams run in the cruellest order that its events allow, with memory of the host.

Nothing that is put into a stream runs at once. When the host waits, or asks for anything, the device runs
what `order` prefers among all that may run: copies as early and kernels as late as possible, the reverse, or
at random. So bytes that are overwritten too early, or read too early, are wrong in the result. Besides, every
access is compared with all earlier ones to the same bytes, by vector clocks: two that conflict and that no
event and no stream puts in order are a Race, in whatever order they happen to run (as in Serebryany and
Iskhodzhanov, ThreadSanitizer, 2009). Bytes of a copy's source must be the same when it runs as when it was
asked for, which finds a ring that is refilled too early. At the end no event may be left.

A program's steps are put into the compute stream by `simulated`, which rewrites the program's text: the call
of a step becomes the launch of it, with its operands as they are then.
"""

from __future__ import annotations

import ast
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from occ.codegen.addresses import Addresses
from occ.ir import BufferKind, Plan
from occ.runtime_stub.arena import Arena
from occ.runtime_stub.cells import cells_of
from occ.runtime_stub.device import RUNS_AHEAD, Clock, Event, Graph, Stream
from occ.runtime_stub.integrity import check_archive, read_member
from occ.runtime_stub.program import Program
from occ.runtime_stub.trace import StepTrace
from occ.serialize import plan_from_json

ORDERS = ("copies first", "kernels first", "random")
AT_ONCE = {"load", "wait", "gather", "replay"}
"""Functions of a program's text that are no kernels."""

Known = dict[object, int]
"""How many operations of each stream are known to have ended."""


class Race(AssertionError):
    """Two accesses to the same bytes that nothing puts in order, or bytes that are not what they must be."""


@dataclass(eq=False)
class SimulatedStream:
    name: str
    waiting: deque[Callable[[], bool]] = field(default_factory=deque)
    """What was put in and has not run. Each returns whether it ran."""
    put: int = 0
    done: int = 0
    clock: Known = field(default_factory=dict)


@dataclass(eq=False)
class SimulatedEvent:
    stream: SimulatedStream
    position: int
    clock: Known
    live: bool = True


@dataclass(frozen=True)
class Access:
    """Bytes [begin, end) of the process's memory, by operation `number` of a stream."""

    begin: int
    end: int
    writes: bool
    stream: SimulatedStream
    number: int
    what: str


@dataclass(frozen=True)
class Footprint:
    """What a step reads and writes, as bytes of the arena; weights with their offset in the file."""

    reads: tuple[tuple[int, int], ...]
    writes: tuple[tuple[int, int], ...]
    weights: tuple[tuple[int, int, int], ...]


class SimulatedDevice:
    """`device.Device` with CPU tensors. `order` is one of ORDERS."""

    def __init__(self, order: str = "random", seed: int = 0, integrated: bool = False) -> None:
        assert order in ORDERS
        self.place = torch.device("cpu")
        self.integrated = integrated
        self._compute = SimulatedStream("compute")
        self._copies = SimulatedStream("copies")
        self.compute: Stream = self._compute
        self.copies: Stream = self._copies
        self.footprints: Sequence[Footprint] = ()
        self.file_bytes = b""
        """What the weights must be; by itself those of the artifact as it is when it is loaded."""
        self.failures: list[BaseException] = []
        self.most_behind = 0
        """The most operations that were in the compute stream at once."""
        self.copied_nbytes = 0
        self.replays = 0
        self._arena: Tensor | None = None
        self._order = order
        self._random = Random(seed)
        self._registered: list[Arena] = []
        self._accesses: list[Access] = []
        self._events = 0
        self._spans: deque[SimulatedEvent] = deque()
        self._host: dict[int, Known] = {}
        self._captured: list[tuple[Any, ...]] | None = None
        self._lock = threading.RLock()
        self._runner = ThreadPoolExecutor(1, "simulated")
        self._closed = False

    # What the runtime asks of a device.

    def allocate(self, nbytes: int) -> Tensor:
        """Memory full of 0xff, which is NaN in every floating type."""
        assert self._arena is None, "the runtime allocates once"
        self._arena = torch.full((max(nbytes, 1),), 255, dtype=torch.uint8)
        return self._arena

    def register(self, host: Arena) -> None:
        with self._lock:
            assert host not in self._registered
            self._registered.append(host)

    def unregister(self, host: Arena) -> None:
        with self._lock:
            assert not self._copies.waiting, "memory is given back while a copy from it is under way"
            self._registered.remove(host)

    def mapped(self, host: Arena) -> Tensor:
        assert self.integrated
        assert host in self._registered
        host.bytes.fill_(255)
        self._arena = host.bytes
        return host.bytes

    def record(self, stream: Stream) -> Event:
        with self._lock:
            self._advance()
            self._events += 1
            found = self._stream(stream)
            self._hear(found)
            return SimulatedEvent(found, found.put, dict(found.clock))

    def wait(self, stream: Stream, event: Event) -> None:
        with self._lock:
            found, awaited = self._stream(stream), self._event(event)
            _join(found.clock, awaited.clock)
            source, position = awaited.stream, awaited.position
            found.waiting.append(lambda: source.done >= position)
            self._advance()

    def synchronize(self, event: Event) -> None:
        with self._lock:
            awaited = self._event(event)
            self._run_until(lambda: awaited.stream.done >= awaited.position)
            _join(self._host.setdefault(threading.get_ident(), {}), awaited.clock)

    def release(self, event: Event) -> None:
        with self._lock:
            self._event(event).live = False
            self._events -= 1

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        with self._lock:
            begin = source.data_ptr()
            assert target.dtype is torch.uint8
            assert target.numel() == source.numel()
            assert any(
                host.address <= begin and begin + source.nbytes <= host.address + max(host.nbytes, 4096)
                for host in self._registered
            ), "a copy from memory that is not pinned blocks the host"
            asked = source.clone()
            self.copied_nbytes += source.nbytes

            def run() -> None:
                if not torch.equal(asked, source):
                    raise Race(f"{source.nbytes} pinned bytes were overwritten before their copy was done")
                with torch.inference_mode():
                    target.copy_(asked)

            self._put(self._stream(stream), run, [], [_span(target)], "a copy")

    def fill(self, target: Tensor, source: Tensor | None) -> None:
        content = torch.zeros_like(target) if source is None else source.clone()

        def run() -> None:
            with torch.inference_mode():
                target.copy_(content)

        with self._lock:
            self._put(self._compute, run, [], [_span(target)], "a fill")
            self._catch_up(self._compute)

    def fetch(self, tensor: Tensor) -> Tensor:
        with self._lock:
            self._put(self._compute, lambda: None, [_span(tensor)], [], "a read-back")
            self._catch_up(self._compute)
            return tensor.clone()

    @contextmanager
    def joined(self) -> Iterator[None]:
        if len(self._spans) >= RUNS_AHEAD:
            oldest = self._spans.popleft()
            self.synchronize(oldest)
            self.release(oldest)
        try:
            yield
        finally:
            last = self.record(self.compute)
            assert isinstance(last, SimulatedEvent)
            self._spans.append(last)

    def last_seconds(self) -> float:
        with self._lock:
            self._catch_up(self._compute)
        return 0.0

    def clock(self) -> Clock:
        self.idle()
        return _Count(self)

    def capture(self, function: Callable[[], None]) -> Graph | None:
        with self._lock:
            assert self._captured is None
            self._captured = []
        try:
            function()
        finally:
            with self._lock:
                captured, self._captured = self._captured, None
        return _Replayed(self, captured)

    def idle(self) -> None:
        with self._lock:
            self._catch_up(self._compute)
            self._catch_up(self._copies)

    def close(self) -> None:
        while self._spans:
            self.release(self._spans.popleft())
        self._runner.shutdown()
        self._closed = True

    # What the tests ask of this one.

    def launch(self, step: int, function: Callable[[], None]) -> None:
        """Put a step into the compute stream."""
        with self._lock:
            if self._captured is not None:
                self._captured.append((step, function))
                return
            assert self._arena is not None
            base = self._arena.data_ptr()
            mine = self.footprints[step] if step < len(self.footprints) else Footprint((), (), ())
            reads = [(base + first, base + last) for first, last in mine.reads]
            writes = [(base + first, base + last) for first, last in mine.writes]

            def run() -> None:
                self._check_weights(step, mine)
                with torch.inference_mode():
                    function()

            self._put(self._compute, run, reads, writes, f"step {step}")
            self.most_behind = max(self.most_behind, self._compute.put - self._compute.done)

    def position(self) -> int:
        """How many operations were ever put into the compute stream."""
        return self._compute.put

    def check_left(self) -> None:
        """To be called when the program is closed."""
        assert self._closed
        assert not self.failures, self.failures
        assert not self._registered, "pinned memory was not given back"
        assert not self._events, f"{self._events} events were never released"

    def _check_weights(self, step: int, footprint: Footprint) -> None:
        assert self._arena is not None
        for first, last, file_offset in footprint.weights:
            wanted = self.file_bytes[file_offset : file_offset + last - first]
            if bytes(self._arena[first:last].numpy()) != wanted:
                raise Race(f"step {step} runs and bytes {first}-{last} of the arena do not hold its weight")

    def _put(
        self,
        stream: SimulatedStream,
        function: Callable[[], None],
        reads: Sequence[tuple[int, int]],
        writes: Sequence[tuple[int, int]],
        what: str,
    ) -> None:
        stream.put += 1
        stream.clock[stream] = stream.put
        self._hear(stream)
        for spans, writing in ((reads, False), (writes, True)):
            for begin, end in spans:
                self._access(Access(begin, end, writing, stream, stream.put, what))

        def run() -> bool:
            # In a thread of its own: those of a loader have small stacks.
            try:
                self._runner.submit(function).result()
            finally:
                stream.done += 1
            return True

        stream.waiting.append(run)
        self._advance()

    def _hear(self, stream: SimulatedStream) -> None:
        """What this thread of the host knows to have ended, it has let end before it goes on."""
        _join(stream.clock, self._host.get(threading.get_ident(), {}))

    def _access(self, mine: Access) -> None:
        kept = []
        for other in self._accesses:
            if other.end <= mine.begin or mine.end <= other.begin:
                kept.append(other)
                continue
            known = mine.stream is other.stream or mine.stream.clock.get(other.stream, 0) >= other.number
            if (mine.writes or other.writes) and not known:
                self._fail(
                    Race(
                        f"{mine.what} {'writes' if mine.writes else 'reads'} bytes that {other.what}"
                        f" {'writes' if other.writes else 'reads'}, and nothing puts them in order"
                    )
                )
            # What comes after a write that covers it comes after it.
            if not (mine.writes and mine.begin <= other.begin and other.end <= mine.end):
                kept.append(other)
        kept.append(mine)
        self._accesses = kept

    def _fail(self, error: BaseException) -> None:
        self.failures.append(error)
        raise error

    def _catch_up(self, stream: SimulatedStream) -> None:
        position = stream.put
        self._run_until(lambda: stream.done >= position)
        _join(self._host.setdefault(threading.get_ident(), {}), stream.clock)

    def _run_until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            if not self._run_one(self._preferred(every=True)):
                self._fail(Race("the device waits for something that was never asked for"))

    def _advance(self) -> None:
        """Run as much as the order likes to; called whenever the host asks for something."""
        while self._run_one(self._preferred(every=False)):
            pass

    def _preferred(self, every: bool) -> list[SimulatedStream]:
        """Streams that may go on, in order of preference; all of them only where the host waits."""
        both = [self._copies, self._compute]
        if self._order == "kernels first":
            both.reverse()
        if self._order == "random":
            self._random.shuffle(both)
            if not every:
                return both if self._random.random() < 0.5 else []
        return both if every else both[:1]

    def _run_one(self, streams: Sequence[SimulatedStream]) -> bool:
        for stream in streams:
            if stream.waiting:
                try:
                    ran = stream.waiting[0]()
                except BaseException as error:
                    stream.waiting.popleft()
                    self._fail(error)
                if ran:
                    stream.waiting.popleft()
                    return True
        return False

    def _stream(self, stream: Stream) -> SimulatedStream:
        assert isinstance(stream, SimulatedStream)
        return stream

    def _event(self, event: Event) -> SimulatedEvent:
        assert isinstance(event, SimulatedEvent)
        if not event.live:
            self._fail(Race("an event is used after it was released"))
        return event


class _Count:
    """A clock on which every operation of the compute stream takes a microsecond."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self._began = perf_counter() - 1e-6 * device.position()

    def now(self, stream: Stream | None = None) -> object:
        return self._device.position()

    def seconds(self, mark: object) -> float:
        self._device.idle()
        assert isinstance(mark, int)
        return self._began + 1e-6 * mark


class _Replayed:
    def __init__(self, device: SimulatedDevice, captured: Sequence[tuple[Any, ...]]) -> None:
        self._device = device
        self._captured = captured

    def replay(self) -> None:
        self._device.replays += 1
        for step, function in self._captured:
            self._device.launch(step, function)


def footprints_of(plan: Plan) -> tuple[Footprint, ...]:
    """What each step reads and writes of the arena. A gather reads its table elsewhere."""
    addresses = Addresses(plan)
    program = plan.program
    found = []
    for step in program.steps:
        reads, writes, weights = [], [], []
        for id in step.reads:
            span = addresses.arena_range(program.values[id])
            if span is not None and span[0] < span[1]:
                reads.append(span)
                if program.buffers[program.values[id].buffer].kind is BufferKind.WEIGHT:
                    tile = addresses.tile_of(program.values[id])
                    weights.append((*span, tile.file_offset + span[0] - plan.tile_offsets[tile.id]))
        for id in step.writes:
            span = addresses.arena_range(program.values[id])
            if span is not None and span[0] < span[1]:
                writes.append(span)
        found.append(Footprint(tuple(reads), tuple(writes), tuple(weights)))
    return tuple(found)


class Simulated:
    """A program for CUDA, loaded on a simulated device. `edit` may change its text first."""

    def __init__(
        self,
        path: str,
        device: SimulatedDevice,
        edit: Callable[[str], str] = lambda text: text,
    ) -> None:
        manifest = check_archive(path)
        plan = plan_from_json(read_member(path, "plan.json"))
        text = edit(read_member(path, "program.py").decode("utf-8"))
        self.device = device
        device.footprints = footprints_of(plan)
        device.file_bytes = device.file_bytes or read_weights(path, plan)
        self.program = Program(path, manifest, text, read_member(path, "pages.crc"), device=device)
        _defer(self.program, device)

    def run(self, inputs: Sequence[object]) -> list[Tensor]:
        """One run, and all that the device has to do for it."""
        outputs = self.program.run(inputs)
        self.device.idle()
        return outputs


def read_weights(path: str, plan: Plan) -> bytes:
    """The weights of an artifact."""
    with open(path, "rb") as file:
        return file.read(plan.program.file_nbytes)


@contextmanager
def simulated(
    path: str, device: SimulatedDevice, edit: Callable[[str], str] = lambda text: text
) -> Iterator[Simulated]:
    """Load, and check at the end that nothing is left."""
    loaded = Simulated(path, device, edit)
    with loaded.program:
        yield loaded
    device.check_left()


def _defer(program: Program, device: SimulatedDevice) -> None:
    """Have the functions of the program's text launch steps on the device instead of calling kernels."""
    namespace = program._globals
    namespace["launch"] = device.launch
    names = StepTrace(program.text)
    for before, cell in cells_of(program.text):
        tree = ast.parse(cell)
        functions = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith(("steps_", "stretch_"))
        ]
        for function in functions:
            function.body = [
                _launched(node, names._parsed(node.lineno + before)[1]) for node in function.body
            ]
        if functions:
            module = ast.Module(list(functions), [])
            exec(compile(ast.fix_missing_locations(module), program._filename, "exec"), namespace)
    namespace["SECTIONS"] = tuple(namespace[section.__name__] for section in namespace["SECTIONS"])


def _launched(node: ast.stmt, step: int) -> ast.stmt:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return node
    call = node.value
    if isinstance(call.func, ast.Name) and call.func.id in AT_ONCE:
        return node
    used = sorted({part.id for part in ast.walk(call) if isinstance(part, ast.Name)})
    arguments = ast.arguments(
        posonlyargs=[],
        args=[ast.arg(name) for name in used],
        kwonlyargs=[],
        kw_defaults=[],
        defaults=[ast.Name(name, ast.Load()) for name in used],
    )
    launch = ast.Call(ast.Name("launch", ast.Load()), [ast.Constant(step), ast.Lambda(arguments, call)], [])
    return ast.copy_location(ast.Expr(launch), node)


def _join(into: Known, other: Known) -> None:
    for stream, count in other.items():
        into[stream] = max(into.get(stream, 0), count)


def _span(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
