"""Completion scripts: they know every command and option, and bash's completes as promised."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from occ.cli import _parser, main
from occ.completion import SHELLS, completion

COMPLETE = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
compopt() {{ :; }}
_occ
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "occ.bash"
    path.write_text(completion(_parser(), "bash"))
    return path


def completed(script: Path, words: str) -> list[str]:
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE.format(script=script, words=words)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("occ comp", ["compile", "completion"]),
        ("occ compile --bud", ["--budget"]),
        ("occ compile --budget ''", ["min", "auto", "unlimited"]),
        ("occ compile net.py --budget a", ["auto"]),
        ("occ completion ''", ["bash", "zsh", "fish"]),
        ("occ compile -o ''", []),
        ("occ run m", []),
        ("occ --vers", ["--version"]),
    ],
)
def test_bash_completes(script: Path, words: str, expected: list[str]) -> None:
    assert completed(script, words) == expected


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_every_command_and_option_is_in_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in ("compile", "replan", "sweep", "explain", "completion"):
        assert word in text
    for option in ("budget", "slowdown", "measure", "portable"):
        assert f"--{option}" in text or f"-l {option}" in text
    assert text.endswith("\n")


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_the_shell_accepts_its_script(shell: str, tmp_path: Path) -> None:
    binary = shutil.which(shell)
    if binary is None:
        pytest.skip(f"{shell} is not installed, so its script is NOT parsed")
    (tmp_path / "script").write_text(completion(_parser(), shell))
    done = subprocess.run([binary, "-n", str(tmp_path / "script")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
