"""A plan as the text of a program that a person can read: `program.py` of an artifact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from jinja2 import Environment, PackageLoader, StrictUndefined

from occ.codegen.addresses import Addresses
from occ.codegen.arena_map import arena_map
from occ.codegen.boundary import Boundary
from occ.codegen.header import header, title
from occ.codegen.names import comment, identifiers, listing
from occ.codegen.native import translation_unit
from occ.codegen.steps import native_functions, step_text, triton_functions
from occ.codegen.stretches import Stretch, stretches_of
from occ.codegen.text import WIDTH, contiguous_strides, tuple_text, wrap
from occ.codegen.triton import triton_module
from occ.gathers import STORED_PRODUCT
from occ.ir import BufferKind, Load, Plan, Step, Tile, Value
from occ.units import format_bytes

SECTION_STEPS = 100
BINDINGS_PER_CELL = 400
_KIND_TITLES = {
    BufferKind.WEIGHT: "weights",
    BufferKind.STATE: "state",
    BufferKind.ACTIVATION: "activations",
    BufferKind.SCRATCH: "scratch",
}


def emit(plan: Plan) -> str:
    """The program's text, at most 120 columns wide: a pure function of the plan.

    docs/generated-program.md describes its form. Raises InternalError for a plan with a weight that no
    single tile holds, or an output that is neither in an OUTPUT nor in an INPUT buffer.
    """
    return _Emitter(plan).text()


def emit_native(plan: Plan) -> str:
    """The C text of the functions that the program calls, a pure function of the plan; empty where it calls
    none."""
    if plan.machine.device != "cpu":
        return ""
    functions = native_functions(plan.program.values, plan.program.steps)
    return translation_unit(functions) if functions else ""


def emit_triton(plan: Plan) -> str:
    """The Python text of the kernels in Triton that the program calls, a pure function of the plan; empty
    where it calls none."""
    if plan.machine.device != "cuda":
        return ""
    functions = triton_functions(plan.program.values, plan.program.steps)
    return triton_module(functions) if functions else ""


@dataclass(frozen=True, slots=True)
class _Cell:
    title: str
    lines: tuple[str, ...]
    name: str = ""
    is_section: bool = False


class _Emitter:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.program = plan.program
        self.addresses = Addresses(plan)
        self.used = self._used_values()
        self.names = identifiers({id: self.program.values[id].name for id in self.used})
        self.stored = {table.value: index for index, table in enumerate(self.addresses.stored)}
        packings = (self.program.values[id].packing for id in self.used)
        self.layouts = {
            layout: f"LAYOUT_{index}"
            for index, layout in enumerate(dict.fromkeys(p.layout for p in packings if p is not None))
        }
        self.hex_digits = max(4, len(f"{plan.budget.arena:x}"))
        self.tile_contents = [self._contents(tile) for tile in plan.sizing.tiles]

    def text(self) -> str:
        environment = Environment(
            loader=PackageLoader("occ.codegen"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        boundary = Boundary(self.program, self.used, self.names)
        sections = self._sections()
        sizing = self.plan.sizing
        return environment.get_template("program.py.j2").render(
            title=title(self.plan),
            header=header(self.plan),
            map=arena_map(self.plan),
            tiles=list(self._tiles()),
            resident=_packed(chain.from_iterable(self.addresses.residents_first_used.values())),
            head=_packed(load.tile for load in sizing.loads if load.wraps),
            stored=[
                f"({table.name!r}, {table.file_offset:#x}, {table.row_nbytes}, {table.rows}),"
                for table in self.addresses.stored
            ],
            states=list(self._states()),
            layouts=[f"{name} = {layout!r}" for layout, name in self.layouts.items()],
            bindings=list(self._bindings()),
            outputs=boundary.outputs,
            bind_inputs=boundary.bind_inputs,
            bind_outputs=boundary.bind_outputs,
            release=boundary.release,
            graphs=self.plan.machine.graphs,
            multiplies=any(step.kernel == STORED_PRODUCT for step in self.program.steps),
            sections=sections,
            section_names=[f"{section.name}," for section in sections if section.is_section],
        )

    def _used_values(self) -> tuple[int, ...]:
        """Ids of the values that need a name: inputs, outputs and what steps touch in memory; ascending."""
        found = {entry.value for entry in self.program.inputs}
        found.update(entry.value for entry in self.program.outputs)
        for step in self.program.steps:
            found.update(step.reads)
            found.update(step.writes)
        return tuple(sorted(found))

    def _address(self, address: int) -> str:
        return f"0x{address:0{self.hex_digits}x}"

    def _contents(self, tile: Tile) -> str:
        """What a tile holds: weights by name, and which rows of a weight that is cut."""
        grains = self.program.grains[tile.first_grain : tile.last_grain]
        spans: dict[int, tuple[int, int]] = {}
        for grain in grains:
            first, _ = spans.get(grain.weight, (grain.first, 0))
            spans[grain.weight] = (first, grain.end)
        return comment(
            listing((self._piece(weight, first, end) for weight, (first, end) in spans.items()), 2)
        )

    def _piece(self, weight: int, first: int, end: int) -> str:
        buffer = self.program.buffers[weight]
        if end - first >= buffer.nbytes:
            return buffer.name
        row_nbytes = self._row_nbytes.get(weight)
        if row_nbytes and first % row_nbytes == 0 and end % row_nbytes == 0:
            return f"{buffer.name} rows {first // row_nbytes}-{end // row_nbytes - 1}"
        return f"{buffer.name} bytes {first}-{end - 1}"

    @cached_property
    def _row_nbytes(self) -> Mapping[int, int]:
        """Bytes a row of each weight with rows, from the largest stride of a view of it."""
        found: dict[int, int] = {}
        for value in self.program.values:
            if self.program.buffers[value.buffer].kind is BufferKind.WEIGHT and len(value.shape) > 1:
                found.setdefault(value.buffer, max(value.strides) * value.itemsize)
        return found

    def _tiles(self) -> Iterator[str]:
        resident = set(self.plan.sizing.resident)
        for tile, address, contents in zip(
            self.plan.sizing.tiles, self.plan.tile_offsets, self.tile_contents, strict=True
        ):
            row = f"({tile.file_offset:#x}, {tile.nbytes}, {self._address(address)}),"
            note = f"  # {tile.id}{' resident' if tile.id in resident else ''}: {contents}"
            yield (row + note)[: WIDTH - 4]

    def _states(self) -> Iterator[str]:
        offsets = dict(self.plan.buffer_offsets)
        for state in self.program.states:
            start = "None" if state.file_offset is None else f"{state.file_offset:#x}"
            nbytes = self.program.buffers[state.buffer].nbytes
            yield f"({state.name!r}, {self._address(offsets[state.buffer])}, {nbytes}, {start}),"

    def _bindings(self) -> Iterator[_Cell]:
        values = self.program.values
        for kind, kind_title in _KIND_TITLES.items():
            ids = [id for id in self.used if self.program.buffers[values[id].buffer].kind is kind]
            for begin in range(0, len(ids), BINDINGS_PER_CELL):
                part = ids[begin : begin + BINDINGS_PER_CELL]
                width = min(max(len(self.names[id]) for id in part), 40)
                lines = [line for id in part for line in self._binding(values[id], width)]
                more = f", from {begin}" if begin else ""
                yield _Cell(f"{kind_title}: views of the arena{more}", tuple(lines))

    def _binding(self, value: Value, width: int) -> list[str]:
        address = self.addresses.of(value)
        assert address is not None
        view = f"arena.view({self._address(address)}, torch.{value.dtype}, {tuple_text(value.shape)}"
        if value.strides != contiguous_strides(value.shape):
            view += f", {tuple_text(value.strides)}"
        view += ")"
        if (packing := value.packing) is not None:
            layout = self.layouts[packing.layout]
            view = f"packed({view}, torch.{packing.dtype}, {tuple_text(packing.shape)}, {layout})"
        return wrap(f"{self.names[value.id]:<{width}} = {view}", 0)

    def _sections(self) -> list[_Cell]:
        """Functions of up to SECTION_STEPS steps each, which run one after another; stretches that are
        replayed as a whole are functions of their own, in front of the section that calls them."""
        steps = self.program.steps
        stretches = {stretch.first: stretch for stretch in stretches_of(self.plan)}
        cells: list[_Cell] = []
        count = 0
        inside = 0
        for begin in range(0, max(len(steps), 1), SECTION_STEPS):
            end = min(begin + SECTION_STEPS, len(steps))
            lines: list[str] = []
            for index in range(begin, end):
                if index < inside:
                    continue
                if (stretch := stretches.get(index)) is None:
                    lines += self._titled(index, begin)
                    lines += [*self._transfers(index, index + 1), *self._step_lines(index)]
                    continue
                inside = stretch.last
                cells.append(self._stretch_cell(stretch))
                title = f"steps {stretch.first} to {stretch.last - 1}"
                lines += ["", *self._transfers(stretch.first, stretch.last)]
                lines.append(f"{f'    replay({stretch.name})':<{self._column}}  # {title}")
            cells.append(
                _Cell(
                    f"steps {begin} to {end - 1}" if end > begin else "no steps",
                    _body(lines),
                    f"steps_{count}",
                    True,
                )
            )
            count += 1
        return cells

    def _stretch_cell(self, stretch: Stretch) -> _Cell:
        lines: list[str] = []
        for index in range(stretch.first, stretch.last):
            lines += [*self._titled(index, stretch.first), *self._step_lines(index)]
        return _Cell(f"steps {stretch.first} to {stretch.last - 1}, replayed", _body(lines), stretch.name)

    def _titled(self, index: int, first: int) -> list[str]:
        """A comment with the module of a step, where it changes or a function begins."""
        steps = self.program.steps
        module = steps[index].module
        if index > first and steps[index - 1].module == module:
            return []
        return ["", f"    # {comment(module)}"[:WIDTH]] if module else [""]

    def _transfers(self, first: int, last: int) -> list[str]:
        """What is asked for and waited for in front of steps [first, last)."""
        loads, waits = self._loads
        residents = self.addresses.residents_first_used
        lines = [self._load_line(load) for load in loads.get(first, ())]
        for index in range(first, last):
            lines += [self._wait_line(tile) for tile in residents.get(index, ())]
        return lines + [self._wait_line(load.tile) for load in waits.get(first, ())]

    @cached_property
    def _loads(self) -> tuple[dict[int, list[Load]], dict[int, list[Load]]]:
        """The loads by the step that they are asked for at, and by the one that waits for them."""
        issued: dict[int, list[Load]] = {}
        awaited: dict[int, list[Load]] = {}
        for load in self.plan.sizing.loads:
            issued.setdefault(load.issue, []).append(load)
            awaited.setdefault(load.deadline, []).append(load)
        return issued, awaited

    @cached_property
    def _calls(self) -> list[str]:
        return [self._call(step) for step in self.program.steps]

    @cached_property
    def _number_width(self) -> int:
        return len(str(max(len(self.program.steps) - 1, 0)))

    @cached_property
    def _column(self) -> int:
        """Where the comments behind calls begin."""
        widest = max((len(line) for call in self._calls for line in call.split("\n")), default=0) + 4
        return min(widest, WIDTH - len("  # ") - self._number_width - 2 * self.hex_digits - 6)

    def _step_lines(self, index: int) -> list[str]:
        note = f"# {index:>{self._number_width}} {self._place(self.program.steps[index])}"
        return _noted(self._calls[index].split("\n"), self._column, note)

    def _call(self, step: Step) -> str:
        def name_of(id: int) -> str:
            return str(self.stored[id]) if id in step.stored else self.names[id]

        return step_text(self.program.values, step, name_of, self.plan.machine.device)

    def _place(self, step: Step) -> str:
        """Where a step's first result goes."""
        if not step.outs:
            return ""
        value = self.program.values[step.outs[0]]
        found = self.addresses.arena_range(value)
        if found is None:
            return comment(self.program.buffers[value.buffer].kind.value)
        return f"{self._address(found[0])}-{self._address(found[1])}"

    def _load_line(self, load: Load) -> str:
        tile = self.plan.sizing.tiles[load.tile]
        until = f"step {load.deadline}{' of the next run' if load.wraps else ''}"
        place = self._address(self.plan.tile_offsets[tile.id])
        text = f"    load({tile.id})"
        note = f"# {self.tile_contents[tile.id]}: {format_bytes(tile.nbytes)} to {place}, for {until}"
        return f"{text:<16}{note}"[:WIDTH]

    def _wait_line(self, tile: int) -> str:
        return f"{f'    wait({tile})':<16}# {self.tile_contents[tile]}"[:WIDTH]


def _body(lines: Sequence[str]) -> tuple[str, ...]:
    """The lines of a function, which has some statement."""
    first = next((place for place, line in enumerate(lines) if line), len(lines))
    found = tuple(lines[first:])
    return found if any(not line.lstrip().startswith("#") for line in found) else ("    pass",)


def _packed(ids: Iterable[int]) -> list[str]:
    """Numbers with commas, twenty to a line, each once."""
    texts = [f"{id}," for id in dict.fromkeys(ids)]
    return [" ".join(texts[begin : begin + 20]) for begin in range(0, len(texts), 20)]


def _noted(statements: Sequence[str], column: int, note: str) -> list[str]:
    """Statements no wider than `column`, with a comment there behind the last line."""
    lines = [line for text in statements for line in wrap(text, 4, column)]
    lines[-1] = f"{lines[-1]:<{column}}  {note}".rstrip()
    return lines
