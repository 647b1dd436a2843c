"""The target profile: everything measured about a machine that a plan depends on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass, field, replace
from importlib import metadata
from math import floor, isfinite, log10
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from occ.accelerator import Accelerator, accelerator_from_json
from occ.cache import read_json, write_json
from occ.child import Child, ChildError
from occ.contention import CONTENDED
from occ.errors import InternalError, UsageError
from occ.footprint import measured_footprint
from occ.host import cpu_model, cpus, isa
from occ.ir import Footprint, Reader, StepCost
from occ.progress import SILENT, Progress
from occ.reading import sample_file
from occ.runtime_stub.jobs import REQUEST_NBYTES
from occ.units import format_bytes, format_seconds

FORMAT = 4
"""Version of the profile's JSON; docs/target-profile.md describes it."""

SPIN_POLICIES = ("passive", "1000", "10000", "100000", "default")
"""What `local_target` chooses from: sleep at once, spin so many rounds, spin as OpenMP does by itself."""

SPIN_GAIN = 0.97
"""A policy later in the list is taken only where it needs less than this share of the time."""

BUSY = (
    "other processes computed while this machine was measured, so its profile may be wrong and plans poor;"
    " `occ cache --clear` forgets it"
)

CHILD_SECONDS = 120.0
ROUNDS = 5
"""How often each spin policy has its turn."""


@dataclass(frozen=True)
class Target:
    """A machine as plans see it.

    `bandwidth` is bytes a second of reading weights, `overhead` seconds a read request, `slowdown` (at
    least 1) how many times longer computing takes while a read is in flight, `interruption` seconds that
    it loses to each load besides, `lag` how many times its own time a read may be late, `response` seconds
    by which one is late that is asked for and waited for by itself. `product_rate`
    (operations a second of a matrix product) and `memory_rate` (bytes a second through an element-wise
    kernel) say how machines compare. `spin` is how OpenMP threads wait in a program that streams:
    "default", "passive" or a spin count. `kernels` maps signatures (see `occ.measure`) to costs.
    `packing` names the machines whose packed weights it takes (empty: none; see
    `runtime_stub.packed.probe`). `footprint` is what a program's process takes besides the program's
    budget. `torch` and `arch` are version and architecture. With an `accelerator` programs run on that,
    and all else describes the host that feeds it.
    """

    name: str
    cpu: str
    arch: str
    isa: tuple[str, ...]
    torch: str
    threads: int
    bandwidth: float
    overhead: float
    slowdown: float
    interruption: float
    lag: float
    response: float
    product_rate: float
    memory_rate: float
    spin: str
    packing: str = ""
    footprint: Footprint = field(default_factory=Footprint)
    kernels: Mapping[str, StepCost] = field(default_factory=dict)
    accelerator: Accelerator | None = None

    @property
    def device(self) -> str:
        """What programs run on: "cpu" or "cuda"."""
        return "cpu" if self.accelerator is None else "cuda"

    @property
    def reader(self) -> Reader:
        """The part of the profile that the time model takes: how storage is read."""
        return Reader(
            self.bandwidth,
            self.overhead,
            self.slowdown,
            self.interruption,
            self.lag,
            self.response,
            REQUEST_NBYTES,
        )

    @property
    def is_here(self) -> bool:
        """Whether this machine is such a one: of its processor and instruction sets."""
        return (self.cpu, self.arch, self.isa) == (cpu_model(), platform.machine(), isa())

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the profile without its name, its kernels and its footprint.

        Kernels are left out because the set grows with every model that is compiled, the footprint because
        kernels do not depend on it; what a plan used of either stands in the plan itself.
        """
        facts = self._as_json()
        del facts["name"], facts["kernels"], facts["footprint"]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def with_kernels(self, costs: Mapping[str, StepCost]) -> Target:
        """The target that knows these costs as well; known ones stay."""
        return replace(self, kernels={**costs, **self.kernels})

    def write(self, path: str | Path) -> None:
        """Write the profile as JSON. Raises UsageError where that is not possible."""
        try:
            Path(path).write_text(json.dumps(self._as_json(), indent=1) + "\n")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error

    def summary(self) -> str:
        """One line for people."""
        beside = "" if self.accelerator is None else f"; {self.accelerator.summary()}"
        return (
            f"{self.cpu}, {self.threads} thread{'s' if self.threads > 1 else ''}, torch {self.torch}; reads"
            f" {format_bytes(round(self.bandwidth))}/s + {format_seconds(self.overhead)} a request, computing"
            f" x{self.slowdown:g} beside them, {format_seconds(self.interruption)} lost to each; spin"
            f" {self.spin}; a process takes"
            f" {format_bytes(self.footprint.process)}; {len(self.kernels)} kernels measured{beside}"
        )

    def _as_json(self) -> dict[str, Any]:
        accelerator = {} if self.accelerator is None else {"accelerator": asdict(self.accelerator)}
        return {
            "format": FORMAT,
            "name": self.name,
            "cpu": self.cpu,
            "arch": self.arch,
            "isa": list(self.isa),
            "torch": self.torch,
            "threads": self.threads,
            "bandwidth": self.bandwidth,
            "overhead": self.overhead,
            "slowdown": self.slowdown,
            "interruption": self.interruption,
            "lag": self.lag,
            "response": self.response,
            "product_rate": self.product_rate,
            "memory_rate": self.memory_rate,
            "spin": self.spin,
            "packing": self.packing,
            "footprint": asdict(self.footprint),
            "kernels": {signature: astuple(cost) for signature, cost in sorted(self.kernels.items())},
            **accelerator,
        }


def read_target(path: str | Path) -> Target:
    """The profile that `Target.write` wrote. Raises UsageError for a file that is none."""
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the target profile {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not a target profile: {error}; make one with occ profile") from error
    try:
        return _from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is not a target profile: {reason}; make one with occ profile") from error


def local_target(
    directory: str | Path, threads: int | None = None, packing: str = "", progress: Progress = SILENT
) -> Target:
    """This machine, computing with `threads` threads (None: one per processor) and reading from the file
    system of `directory`.

    Measured once (a few seconds, told as `progress`) and kept in the cache; the costs of kernels measured
    since are part of it.
    What weights the machine takes packed has to be asked of torch, which takes a second to import. An
    artifact that was planned here says it: with its `packing`, torch is not imported where the cache has a
    profile of this machine that agrees.

    Raises UsageError for an impossible number of threads and for a directory that cannot be written.
    """
    threads = cpus() if threads is None else threads
    if not 1 <= threads <= cpus():
        raise UsageError(f"{threads} threads cannot be used; this machine offers 1 to {cpus()}")
    if not Path(directory).is_dir():
        raise UsageError(f"{directory} is not a directory")
    if packing and (installed := _installed_torch()):
        known = known_target(_place_of(_bare(threads, installed, packing), directory))
        if known is not None:
            return known.with_kernels(cached_kernels(known))
    import torch

    from occ.runtime_stub.packed import probe

    bare = _bare(threads, str(torch.__version__), probe())
    place = _place_of(bare, directory)
    known = known_target(place)
    if known is None:
        with progress.stage("measuring this machine"):
            known, contended = _measured(bare, Path(directory))
        if contended > CONTENDED:
            progress(BUSY)
        keep_target(place, known)
    return known.with_kernels(cached_kernels(known))


def _installed_torch() -> str:
    """The version of torch, which is not imported for it; empty where it does not say."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def _bare(threads: int, torch: str, packing: str) -> Target:
    """This machine before it is measured."""
    return Target(
        name=f"{platform.node()}-{threads}",
        cpu=cpu_model(),
        arch=platform.machine(),
        isa=isa(),
        torch=torch,
        threads=threads,
        bandwidth=1.0,
        overhead=0.0,
        slowdown=1.0,
        interruption=0.0,
        lag=0.0,
        response=0.0,
        product_rate=1.0,
        memory_rate=1.0,
        spin="default",
        packing=packing,
    )


def _place_of(bare: Target, directory: str | Path) -> str:
    """Where the cache keeps the profile of a machine that reads from the file system of `directory`."""
    return f"target-{bare.digest[:16]}-{os.stat(directory).st_dev:x}.json"


def known_target(place: str) -> Target | None:
    """The profile that the cache has at `place`, None where it has none that can be read."""
    try:
        return _from_json(read_json(place))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def keep_target(place: str, target: Target) -> None:
    """Put a profile into the cache."""
    write_json(place, target._as_json())


def cached_kernels(target: Target) -> dict[str, StepCost]:
    """Costs of kernels measured earlier for this target."""
    try:
        return _costs(read_json(_kernels_place(target)))
    except (TypeError, ValueError, AttributeError):
        return {}


def keep_kernels(target: Target, costs: Mapping[str, StepCost]) -> None:
    """Add to the costs in the cache; those it has stay."""
    merged = {**costs, **cached_kernels(target)}
    write_json(_kernels_place(target), {signature: astuple(cost) for signature, cost in merged.items()})


def openmp_settings(threads: int, spin: str) -> dict[str, str | None]:
    """Environment of a process that computes as programs for such a target do; None removes a variable."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE" if spin == "passive" else None,
        "GOMP_SPINCOUNT": spin if spin.isdecimal() else None,
    }


def rounded(number: float, digits: int) -> float:
    """`number` to so many significant decimal digits."""
    if number == 0 or not isfinite(number):
        return number
    return round(number, digits - 1 - floor(log10(abs(number))))


def _kernels_place(target: Target) -> str:
    return f"kernels-{target.digest[:16]}.json"


def _costs(content: Any) -> dict[str, StepCost]:
    return {
        str(key): StepCost(float(seconds), int(nbytes), None if slowdown is None else float(slowdown))
        for key, (seconds, nbytes, slowdown) in content.items()
    }


def _from_json(content: Any) -> Target:
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']} and this occ reads {FORMAT}")
    target = Target(
        name=str(content["name"]),
        cpu=str(content["cpu"]),
        arch=str(content["arch"]),
        isa=tuple(map(str, content["isa"])),
        torch=str(content["torch"]),
        threads=int(content["threads"]),
        bandwidth=float(content["bandwidth"]),
        overhead=float(content["overhead"]),
        slowdown=float(content["slowdown"]),
        interruption=float(content["interruption"]),
        lag=float(content["lag"]),
        response=float(content["response"]),
        product_rate=float(content["product_rate"]),
        memory_rate=float(content["memory_rate"]),
        spin=str(content["spin"]),
        packing=str(content["packing"]),
        footprint=Footprint(**{name: int(nbytes) for name, nbytes in content["footprint"].items()}),
        kernels=_costs(content["kernels"]),
        accelerator=accelerator_from_json(content["accelerator"]) if "accelerator" in content else None,
    )
    if target.threads < 1:
        raise ValueError(f"threads is {target.threads}")
    if not (target.bandwidth > 0 and isfinite(target.bandwidth)):
        raise ValueError(f"bandwidth is {target.bandwidth:g}")
    if not (target.product_rate > 0 and target.memory_rate > 0):
        raise ValueError(f"product_rate is {target.product_rate:g} and memory_rate {target.memory_rate:g}")
    delays = (target.overhead, target.interruption, target.lag, target.response)
    if not (min(delays) >= 0 and target.slowdown >= 1):
        raise ValueError(
            f"overhead is {target.overhead:g}, slowdown {target.slowdown:g}, interruption"
            f" {target.interruption:g}, lag {target.lag:g} and response {target.response:g}"
        )
    if target.spin not in ("default", "passive") and not target.spin.isdecimal():
        raise ValueError(f"spin is {target.spin!r}")
    if min(asdict(target.footprint).values()) < 0:
        raise ValueError(f"footprint is {target.footprint}")
    return target


def _measured(bare: Target, directory: Path) -> tuple[Target, float]:
    """Read from a sample file in `directory`, and compute beside it under each spin policy; also the share of
    contention while only this computed.

    A policy binds when torch is imported, so each has a process of its own; they start together and measure
    in turn.
    """
    # With one thread nothing waits for anything.
    policies = SPIN_POLICIES if bare.threads > 1 else ("default",)
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child("occ.target_child", openmp_settings(bare.threads, policy)))
            for policy in policies
        ]
        sample = stack.enter_context(sample_file(directory))
        try:
            for child in children:
                child.ask({"do": "start", "path": str(sample), "threads": bare.threads}, CHILD_SECONDS)
            rounds = [
                [child.ask({"do": "compute"}, CHILD_SECONDS) for child in children] for _ in range(ROUNDS)
            ]
            alone, beside, streaming = (
                [median(times[way] for times in turns) for turns in zip(*rounds, strict=True)]
                for way in ("alone", "beside", "streaming")
            )
            contended = fmean(times["contended"] for turns in rounds for times in turns)
            best = 0
            for index, seconds in enumerate(streaming):
                if seconds < SPIN_GAIN * streaming[best]:
                    best = index
            rates = children[best].ask({"do": "rates"}, CHILD_SECONDS)
        except ChildError as error:
            raise InternalError(f"the process that measures this machine {error}") from error
    bandwidth, overhead = fitted([(nbytes, seconds) for nbytes, seconds, _ in rates["requests"]])
    lags = [late / seconds - 1.0 for _, seconds, late in rates["requests"]]
    slowdown = max(1.0, round(beside[best] / alone[best], 2))
    # What is read meanwhile slows computing as any read does.
    slowed = rates["load_nbytes"] / bandwidth * (1.0 - 1.0 / slowdown)
    found = replace(
        bare,
        bandwidth=rounded(bandwidth, 2),
        overhead=rounded(overhead, 2),
        slowdown=slowdown,
        interruption=rounded(max(0.0, rates["load_seconds"] - slowed), 2),
        lag=rounded(max(0.0, median(lags)), 2),
        response=rounded(max(0.0, rates["lone_seconds"] - overhead - rates["load_nbytes"] / bandwidth), 2),
        product_rate=rounded(rates["product_rate"], 2),
        memory_rate=rounded(rates["memory_rate"], 2),
        spin=policies[best],
        footprint=measured_footprint(openmp_settings(bare.threads, policies[best])),
    )
    return found, contended


def fitted(requests: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Bandwidth (bytes a second) and overhead (seconds, at least 0) such that requests of n bytes take
    overhead + n / bandwidth: the least squares of relative errors over pairs of bytes and seconds."""
    nbytes, seconds = np.array(requests, dtype=np.float64).T
    terms = np.stack([np.ones_like(nbytes), nbytes]) / seconds
    (overhead, pace), *_ = np.linalg.lstsq(terms.T, np.ones_like(seconds), rcond=None)
    if overhead < 0.0 or pace <= 0.0:
        overhead, pace = 0.0, float((nbytes / seconds).sum() / ((nbytes / seconds) ** 2).sum())
    return float(1.0 / pace), float(overhead)
