"""Memory planning: liveness, pool sizing, offset placement. No module here imports torch."""
