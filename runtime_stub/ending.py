"""How a command ends that cannot go on: one line on standard error and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback


def report(error: BaseException, debug: bool) -> int:
    """Say in one line what ended a command, with `debug` below a traceback. Returns the exit code.

    A signal n gives 128 + n, by itself SIGINT or what the error has as `signal`; so does a reader of standard
    output that has gone, which is told nothing.
    """
    if isinstance(error, OSError):
        _drop_output()
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    if debug:
        traceback.print_exception(error)
    code, text = explain(error)
    bug = "a bug in occ (run with --debug for where): " if code == 70 else ""
    print(f"error: {bug}{text}", file=sys.stderr)
    return code


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code for an error, and one line of text for the user.

    An error that carries its own `exit_code` says all in its text. Those of the operating system and too
    little memory are no bugs: 2. Anything else is one: 70, with the type of the error in the text.
    """
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        number = getattr(error, "signal", signal.SIGINT)
        return 128 + number, f"interrupted by {number.name}"
    if isinstance(code := getattr(error, "exit_code", None), int):
        return code, text
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return 2, f"out of memory: {text or type(error).__name__}; free memory or use a smaller --budget"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return 2, f"{where}{error.strerror or text}"
    return 70, f"{type(error).__name__}: {text}" if text else type(error).__name__


def _drop_output() -> None:
    """Where standard output takes no more (a closed pipe, a full disk), give up what it still holds: the
    interpreter would fail on it once more when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
