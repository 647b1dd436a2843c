"""What steps cost on the GPU that is here, by running each on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from occ.accelerator import Accelerator
from occ.child import Answer, Child, ChildError
from occ.codegen.cuda_routes import CONVOLUTION, PRODUCTS, RECURRENT
from occ.codegen.steps import triton_functions
from occ.codegen.triton import triton_module
from occ.errors import InternalError
from occ.ir import Program, Step, StepCost
from occ.measure import Case, case_of
from occ.modelled import gathered_cost
from occ.progress import SILENT, Progress
from occ.target import Target, keep_kernels, openmp_settings, rounded
from occ.units import WORKSPACE_GRAIN, round_up

SECONDS = 600.0


class CudaMeasurer:
    """Measures steps on the GPU of this machine, each case once; `target` is the profile that knows them all.

    A helper process starts when a case is met that the profile lacks, after `undisturbed` has returned, and
    ends with the `with` block. A convolution's workspace is the one that cuDNN takes with the shapes at hand;
    cuBLAS keeps one for all.
    """

    def __init__(
        self,
        target: Target,
        accelerator: Accelerator,
        progress: Progress = SILENT,
        undisturbed: Callable[[], None] = lambda: None,
    ) -> None:
        self.target = target
        self._undisturbed = undisturbed
        self._accelerator = accelerator
        self._progress = progress
        self._child: Child | None = None

    def measure(self, program: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
        """The cost of every step of a rewritten program; nothing waits on OpenMP's threads.

        New costs are kept in the cache. Raises InternalError for a kernel that fails and for a helper process
        that ends.
        """
        cases = [None if step.stored else case_of(program, step, "cuda") for step in program.steps]
        fresh: dict[str, StepCost] = {}
        unknown = {c.signature for c in cases if c is not None and c.signature not in self.target.kernels}
        if unknown:
            self._undisturbed()
            self._compile(program)
        with self._progress.stage("measuring", len(unknown), "kernels") as advance:
            for case, step in zip(cases, program.steps, strict=True):
                if case is not None and case.signature in unknown and case.signature not in fresh:
                    fresh[case.signature] = self._measured(case, step)
                    advance(1)
        if fresh:
            keep_kernels(self.target, fresh)
            self.target = self.target.with_kernels(fresh)
        multiplies = any(step.kernel in PRODUCTS or step.kernel in RECURRENT for step in program.steps)
        kept = self._accelerator.cublas_workspace_nbytes if multiplies else 0
        return tuple(
            gathered_cost(program, step, self.target, self._accelerator)
            if case is None
            else self._with_kept(self.target.kernels[case.signature], step, kept)
            for case, step in zip(cases, program.steps, strict=True)
        )

    def close(self) -> None:
        """End the helper process; the next measurement starts another."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def __enter__(self) -> CudaMeasurer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _with_kept(cost: StepCost, step: Step, kept: int) -> StepCost:
        """A step's own workspace beside the one that cuBLAS keeps."""
        takes = cost.workspace or step.kernel in PRODUCTS or step.kernel in RECURRENT
        return replace(cost, workspace=cost.workspace + kept) if takes else cost

    def _compile(self, program: Program) -> None:
        functions = triton_functions(program.values, program.steps)
        if functions:
            answer = self._ask({"kernels": triton_module(functions)}, f"program {program.name}")
            if "error" in answer:
                raise InternalError(
                    f"the Triton kernels of {program.name} cannot be loaded: {answer['error']}"
                )

    def _measured(self, case: Case, step: Step) -> StepCost:
        where = f"step {step.name} (kernel {step.kernel}, module {step.module or 'of the model itself'})"
        answer = self._ask(case.request, where)
        if "error" in answer:
            raise InternalError(f"{where} cannot be run as {case.text}: {answer['error']}")
        # cuBLAS's workspace is taken by whichever product comes first, and counted apart.
        own = 0 if step.kernel in PRODUCTS else answer["workspace"]
        if step.kernel == CONVOLUTION:
            own = max(own, WORKSPACE_GRAIN)
        return StepCost(rounded(answer["seconds"], 3), round_up(own, WORKSPACE_GRAIN))

    def _ask(self, request: Answer, where: str) -> Answer:
        try:
            if self._child is None:
                self._child = Child("occ.cuda_child", openmp_settings(1, "default"))
            return self._child.ask(request, SECONDS)
        except ChildError as error:
            self.close()
            raise InternalError(f"{where}: the process that measures it {error}") from error
