"""Damage to an artifact."""

from __future__ import annotations

from pathlib import Path


def flip(path: str | Path, place: int) -> None:
    """Change one bit of the byte at `place`; once more restores it."""
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
