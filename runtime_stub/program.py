"""A program loaded and ready to run: `with load("model.occ") as model: y = model(x)`."""

from __future__ import annotations

import threading
import weakref
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .backend import AnyLoader, Backend, CpuBackend
from .cells import run_cells
from .errors import HandleError, IndexRangeError, InputError
from .integrity import DamageError, check_archive, read_member
from .jobs import Table, Tile, table_pages
from .machine import check_machine, trim_heap
from .storage import WeightFile
from .tensors import check_tensor, planned_layout, same_layout
from .trace import StepTrace
from .tree import flatten_inputs, unflatten

if TYPE_CHECKING:
    from .device import Device


@dataclass(frozen=True, slots=True)
class Stats:
    """Seconds and bytes since the program was loaded; `last_` of the last run that ended.

    `host_nbytes` is pinned memory of the host, for a program on a device. There `last_latency` is the
    device's, and `last_stall` is what the host waited for reads: the device may have had work meanwhile, and
    may have waited for copies beyond it.
    """

    runs: int
    arena_nbytes: int
    cold_start: float
    last_latency: float
    last_stall: float
    nbytes_read: int
    direct: bool
    host_nbytes: int = 0


def load(path: str) -> Program:
    """Check the archive of the artifact at `path` and load the program in it.

    Raises integrity.DamageError, errors.MachineError, errors.NotEnoughMemoryError, and OSError where the
    file cannot be opened.
    """
    manifest = check_archive(path)
    text = read_member(path, "program.py").decode("utf-8")
    return Program(path, manifest, text, read_member(path, "pages.crc"))


class Program:
    """A loaded artifact. It takes the arena's memory and begins to read the resident tiles, which the first
    run waits for one by one as it needs them, and keeps both until `close`. One run at a time: a second
    thread waits.

    After a run that raised, the next one begins anew; where the program has state, which such a run leaves
    half updated, `reset` has to be called first.
    """

    def __init__(
        self,
        path: str,
        manifest: Mapping[str, Any],
        text: str,
        page_crcs: bytes,
        trace: StepTrace | None = None,
        device: Device | None = None,
    ) -> None:
        """`trace` also records what is read before the first run, which has to be given it too. A program
        for CUDA runs on `device`, by itself on the CUDA device that is current."""
        began = perf_counter()
        check_machine(manifest["machine"])
        self.path = path
        self.manifest = manifest
        self.text = text
        self._filename = f"{path}/program.py"
        self._globals: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._primed = False
        self._unknown_state = False
        self._runs = 0
        self._last_latency = self._last_stall = 0.0
        self._file = WeightFile(path)
        # Tensors made in inference mode cost every kernel call less. The caller never sees one.
        with torch.inference_mode():
            try:
                self._backend = _backend(manifest, self._file, device)
            except BaseException:
                self._file.close()
                raise
            self._loader: AnyLoader = self._backend.loader
            if trace is not None:
                trace.watch(self._loader)
            self._close = weakref.finalize(self, _close, self._backend, self._globals, self._file)
            try:
                names = self._backend.names(manifest["members"], partial(read_member, path))
                self._globals.update(names)
                self._start(page_crcs)
            except BaseException:
                self._close()
                raise
        self._cold_start = perf_counter() - began

    def __call__(self, *args: object, out: Mapping[str, Tensor] | None = None, **kwargs: object) -> object:
        """Run the model as the module was called; `out` gives tensors to write outputs into, by name.

        Raises InputError for wrong inputs, IndexRangeError for an index outside a table, DamageError for
        damaged weights and HandleError for a closed handle.
        """
        names = [spec["name"] for spec in self.manifest["inputs"]]
        inputs = flatten_inputs(self.manifest["input_tree"], names, args, kwargs)
        return unflatten(self.manifest["output_tree"], self.run(inputs, out))

    def run(
        self,
        inputs: Sequence[object],
        out: Mapping[str, Tensor] | None = None,
        trace: StepTrace | None = None,
    ) -> list[Tensor]:
        """Run once on flat inputs, in the manifest's order; the outputs in the manifest's order.

        Inputs are used where they lie if their strides are the planned ones, and copied otherwise. Outputs
        are fresh tensors, or those of `out`. `trace` records when each step and load began; what it
        asks for after the last step, for the next run, is there when `settle` returns.
        """
        with self._lock:
            self._raise_if_unusable()
            specs = self.manifest["inputs"]
            if len(inputs) != len(specs):
                raise InputError(f"{len(inputs)} inputs were passed and {len(specs)} are taken")
            given = [
                check_tensor("input", spec, tensor, self._backend.sources)
                for spec, tensor in zip(specs, inputs, strict=True)
            ]
            with torch.no_grad():
                planned = [
                    planned_layout(tensor, spec["strides"], self._backend.place)
                    for spec, tensor in zip(specs, given, strict=True)
                ]
                written = self._output_tensors(out or {}, planned)
                try:
                    self._globals["bind_inputs"](*planned)
                    outputs: Sequence[Tensor] = self._globals["bind_outputs"](*written)
                    self._run_steps(trace)
                finally:
                    self._globals["release"]()
            with torch.inference_mode():
                for spec, tensor, used in zip(specs, given, planned, strict=True):
                    if spec["mutated"] and used.data_ptr() != tensor.data_ptr():
                        tensor.copy_(used)
            return [
                tensor if spec["input"] is None else given[spec["input"]]
                for spec, tensor in zip(self.manifest["outputs"], outputs, strict=True)
            ]

    def reset(self) -> None:
        """Give every state its initial value again."""
        with self._lock:
            self._raise_if_closed()
            self._read_states()
            self._unknown_state = False

    def settle(self) -> None:
        """Return when all that the last run asked for, for the next one, has been read."""
        with self._lock:
            self._raise_if_closed()
            self._loader.settle()

    def writable_outputs(self) -> tuple[str, ...]:
        """Names of the outputs that `out` may give: all but views of an input or of another output."""
        return tuple(entry[0] for entry in self._globals["OUTPUTS"] if entry[0] is not None)

    def stats(self) -> Stats:
        """What the program has done so far."""
        return Stats(
            self._runs,
            self.manifest["arena_nbytes"],
            self._cold_start,
            self._backend.seconds(self._last_latency) if self._runs else 0.0,
            self._last_stall,
            self._loader.nbytes_read,
            self._file.direct,
            self._backend.host_nbytes,
        )

    def close(self) -> None:
        """Stop the loader and give all memory back. A second call does nothing."""
        with self._lock:
            self._close()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, page_crcs: bytes) -> None:
        namespace = self._globals
        namespace.update(arena=self._backend.arena, loader=self._loader)
        namespace.update(__package__=__package__, __name__="program")
        for _ in run_cells(self.text, self._filename, namespace):
            if "STATES" in namespace and not self._primed:
                # The tables are there: weights are read while the rest of the text is compiled.
                self._begin_to_read(page_crcs)
        self._backend.taken()
        self._file.drop_cached()
        trim_heap()

    def _begin_to_read(self, page_crcs: bytes) -> None:
        namespace = self._globals
        crcs = self.manifest["tile_crcs"]
        if len(crcs) != len(namespace["TILES"]):
            raise DamageError(
                f"{self.path} is damaged: {len(crcs)} checksums, {len(namespace['TILES'])} tiles"
            )
        tiles = [
            Tile(index, file_offset, nbytes, address, crc)
            for index, ((file_offset, nbytes, address), crc) in enumerate(
                zip(namespace["TILES"], crcs, strict=True)
            )
        ]
        self._loader.define(tiles, _tables(self.path, namespace["STORED"], page_crcs))
        self._backend.take([namespace["TILES"][tile] for tile in namespace["RESIDENT"]])
        self._loader.load_residents(namespace["RESIDENT"])
        self._load_head()
        self._read_states()

    def _load_head(self) -> None:
        """Load what the tail of the run before would have loaded."""
        for tile in self._globals["HEAD"]:
            self._loader.load(tile)
        self._primed = True

    def _read_states(self) -> None:
        crcs = self.manifest["state_crcs"]
        for (name, address, nbytes, file_offset), crc in zip(self._globals["STATES"], crcs, strict=True):
            start = None if file_offset is None else partial(self._read_state, name, file_offset, crc)
            self._backend.fill(address, nbytes, start)

    def _read_state(self, name: str, file_offset: int, crc: int, into: memoryview) -> None:
        self._file.read_bytes(into, file_offset)
        if zlib.crc32(into) != crc:
            raise DamageError(
                f"{self.path} is damaged: the initial value of state {name!r} ({len(into)} bytes at"
                f" {file_offset}) does not have its CRC-32; copy or compile it again"
            )

    def _run_steps(self, trace: StepTrace | None) -> None:
        sections = self._globals["SECTIONS"]
        if trace is not None:
            sections = trace.sections(self._filename, sections, self._globals)
        stall = self._loader.stall
        began = perf_counter()
        try:
            if not self._primed:
                self._loader.resume()
                self._load_head()
            self._primed = False
            with (
                torch.inference_mode(),
                self._backend.running(),
                nullcontext() if trace is None else trace.recording(self._loader, self._backend.clock()),
            ):
                for section in sections:
                    section()
        except BaseException as error:
            self._primed = False
            self._unknown_state = bool(self._globals["STATES"])
            self._loader.drain()
            if _is_index_error(error):
                raise IndexRangeError(str(error)) from error
            raise
        self._primed = True
        self._runs += 1
        self._last_latency = perf_counter() - began
        self._last_stall = self._loader.stall - stall

    def _output_tensors(self, out: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        """One tensor per OUTPUT buffer: the caller's, or a fresh one."""
        tensors = []
        left = dict(out)
        for name, dtype, shape, strides in self._globals["OUTPUTS"]:
            if name is None or name not in left:
                tensors.append(torch.empty_strided(shape, strides, dtype=dtype, device=self._backend.place))
                continue
            spec = next(spec for spec in self.manifest["outputs"] if spec["name"] == name)
            tensor = check_tensor("output", spec, left.pop(name), (self._backend.place,)).detach()
            if not same_layout(tensor, strides):
                raise InputError(
                    f"output {name!r} must have strides {tuple(strides)}, not {tuple(tensor.stride())}"
                )
            if any(_overlap(tensor, other) for other in [*inputs, *tensors]):
                raise InputError(f"output {name!r} shares memory with an input or another output")
            tensors.append(tensor)
        for name in left:
            raise InputError(
                f"out has {name!r}, which is no output that is written on its own; those are"
                f" {', '.join(repr(entry[0]) for entry in self._globals['OUTPUTS'] if entry[0]) or 'none'}"
            )
        return tensors

    def _raise_if_closed(self) -> None:
        if not self._close.alive:
            raise HandleError(f"{self.path} was closed; load it again")

    def _raise_if_unusable(self) -> None:
        self._raise_if_closed()
        if self._unknown_state:
            raise HandleError(
                f"the last run of {self.path} failed half-way and left its state half updated; call reset()"
            )


def _tables(path: str, stored: Sequence[tuple[str, int, int, int]], page_crcs: bytes) -> list[Table]:
    tables = []
    begin = 0
    for name, file_offset, row_nbytes, rows in stored:
        end = begin + 4 * len(table_pages(file_offset, row_nbytes, rows))
        tables.append(Table(name, file_offset, row_nbytes, rows, page_crcs[begin:end]))
        begin = end
    if begin != len(page_crcs):
        raise DamageError(f"{path} is damaged: pages.crc has {len(page_crcs)} bytes, not {begin}")
    return tables


def _is_index_error(error: BaseException) -> bool:
    """Whether a kernel met an index outside of what it looks into; torch has two types for that."""
    if isinstance(error, IndexRangeError):
        return False
    return isinstance(error, IndexError) or (
        isinstance(error, RuntimeError) and "out of bounds" in str(error)
    )


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether the storages of two tensors share a byte."""
    if one.numel() == 0 or other.numel() == 0:
        return False
    first, second = one.untyped_storage(), other.untyped_storage()
    return bool(
        first.data_ptr() < second.data_ptr() + second.nbytes()
        and second.data_ptr() < first.data_ptr() + first.nbytes()
    )


def _backend(manifest: Mapping[str, Any], file: WeightFile, device: Device | None) -> Backend:
    """What the manifest says that the program runs on; `device` instead of the CUDA device."""
    machine: Mapping[str, Any] = manifest["machine"]
    if machine["device"] == "cpu":
        return CpuBackend(machine, file, manifest["arena_nbytes"])
    # A program for the processor need not load these.
    from .accelerated import DeviceBackend

    if device is None:
        from .cuda import CudaDevice

        device = CudaDevice()
    return DeviceBackend(machine, file, manifest["arena_nbytes"], device)


def _close(backend: Backend, namespace: dict[str, Any], file: WeightFile) -> None:
    backend.loader.close()
    namespace.clear()
    backend.close()
    file.close()
