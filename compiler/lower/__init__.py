"""From the exported ATen graph to the Program."""

from __future__ import annotations

from occ.capture import Captured
from occ.lower.assemble import Lowered, assemble
from occ.lower.interface import bind_interface
from occ.lower.lowering import Lowering
from occ.lower.rules import RULES
from occ.lower.sharing import share

__all__ = ["Lowered", "lower"]


def lower(captured: Captured, name: str, *, pack: bool) -> Lowered:
    """Lower a captured model to the Program called `name`, with the tensors of its weights.

    With `pack`, the weights of products are stored as oneDNN's kernels of this machine read them; without,
    as plain tensors that run anywhere. Raises UsageError for graphs that cannot be planned ahead of time.
    """
    lowering = Lowering(RULES, pack)
    interface = bind_interface(lowering, captured, name)
    share(lowering.draft)
    return assemble(lowering.draft, interface, lowering.store.tensors)
