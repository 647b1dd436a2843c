"""Processes that measure kernels, kept from one compile to the next: to start one, which imports torch, takes
longer than most of what tests have measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from occ.child import Answer, Child, ChildError

Key = tuple[str, tuple[tuple[str, str | None], ...], bool]
"""Module, settings, and whether the process has a file to read beside programs."""


class KeptChild:
    """What `occ.child.Child` is; `close` leaves the process to whoever needs such a one next.

    The first request sets the number of threads, and the next may be for a file to read, which a process
    keeps. So one is taken when that is known.
    """

    _idle: ClassVar[dict[Key, list[Child]]] = {}

    def __init__(self, module: str, settings: Mapping[str, str | None]) -> None:
        self._module = module
        self._settings = dict(settings)
        self._threads: Answer = {}
        self._taken: tuple[Key, Child] | None = None

    def ask(self, request: Answer, timeout: float) -> Answer:
        """The answer to `request`. Raises ChildError as `Child.ask` does; the process is then ended."""
        if "threads" in request:
            self._threads = request
            return {}
        if self._taken is None:
            key = (self._module, tuple(sorted(self._settings.items())), "sample" in request)
            idle = self._idle.setdefault(key, [])
            self._taken = (key, idle.pop() if idle else Child(self._module, self._settings))
            self._asked(self._threads, timeout)
        return self._asked(request, timeout)

    def close(self) -> None:
        if self._taken is not None:
            key, child = self._taken
            self._idle[key].append(child)
            self._taken = None

    def _asked(self, request: Answer, timeout: float) -> Answer:
        assert self._taken is not None
        _, child = self._taken
        try:
            return child.ask(request, timeout)
        except ChildError:
            child.close()
            self._taken = None
            raise
