"""Running a plan to see how fast it is: a temporary artifact, in a process of its own, deleted afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from occ.errors import InternalError, UsageError
from occ.ir import Plan

RUNS = 10
"""Runs of which the median is taken."""

Write = Callable[[Path, Plan], None]
"""Writes the artifact of a plan."""

_BENCH = "import sys; from occ.cli import main; sys.exit(main())"


def trial(
    plan: Plan, write: Write, folder: Path, runs: int = RUNS, model: str | None = None
) -> tuple[float, float | None]:
    """Median latency in seconds of `runs` runs, after one that warms up; beside it that of `model`
    (MODEL.py[:name]) in eager, in turns, where one is given.

    The artifact lies in `folder`, on the storage that is to be measured, and is gone afterwards. The process
    sets OpenMP as the plan says before it imports torch. Raises UsageError where the folder cannot be written
    and InternalError where the artifact does not run.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".occ-sweep-", dir=folder) as temporary:
            path = Path(temporary) / "plan.occ"
            write(path, plan)
            return _bench(path, runs, model)
    except OSError as error:
        raise UsageError(f"cannot measure in {folder}: {error.strerror or error}") from error


def _bench(path: Path, runs: int, model: str | None) -> tuple[float, float | None]:
    beside = [] if model is None else ["--model", model]
    # Without PYTHONSAFEPATH a file such as torch.py in the working directory would be imported.
    done = subprocess.run(
        [sys.executable, "-c", _BENCH, "bench", str(path), "--json", "--runs", str(runs), *beside],
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        raise InternalError(f"a plan of the sweep does not run: {last.removeprefix('error: ')}")
    found = json.loads(done.stdout)
    return found["latency"], found["eager_latency"]
