"""What can go wrong, with the exit code each kind of failure has on the command line.

An error's text is one line for the user: what is wrong, where, the numbers, what to do.
"""

from __future__ import annotations


class OccError(Exception):
    """Base of every error that occ raises on purpose."""

    exit_code = 70


class UsageError(OccError):
    """Bad input: a file, an option, a model or a tensor that cannot be used as given."""

    exit_code = 2


class BudgetError(OccError):
    """The budget cannot be met.

    `smallest` is the smallest feasible budget in bytes; compiling at exactly that works.
    """

    exit_code = 3

    def __init__(self, message: str, smallest: int) -> None:
        super().__init__(message)
        self.smallest = smallest


class ArtifactError(OccError):
    """A damaged, altered or untrusted artifact; nothing of it was run."""

    exit_code = 4


class InternalError(OccError):
    """A bug in occ: a stage broke its own contract."""

    exit_code = 70
