"""Calling the command line: within this process, where the answer is enough, or in one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch

from occ.cli import main

MODELS = {
    # The embedding's rows are read from the file where the budget is small.
    "language": """
class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 64)
        self.body = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 64))
    def forward(self, ids):
        return self.body(self.table(ids))
model = Language()
example_inputs = (torch.tensor([[1, 5, 999, 5]]),)
""",
    "layers": """
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 256))
example_inputs = (torch.randn(4, 64),)
""",
    "picture": """
model = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
    nn.Conv2d(64, 96, 3, stride=2), nn.ReLU(), nn.Conv2d(96, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
)
example_inputs = (torch.randn(1, 3, 12, 12),)
""",
    # Every kind of input and output that a file of numbers can hold, in a structure.
    "mixed": """
class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8, dtype=torch.bfloat16)
    def forward(self, x, counts, keep, *, scale):
        y = self.linear(x)
        return {
            "y": y,
            "rest": (counts + 1, [keep.logical_not(), None]),
            "total": (y.float() * scale).sum(),
        }
model = Mixed()
example_inputs = (
    (torch.randn(3, 8).to(torch.bfloat16), torch.arange(4), torch.tensor([True, False])),
    {"scale": torch.tensor(2.0)},
)
""",
}


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def occ(*arguments: object) -> Done:
    """`occ arguments` within this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), unchanged_settings():
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
    return Done(code, out.getvalue(), err.getvalue())


def occ_process(*arguments: object, **environment: str) -> Done:
    """`occ arguments` in a process of its own."""
    done = subprocess.run(
        command(*arguments),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def command(*arguments: object) -> list[str]:
    """The command line that starts `occ arguments`."""
    return [
        sys.executable,
        "-c",
        "import sys; from occ.cli import main; sys.exit(main())",
        *map(str, arguments),
    ]


@contextmanager
def unchanged_settings() -> Iterator[None]:
    """A run sets OpenMP's variables and torch's threads, which belong to the whole process."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)


def write_model(folder: Path, name: str, text: str | None = None) -> Path:
    """A MODEL.py with the given text, or with that of MODELS; its random weights are the same every time."""
    path = folder / f"{name}.py"
    head = "import torch\nfrom torch import nn\ntorch.manual_seed(0)\n"
    path.write_text(head + (MODELS[name] if text is None else text))
    return path


def smallest_budget(model: Path) -> int:
    """Bytes of the smallest budget for a MODEL.py, as the error for a smaller one names it."""
    done = occ("compile", model, "--budget", "1", "-o", model.with_suffix(".none"))
    assert_refused(done, 3)
    found = re.search(r"the smallest that works is (\d+) ", done.err)
    assert found, done.err
    return int(found[1])


def assert_refused(done: Done, code: int, *words: str) -> None:
    """It ended with `code`, one line on standard error that has all `words`, and nothing printed."""
    assert done.code == code, done
    assert done.err.startswith("error: "), done.err
    assert done.err.count("\n") == 1, done.err
    assert done.err.endswith("\n")
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err
    progress = [line for line in done.out.splitlines() if not line.startswith("[")]
    assert not progress, done.out
    assert " wrote " not in done.out
