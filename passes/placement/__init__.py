"""Offsets for buffers: a bound, heuristics, CP-SAT."""

from occ.passes.placement.portfolio import place

__all__ = ["place"]
