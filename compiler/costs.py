"""Who says what steps cost: a process that runs them, or a model of a device that is not here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from occ.accelerator import Accelerator
from occ.cuda_measure import CudaMeasurer
from occ.devices import cuda_name
from occ.ir import Program, StepCost
from occ.measure import Measurer
from occ.modelled import modelled_costs
from occ.progress import SILENT, Progress
from occ.target import Target


class Costs(Protocol):
    """Costs of the steps of rewritten programs on `target`; to be used in a `with` block."""

    target: Target

    def measure(self, program: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
        """The cost of every step where OpenMP's threads wait by the policy `spin`, and weights are `resident`
        or come from storage."""
        ...

    def __enter__(self) -> Costs: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Model:
    """Costs computed from the profile of an accelerator, in no process and no time."""

    def __init__(self, target: Target, accelerator: Accelerator) -> None:
        self.target = target
        self._accelerator = accelerator

    def measure(self, program: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
        """The cost of every step; nothing waits on OpenMP's threads, and caches are not modelled."""
        return modelled_costs(program, self.target, self._accelerator)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def measurer_for(
    target: Target,
    folder: Path,
    progress: Progress = SILENT,
    undisturbed: Callable[[], None] = lambda: None,
) -> Costs:
    """What says what steps cost on a target whose programs read from the file system of `folder`.
    `undisturbed` is called before something is measured, and returns when it can be."""
    if target.accelerator is None:
        return Measurer(target, progress, folder, undisturbed)
    if cuda_name() == target.accelerator.name:
        return CudaMeasurer(target, target.accelerator, progress, undisturbed)
    return Model(target, target.accelerator)
