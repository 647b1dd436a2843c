"""Steps that read rows of a table from the file, those that data asks for: what they take, and when they beat
a table in memory. Rows are looked up, or are the matrices of a mixture of experts."""

from __future__ import annotations

from math import gcd

from occ.errors import InternalError
from occ.ir import Program, Ref, Step, Value
from occ.units import PAGE, round_up

GROUPED_PRODUCT = "grouped_product"
STORED_PRODUCT = "stored_product"

LOOKUPS = frozenset({"embedding", "packed_embedding"})
"""Kernels that look rows of a table up, and that a gather can stand for."""

BY_ROW = LOOKUPS | {GROUPED_PRODUCT}
"""Kernels whose operand `weight` may stay in the file."""

GATHER_ROWS = 64
"""Rows that a gather has in flight at most; it bounds its scratch."""


def gather_row_nbytes(row_nbytes: int, row_stride: int, file_offset: int) -> int:
    """Bytes of whole pages that hold any one row of `row_nbytes` bytes, of rows that begin every
    `row_stride` bytes from `file_offset`.

    Rows begin at offsets within a page that are congruent to the first one's modulo gcd(stride, page); the
    largest of those makes a row straddle the most pages.
    """
    step = gcd(row_stride, PAGE)
    return round_up(PAGE - step + file_offset % step + row_nbytes, PAGE)


def gather_pays(count: int, row_nbytes: int, table_nbytes: int) -> bool:
    """Whether looking up `count` rows of `row_nbytes` bytes reads far less than the whole table."""
    return 2 * count * (round_up(row_nbytes, PAGE) + PAGE) < table_nbytes


def matrices_asked(program: Program, step: Step) -> tuple[int, int]:
    """How many matrices a product with such as data chooses asks for at most, and the bytes of each."""
    matrices, rows = operand(program, step, "weight"), operand(program, step, "input").shape[0]
    return min(rows, matrices.shape[0]), matrices.strides[0] * matrices.itemsize


def experts_nbytes(program: Program) -> int:
    """Bytes of matrices that a run reads from the file at most because data asks for them."""
    asked = (matrices_asked(program, step) for step in program.steps if step.kernel == STORED_PRODUCT)
    return sum(count * nbytes for count, nbytes in asked)


def operand(program: Program, step: Step, name: str) -> Value:
    """The value of a step's operand. Raises InternalError where it is none."""
    return program.values[operand_ref(step, name).value]


def operand_ref(step: Step, name: str) -> Ref:
    """What a step's operand refers to. Raises InternalError where that is no value."""
    found = dict(step.args).get(name)
    if not isinstance(found, Ref):
        raise InternalError(f"step {step.name} lacks a value for its operand {name}")
    return found
