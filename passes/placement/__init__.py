"""Offsets for buffers: a bound, heuristics, CP-SAT."""
