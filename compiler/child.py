"""A helper process that answers requests one after another: one line of JSON each way.

Measuring needs processes of its own: OpenMP's settings bind when torch is imported, and what is measured may
crash or be killed without taking the compiler along.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

Answer = dict[str, Any]

# What is imported lives as long as the process: the garbage collector looks at none of it.
_START = "import gc; gc.disable(); from {} import main; gc.freeze(); gc.enable(); main()"


class ChildError(Exception):
    """The process ended, or gave no answer in time; the text says how."""


class Child:
    """A process that runs `main()` of module `module`, which calls `serve`.

    `settings` are set in its environment on top of this process's; None removes a variable. The process
    ends with `close`, or when this one ends.
    """

    def __init__(self, module: str, settings: Mapping[str, str | None]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(module)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(settings),
        )

    def ask(self, request: Answer, timeout: float) -> Answer:
        """The answer to `request`. Raises ChildError where none comes within `timeout` seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        deadline = monotonic() + timeout
        line = bytearray()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - monotonic()))
            if not ready:
                self._process.kill()
                raise ChildError(f"gave no answer within {timeout:g} s")
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise self._ended()
            line += chunk
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            try:
                stream.close()
            except BrokenPipeError:  # a request that a process killed in between never took
                continue

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ended(self) -> ChildError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return ChildError("was killed (SIGKILL), which is what happens when memory runs out")
        if code < 0:
            return ChildError(f"died of {signal.Signals(-code).name}")
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return ChildError(f"ended with code {code}" + (f": {lines[-1]}" if lines else ""))


def serve(handle: Callable[[Answer], Answer]) -> None:
    """Answer requests on standard input until it ends. What `handle` prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        answers.write(json.dumps(handle(json.loads(line))).encode() + b"\n")
        answers.flush()


def _environment(settings: Mapping[str, str | None]) -> dict[str, str]:
    here = str(Path(__file__).absolute().parents[1])
    path = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    # Without PYTHONSAFEPATH a file such as torch.py in the working directory would be imported.
    merged: dict[str, str | None] = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",
        **settings,
    }
    return {name: value for name, value in merged.items() if value is not None}
