"""What the function of a loop is called."""

from __future__ import annotations

from occ.codegen.loops.functions import TYPES
from occ.codegen.loops.ir import Apply, Loop, Reduce, walk

_UNTOLD = frozenset(
    {"add", "sub", "mul", "div", "neg", "where", "maximum", "minimum", "sum", *TYPES, "bf16", "f16"}
)


def stem_of(loop: Loop) -> str:
    """A name for a loop: the functions in it that tell the most."""
    names = [e.function for s in loop.statements for e in walk(s.value) if isinstance(e, (Apply, Reduce))]
    distinct = list(dict.fromkeys(names))
    telling = [name for name in distinct if name not in _UNTOLD] or distinct or ["copy"]
    return "_".join(telling[:3])
