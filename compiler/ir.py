"""The data that the stages hand to each other: Program, then LiveRanges, Sizing, Placement, Plan.

Everything is frozen and made of tuples and integers; a pass returns new data and never changes its input.
Units: sizes, offsets and extents are bytes, times are seconds, positions in time are step indices. A step's
index is its position in `Program.steps`; a buffer's and a value's id is its position in its tuple.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Union

from occ.units import PAGE, round_up

DTYPE_NBYTES: dict[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
}


class BufferKind(str, Enum):
    """Where a buffer's bytes live.

    INPUT and OUTPUT belong to the caller and are outside the arena. WEIGHT bytes come from the file, tile by
    tile. ACTIVATION, SCRATCH and STATE get an offset in the arena; STATE keeps its bytes across runs.
    """

    INPUT = "input"
    OUTPUT = "output"
    WEIGHT = "weight"
    ACTIVATION = "activation"
    SCRATCH = "scratch"
    STATE = "state"


ARENA_KINDS = frozenset({BufferKind.ACTIVATION, BufferKind.SCRATCH, BufferKind.STATE})


@dataclass(frozen=True, slots=True)
class Buffer:
    """An allocation unit of `nbytes` bytes. Views, in-place results and concat pieces share one."""

    id: int
    name: str
    kind: BufferKind
    nbytes: int


@dataclass(frozen=True, slots=True)
class Packing:
    """The layout of a weight that is stored as oneDNN's kernels read it: the type and shape it stands for,
    and oneDNN's own description of the layout as text."""

    dtype: str
    shape: tuple[int, ...]
    layout: str


@dataclass(frozen=True)
class Value:
    """A typed, strided view of part of a buffer: `offset` in bytes, `strides` in elements.

    A packed weight is a row of uint8; steps get the tensor that `packing` describes over these bytes.
    """

    id: int
    name: str
    buffer: int
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    packing: Packing | None = None

    @property
    def itemsize(self) -> int:
        return DTYPE_NBYTES[self.dtype]

    @cached_property
    def extent(self) -> tuple[int, int]:
        """Half-open byte range within the buffer that the view spans; empty for no elements."""
        if 0 in self.shape:
            return (self.offset, self.offset)
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (self.offset, self.offset + (reach + 1) * self.itemsize)


@dataclass(frozen=True, slots=True)
class Ref:
    """An operand that is a value."""

    value: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """An operand written into the program as it stands, such as `torch.float16`."""

    text: str


Arg = Union[None, bool, int, float, str, Ref, Symbol, tuple["Arg", ...]]


@dataclass(frozen=True, slots=True)
class Window:
    """The rows of operand `operand` that a row of the result is computed from.

    Row r needs rows [f, f + extent) with f = r * stride // rate - before. Those outside the operand count as
    rows full of `fill`. With `rate` > 1 an operand's row serves so many rows of the result.
    """

    operand: str
    extent: int
    stride: int = 1
    before: int = 0
    rate: int = 1
    fill: float = 0.0

    def first(self, row: int) -> int:
        """The first operand row that result row `row` needs; below 0 where that is fill."""
        return row * self.stride // self.rate - self.before

    def end(self, rows: int) -> int:
        """The end of the operand rows that the first `rows` > 0 rows of the result need; it may be beyond
        the operand's end."""
        return self.first(rows - 1) + self.extent


@dataclass(frozen=True, slots=True)
class SplitAxis:
    """One way to cut a step into parts that together do the same.

    The axis has `extent` rows; parts begin at multiples of `granule`, and those of bands should have at most
    `largest` rows where that is not 0. `operands` names the operands that are sliced and along which
    dimension; `outputs` gives the sliced dimension of each result (parts take the results behind those
    whole), `scratch` that of each scratch value (none where parts take the whole scratch). Where `staged`, a
    part's result is computed in contiguous scratch and copied into its slice, because the kernel would stage
    a strided result outside the arena.

    A part reads of a sliced operand the rows that it computes, or those that its `windows` say, fill
    included; `part_args` are what a part is called with instead of the whole step's operands, such as no
    padding where fill stands for it. `position` names an operand that counts rows before the first, so that
    a part gets its own first row added to it.

    A step that goes from row to row, as a recurrence does, has `carries`, pairs (operand, result): every part
    but the first reads that result as the part before left it, for the operand. Its rows are done in their
    order, or from the last to the first where `descending`.
    """

    name: str
    extent: int
    granule: int
    operands: tuple[tuple[str, int], ...]
    outputs: tuple[int, ...]
    staged: bool = False
    windows: tuple[Window, ...] = ()
    part_args: tuple[tuple[str, Arg], ...] = ()
    scratch: tuple[int, ...] = ()
    position: str = ""
    carries: tuple[tuple[str, int], ...] = ()
    descending: bool = False
    largest: int = 0

    @property
    def needs_band(self) -> bool:
        """Whether parts are right only where they run as parts of a band."""
        return bool(self.windows or self.scratch or self.position or self.carries)

    def window(self, operand: str) -> Window | None:
        """The window of an operand, where it has one."""
        return next((window for window in self.windows if window.operand == operand), None)


@dataclass(frozen=True)
class Step:
    """One kernel call.

    `args` are named operands in the kernel's order; `outs` the values it writes; `scratch` values it may
    write and that are dead afterwards. A kernel that reads what a result's bytes held before has that value
    among its args too. `stored` lists the values that the step reads from the file itself, by row (a
    gather); they need no tile.
    """

    name: str
    module: str
    kernel: str
    args: tuple[tuple[str, Arg], ...]
    outs: tuple[int, ...]
    scratch: tuple[int, ...] = ()
    stored: tuple[int, ...] = ()
    splits: tuple[SplitAxis, ...] = ()

    @cached_property
    def reads(self) -> tuple[int, ...]:
        """Ids of the values the step reads in memory, in order of its operands, each once."""
        found: dict[int, None] = {}
        for _, arg in self.args:
            for ref in refs_of(arg):
                found.setdefault(ref.value)
        return tuple(value for value in found if value not in self.stored)

    @cached_property
    def writes(self) -> tuple[int, ...]:
        return self.outs + self.scratch


def refs_of(arg: Arg) -> Iterator[Ref]:
    """Every value reference inside an operand."""
    if isinstance(arg, Ref):
        yield arg
    elif isinstance(arg, tuple):
        for item in arg:
            yield from refs_of(item)


@dataclass(frozen=True, slots=True)
class Grain:
    """The smallest piece of a weight that is loaded or split on its own: bytes [first, first + nbytes) of
    weight buffer `weight`, at `file_offset` of the artifact.

    Grains are ordered by file offset, which is the order of first use. Those of one weight follow each other
    without a gap. A tile may begin only at a grain whose file offset is a multiple of PAGE.
    """

    weight: int
    first: int
    nbytes: int
    file_offset: int

    @property
    def end(self) -> int:
        return self.first + self.nbytes


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor the caller passes, by name."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor the caller gets. `value` is a view of an OUTPUT buffer, or of an INPUT buffer where the
    model returns its input as it is."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class State:
    """A buffer kept across runs. Its initial bytes are `nbytes` at `file_offset`, or zeros where that is
    None."""

    name: str
    buffer: int
    file_offset: int | None


@dataclass(frozen=True, slots=True)
class Program:
    """A model as a fixed order of kernel calls over buffers.

    `input_tree` and `output_tree` describe the caller's structures in JSON: {"tensor": i} for the i-th input
    or output, {"constant": x}, or {"tuple" | "list": [...]} and {"dict": [[key, tree], ...]}. `input_tree` is
    {"tuple": [args tuple, kwargs dict]}. `weights_nbytes` counts every weight once; `file_nbytes` is the
    length of the weight part of the artifact, a multiple of PAGE; `activation_peak` is that of the exported
    graph in its own order (the design's `demand` = weights_nbytes + activation_peak).
    """

    name: str
    buffers: tuple[Buffer, ...]
    values: tuple[Value, ...]
    steps: tuple[Step, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    states: tuple[State, ...]
    grains: tuple[Grain, ...]
    input_tree: object
    output_tree: object
    weights_nbytes: int
    file_nbytes: int
    activation_peak: int

    @property
    def demand(self) -> int:
        return self.weights_nbytes + self.activation_peak

    @property
    def outputs_nbytes(self) -> int:
        return sum(b.nbytes for b in self.buffers if b.kind is BufferKind.OUTPUT)


@dataclass(frozen=True, slots=True)
class Choices:
    """What a rewrite applies to the unsplit Program; the pipeline searches over these.

    Steps are named by their index in the unsplit program. `splits` holds (step, axis name, parts), ordered by
    step; `gathers` the lookups whose table stays in the file. `order` is the order in
    which the steps run, as half-open runs of steps; empty where they run as they stand. `bands` holds (first
    step, last step, axis name of the last, parts), ordered by first step: all that runs from the first to
    the last step, both included, runs part by part (`occ.passes.banding`).
    """

    splits: tuple[tuple[int, str, int], ...] = ()
    gathers: tuple[int, ...] = ()
    order: tuple[tuple[int, int], ...] = ()
    bands: tuple[tuple[int, int, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Reader:
    """How the target reads weights: `bandwidth` in bytes a second, `overhead` in seconds a request, by which
    factor (at least 1) computing is slower while a read is in flight, and `interruption`, the seconds that
    computing loses to every load besides, whatever its size. A request may end later than its share of the
    bandwidth says, by `lag` times its seconds, while others are under way with it: they share the bandwidth,
    and not all are equally fast. One by itself ends `response` seconds later: no other hides its overhead,
    and whoever waits for it has to be woken. No request is larger than `request_nbytes`."""

    bandwidth: float
    overhead: float = 0.0
    slowdown: float = 1.0
    interruption: float = 0.0
    lag: float = 0.0
    response: float = 0.0
    request_nbytes: int = 4 << 20

    def seconds(self, nbytes: int) -> float:
        """Seconds that a request for `nbytes` takes of the reader's time."""
        return self.overhead + nbytes / self.bandwidth

    def lag_seconds(self, nbytes: int) -> float:
        """By how many seconds a read of `nbytes` may end later than that says."""
        return self.lag * self.seconds(min(nbytes, self.request_nbytes))


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step takes on the target: seconds of computing, bytes taken outside the arena, and by which
    factor (at least 1) it is slower while weights are read; None: by the target's (`Reader.slowdown`)."""

    seconds: float
    workspace: int
    slowdown: float | None = None


@dataclass(frozen=True, slots=True)
class Tile:
    """The unit of loading: grains [first_grain, last_grain) of the file, `nbytes` from `file_offset`, both
    multiples of PAGE."""

    id: int
    first_grain: int
    last_grain: int
    file_offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class LiveRange:
    """Half-open interval of steps in which bytes must not be touched by another."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Load:
    """The reading of a streamed tile.

    It is submitted just before step `issue` runs and is complete when step `deadline` starts; its bytes are
    taken until after step `last_use`. With `wraps`, `issue` (> last_use) lies in the run before: the next
    run's head is loaded in this run's tail. 0 <= deadline <= last_use, and issue <= deadline unless it wraps.
    """

    tile: int
    issue: int
    deadline: int
    last_use: int
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Sizing:
    """Which tiles are resident and when each other is loaded; what the placement has to fit.

    Resident tiles are loaded once, before the first run. `loads` are in order of submission within one run
    of the steady state: by issue step, then those of this run by deadline, then those of the next run.
    `pool_nbytes` is what the arena may take.
    """

    tiles: tuple[Tile, ...]
    resident: tuple[int, ...]
    loads: tuple[Load, ...]
    pool_nbytes: int


@dataclass(frozen=True, slots=True)
class PlacementItem:
    """Bytes that need one offset (a multiple of `alignment`) for all of `ranges`: disjoint, ascending,
    half-open intervals of steps."""

    name: str
    nbytes: int
    alignment: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Offsets in the order of the items. `height` is the largest offset + nbytes; `bound` the largest sum of
    live bytes over all steps; `optimal` says that no smaller height exists (proven)."""

    offsets: tuple[int, ...]
    height: int
    bound: int
    optimal: bool
    method: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the time model says of the steady state (seconds, bytes a run), and of the first run."""

    latency: float
    compute: float
    stall: float
    streamed_nbytes: int
    cold_start: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a program's process takes besides the program's budget, measured on the target.

    `process`: the interpreter and torch, imported and each kind of kernel called once, with page tables.
    `step`: the objects of one step. `shape`: what oneDNN keeps for each form of a product or convolution.
    """

    process: int = 0
    step: int = 0
    shape: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """Where the bytes go. `limit` is None where the user set none.

    `process` is what the program's process takes besides (see `Footprint`), outside `total` and `limit`;
    `process_limit` is what the user allowed for all of it. For a device with memory of its own, `total`
    counts that memory, and `host` the memory of the host that weights pass through or stay in; `host_limit`
    is what the user allowed for it, and `context` what the driver takes of the device besides.
    """

    limit: int | None
    arena: int
    outputs: int
    loader: int
    workspace: int
    process: int = 0
    process_limit: int | None = None
    host: int = 0
    host_limit: int | None = None
    context: int = 0

    @property
    def total(self) -> int:
        return self.arena + self.outputs + self.loader + self.workspace

    @property
    def process_total(self) -> int:
        """Bytes of the whole process."""
        return self.process + self.total


@dataclass(frozen=True, slots=True)
class Machine:
    """What the artifact is made for: fixed at compile, checked or set at load.

    `packing` names the machines that packed weights run on (`runtime_stub.packed.probe`); empty where the
    program has none. `native` names the processors that its native kernels are compiled for
    (`runtime_stub.native.LEVELS`), and `compiler` what compiles them; both empty where it has none.

    `device` is "cpu" or "cuda". For the latter `cpu` is the name of the GPU and `capability` its compute
    capability, such as "9.0". `stream_from` says where streamed weights come from: "ssd", through a pinned
    ring of `ring_nbytes` bytes, or "host", from pinned memory that holds them; all others pass through the
    ring once. `cublas_workspace_nbytes` is the memory that cuBLAS gets for its workspace, once. With
    `graphs`, stretches of steps are replayed as CUDA graphs.
    """

    device: str
    threads: int
    spin: str
    torch: str
    cpu: str
    profile_digest: str
    packing: str = ""
    native: str = ""
    compiler: str = ""
    capability: str = ""
    stream_from: str = ""
    ring_nbytes: int = 0
    cublas_workspace_nbytes: int = 0
    graphs: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A program with everything about memory decided.

    `buffer_offsets` gives (buffer id, offset) of every buffer that lies in the arena; `tile_offsets` one
    offset per tile. `costs` has one entry per step. The time model gives `prediction` from `costs`, `sizing`
    and `reader`, which is how the target reads.
    """

    program: Program
    choices: Choices
    sizing: Sizing
    buffer_offsets: tuple[tuple[int, int], ...]
    tile_offsets: tuple[int, ...]
    placement: Placement
    costs: tuple[StepCost, ...]
    budget: Budget
    prediction: Prediction
    machine: Machine
    reader: Reader


def tile_nbytes(program: Program, first_grain: int, last_grain: int) -> int:
    """Bytes of the tile of grains [first_grain, last_grain), padded to whole pages."""
    grains = program.grains
    end = grains[last_grain - 1].file_offset + grains[last_grain - 1].nbytes
    return round_up(end - grains[first_grain].file_offset, PAGE)


def weight_file_offsets(program: Program) -> dict[int, int]:
    """File offset of byte 0 of every weight buffer; its grains follow each other without a gap."""
    starts: dict[int, int] = {}
    for grain in program.grains:
        starts.setdefault(grain.weight, grain.file_offset - grain.first)
    return starts
