"""What steps cost on a GPU that is not here: the larger of computing and moving, and a launch.

The roofline model (Williams, Waterman, Patterson, 2009) with the rates of the target profile. It says nothing
of how well one shape suits the hardware; where the GPU is, `occ.cuda_measure` measures instead.
"""

from __future__ import annotations

from math import prod

from occ.accelerator import Accelerator
from occ.codegen.cuda_routes import CONVOLUTION, PRODUCTS, RECURRENT, allocates_nothing
from occ.ir import Program, Step, StepCost, Value, refs_of
from occ.stored import cost_of_rows, gathered_nbytes
from occ.target import Target, rounded
from occ.units import WORKSPACE_GRAIN, round_up

LAUNCHES_A_TIME_STEP = 12
"""Kernels that one time step of a recurrence takes: a product, the gates, the states."""


def modelled_costs(program: Program, target: Target, accelerator: Accelerator) -> tuple[StepCost, ...]:
    """The cost of every step of a rewritten program.

    Workspaces are bounds: cuBLAS keeps one of its own from its first product on, so that the steps that take
    memory besides have both.
    """
    multiplies = any(step.kernel in PRODUCTS or step.kernel in RECURRENT for step in program.steps)
    kept = accelerator.cublas_workspace_nbytes if multiplies else 0
    return tuple(_cost(program, step, target, accelerator, kept) for step in program.steps)


def _cost(program: Program, step: Step, target: Target, accelerator: Accelerator, kept: int) -> StepCost:
    if step.stored:
        return gathered_cost(program, step, target, accelerator)
    values = [program.values[id] for id in (*step.reads, *step.outs)]
    moving = _moved(program, step) / accelerator.memory_rate
    seconds = max(_operations_seconds(program, step, accelerator), moving)
    launches = 1
    if step.kernel in RECURRENT:
        launches = LAUNCHES_A_TIME_STEP * _operand(program, step, "gates").shape[0]
    own = 0
    if step.kernel == CONVOLUTION:
        own = accelerator.convolution_nbytes
    elif not allocates_nothing(step.kernel):
        own = round_up(sum(value.extent[1] - value.extent[0] for value in values), WORKSPACE_GRAIN)
    workspace = own + kept if own or step.kernel in PRODUCTS or step.kernel in RECURRENT else 0
    return StepCost(rounded(seconds + launches * accelerator.launch, 3), workspace)


def _moved(program: Program, step: Step) -> int:
    """Bytes read and written; of a table only the rows that are looked up."""
    outs = sum(_nbytes(program.values[id]) for id in step.outs)
    if step.kernel == "embedding":
        return 2 * outs
    return outs + sum(_nbytes(program.values[id]) for id in step.reads)


def _nbytes(value: Value) -> int:
    return prod(value.shape) * value.itemsize


def _operations_seconds(program: Program, step: Step, accelerator: Accelerator) -> float:
    """Seconds of the multiplications and additions of a step, 0 for one that multiplies no matrices."""
    out = program.values[step.outs[0]]
    return operations(program, step) / accelerator.product_rate(out.dtype)


def operations(program: Program, step: Step) -> int:
    """Multiplications and additions of a step's matrix products; 0 for one that has none."""
    out = program.values[step.outs[0]]
    if step.kernel in PRODUCTS:
        return 2 * prod(out.shape) * _operand(program, step, PRODUCTS[step.kernel]).shape[-1]
    if step.kernel == CONVOLUTION:
        weight = _operand(program, step, "weight")
        return 2 * prod(out.shape) * prod(weight.shape[1:])
    if step.kernel in ("native_attention", "attention"):
        key = _operand(program, step, "key")
        batch, heads, rows, size = out.shape
        whole = 2 * batch * heads * rows * key.shape[-2] * (key.shape[-1] + size)
        return whole // 2 if dict(step.args).get("causal") and rows > 1 else whole
    if step.kernel in RECURRENT:
        gates, weight = _operand(program, step, "gates"), _operand(program, step, "weight")
        return 2 * prod(gates.shape[:2]) * prod(weight.shape)
    return 0


def _operand(program: Program, step: Step, name: str) -> Value:
    [ref] = refs_of(dict(step.args)[name])
    return program.values[ref.value]


def gathered_cost(program: Program, step: Step, target: Target, accelerator: Accelerator) -> StepCost:
    """What reading rows from where the table is takes, and copying them to the device."""
    copying = accelerator.copier.seconds(gathered_nbytes(program, step))
    return cost_of_rows(program, step, target, copying + accelerator.launch)
