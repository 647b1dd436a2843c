"""What a running program says when it cannot go on, with the exit code of each kind.

Damage is `integrity.DamageError`, exit code 4.
"""

from __future__ import annotations


class ProgramError(Exception):
    """Base of the errors below. The text is one line: what is wrong, the numbers, what to do."""

    exit_code = 70


class InputError(ProgramError, ValueError):
    """A tensor, name or option from the caller that cannot be used as given."""

    exit_code = 2


class IndexRangeError(ProgramError, IndexError):
    """An index outside the table it is looked up in."""

    exit_code = 2


class NotEnoughMemoryError(ProgramError, MemoryError):
    """The arena does not fit into the memory that is available now."""

    exit_code = 2


class MachineError(ProgramError):
    """The machine lacks what the program was compiled for."""

    exit_code = 2


class HandleError(ProgramError):
    """The handle is closed, or its state is unknown after a failed run."""

    exit_code = 2
