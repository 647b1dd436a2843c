"""From the exported ATen graph to the Program."""

from __future__ import annotations

from occ.capture import Captured
from occ.lower.assemble import Lowered, assemble
from occ.lower.interface import bind_interface
from occ.lower.lowering import Lowering
from occ.lower.native_rules import CUDA_RULES, NATIVE_RULES
from occ.lower.rules import RULES
from occ.lower.sharing import share

__all__ = ["Lowered", "lower"]


def lower(captured: Captured, name: str, *, pack: bool, native: bool = False, device: str = "cpu") -> Lowered:
    """Lower a captured model to the Program called `name`, with the tensors of its weights.

    With `pack`, the weights of products are stored as oneDNN's kernels of this machine read them; without,
    as plain tensors that run anywhere. With `native`, steps that torch has no good kernel for are
    generated (in C, or in Triton for the device "cuda"); without, all are torch's. Raises UsageError for
    graphs that cannot be planned ahead of time.
    """
    rules = CUDA_RULES if device == "cuda" else NATIVE_RULES
    lowering = Lowering(RULES, pack, rules if native else {}, device=device)
    interface = bind_interface(lowering, captured, name)
    share(lowering.draft, fused=native)
    return assemble(lowering.draft, interface, lowering.store.tensors)
