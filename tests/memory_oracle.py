"""What a piece of Python really takes: counted in a process of its own, or enforced by a control group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from occ.counter import counter_settings

_HARNESS = """
import json, sys
from occ.counter import preloaded_counter
setup, statement, report = json.loads(sys.argv[1])
scope = {"__name__": "__main__"}
exec(compile(setup, "<setup>", "exec"), scope)
statement = compile(statement, "<statement>", "exec")
counter = preloaded_counter()
counter.reset()
exec(statement, scope)
found = {"peak": counter.peak(), "large": counter.large()}
with open(report, "w") as file:
    json.dump(found, file)
"""


@dataclass(frozen=True)
class Footprint:
    """`peak`: the most bytes that were allocated at once above what was there before the statement;
    `large`: how many allocations of 64 KiB or more it made."""

    peak: int
    large: int


def footprint(
    setup: str,
    statement: str,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> Footprint:
    """What `statement` allocates after `setup`, both Python source in one namespace, in a fresh process.

    Every allocation of every library counts, and anonymous mappings. `folder` takes the report; `settings`
    are added to the environment. Skips where the counter cannot be built.
    """
    counted = counter_settings()
    if not counted:
        pytest.skip("NOT TESTED: there is no C compiler, so allocations cannot be counted")
    report = folder / f"footprint-{uuid.uuid4().hex}.json"
    texts = json.dumps([textwrap.dedent(setup), textwrap.dedent(statement), str(report)])
    environment = {**os.environ, **{k: v for k, v in counted.items() if v is not None}, **(settings or {})}
    done = subprocess.run(
        [sys.executable, "-c", _HARNESS, texts],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Footprint(**json.loads(report.read_text()))


class Limited:
    """A memory control group; processes started by `run` cannot take more than its limit together."""

    def __init__(self, group: Path) -> None:
        self._group = group

    def run(
        self, command: Sequence[str], settings: Mapping[str, str] | None = None, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the group. Its return code is -9 where the kernel killed it for memory."""
        join = f'echo $$ > "{self._group}/cgroup.procs" && exec "$@"'
        return subprocess.run(
            ["sh", "-c", join, "sh", *command],
            env={**os.environ, **(settings or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@contextmanager
def limited(nbytes: int) -> Iterator[Limited]:
    """A control group that allows `nbytes` of memory, page cache included, and no swap.

    Skips where this process may not make one.
    """
    group = None
    for root, limit, swap in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
    ):
        candidate = Path(root) / f"occ-test-{uuid.uuid4().hex[:12]}"
        try:
            candidate.mkdir()
        except OSError:
            continue
        try:
            (candidate / limit).write_text(str(nbytes))
        except OSError:
            candidate.rmdir()
            continue
        if (candidate / swap).exists():
            # Of v1's two limits, this one is for memory and swap together.
            (candidate / swap).write_text(str(nbytes) if "memsw" in swap else "0")
        group = candidate
        break
    if group is None:
        pytest.skip("NOT TESTED: this process may not make a memory control group")
    try:
        yield Limited(group)
    finally:
        group.rmdir()
