"""What a user sees when something goes wrong: an exit code, one line, and nothing left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import occ as package
from occ import cli, pipeline
from occ.codegen import bundle
from occ.errors import ArtifactError, InternalError
from occ.runtime_stub import entry
from occ.runtime_stub.integrity import DamageError, check_archive
from occ.runtime_stub.program import Program
from occ.units import PAGE
from tests.commands import (
    MODELS,
    Done,
    assert_refused,
    command,
    occ,
    occ_process,
    smallest_budget,
    write_model,
)
from tests.tiny_plans import run_program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """language.occ streams and reads rows from the file, whole.occ has the same weights in memory; their
    input is ids.npy. mixed.occ has several inputs, x.npy and so on."""
    folder = tmp_path_factory.mktemp("failures")
    language = write_model(folder, "language")
    budget = smallest_budget(language) + 65536
    assert occ("compile", language, "--budget", budget, "-o", folder / "language.occ").code == 0
    assert occ("replan", folder / "language.occ", "-o", folder / "whole.occ").code == 0
    assert occ("compile", write_model(folder, "mixed"), "-o", folder / "mixed.occ").code == 0
    arrays = {
        "ids": numpy.array([[1, 5, 999, 5]]),
        "x": numpy.zeros((3, 8), numpy.float32),
        "counts": numpy.arange(4),
        "keep": numpy.array([True, False]),
        "scale": numpy.float32(2.0),
        "short": numpy.zeros((2, 8), numpy.float32),
        "text": numpy.array(["a"]),
        "high": numpy.array([[1, 5, 1000, 5]]),
        "negative": numpy.array([[1, 5, -1, 5]]),
    }
    for name, array in arrays.items():
        numpy.save(folder / f"{name}.npy", array)
    numpy.savez(folder / "several.npz", x=arrays["x"])
    numpy.save(folder / "objects.npy", numpy.array([object()]), allow_pickle=True)
    return folder


@contextmanager
def nothing_new(folder: Path) -> Iterator[None]:
    """The folder has the same files, with the same contents, after the block."""
    before = contents(folder)
    yield
    after = contents(folder)
    assert {path.name for path in after} == {path.name for path in before}
    assert after == before


def contents(folder: Path) -> dict[Path, bytes]:
    """All files but compiled modules, which Python keeps beside a model unless it is told not to."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path: path.read_bytes() for path in files}


# 2: bad usage, bad models, bad inputs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: COMMAND"),
        (["compose"], "invalid choice: 'compose'"),
        (["compile"], "required: MODEL.py"),
        (["compile", "good.py", "--fast"], "unrecognized arguments: --fast"),
        (["compile", "none.py"], "none.py does not exist"),
        (["compile", "."], ". is not a file"),
        (["compile", "good.txt"], "its name must end in .py"),
        (["compile", "good.py:other"], "good.py does not define `other`"),
        (["compile", "good.py", "--budget", "12XB"], "cannot read '12XB' as a size; write for example 512MB"),
        (["compile", "good.py", "--budget", "0"], "above zero"),
        (["compile", "good.py", "--budget=-3MB"], "'-3MB'"),
        (["compile", "good.py", "--budget", "-3MB"], "--budget"),
        (["compile", "good.py", "--threads", "0"], "0 threads cannot be used; this machine offers 1 to"),
        (["compile", "good.py", "--threads", "9999"], "9999 threads cannot be used"),
        (["compile", "good.py", "--threads", "two"], "invalid int value: 'two'"),
        (["compile", "good.py", "-o", "none/m.occ"], "cannot write none/m.occ: No such file or directory"),
        (["compile", "good.py", "-o", "."], "cannot write .: it is not a file"),
        (["compile", "good.py", "-o", "/dev/null"], "cannot write /dev/null: it is not a file"),
        (["compile", "good.py", "--target", "none.json"], "cannot read the target profile none.json"),
        (["compile", "good.py", "--target", "good.txt"], "good.txt is not a target profile"),
        (
            ["compile", "good.py", "--target", "empty.json"],
            "empty.json is not a target profile: lacks 'format'",
        ),
        (
            ["compile", "good.py", "--target", "empty.json", "--threads", "1"],
            "pass either --target or --threads",
        ),
        (
            ["compile", "good.py", "--weights", "none.safetensors"],
            "cannot read the weights in none.safetensors",
        ),
        (["compile", "good.py", "--dump", "good.txt"], "good.txt"),
        (["inspect", "none.occ"], "cannot read none.occ: No such file or directory"),
        (["run", "."], "cannot read .: Is a directory"),
        (["replan", "none.occ", "-o", "m.occ"], "cannot read none.occ"),
        (["replan", "none.occ"], "required: -o/--output"),
        (["bench", "none.occ", "--runs", "0"], "--runs must be at least 1, not 0"),
        (["sweep", "good.py", "--budgets", "1MB,12XB"], "cannot read '12XB' as a size"),
        (["sweep", "good.py", "--runs", "0"], "--runs must be at least 1, not 0"),
        (["explain", "none.occ"], "cannot read none.occ"),
        (["explain", "good.py", "--budget", "some"], "cannot read 'some' as a size"),
        (["compile", "good.py", "--budget", "1MB", "--latency", "1ms"], "leave out one"),
        (["compile", "good.py", "--latency", "soon"], "cannot read 'soon' as a time"),
        (
            ["compile", "good.py", "--budget", "auto", "--slowdown", "little"],
            "cannot read 'little' as a share",
        ),
        (["completion", "csh"], "invalid choice: 'csh'"),
        (["profile", "-o", "none/p.json"], "none is not a directory"),
        (["profile", "-o", "p.json", "--threads", "0"], "0 threads cannot be used"),
    ],
)
def test_bad_usage(arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path, "good", MODELS["layers"])
    (tmp_path / "good.txt").write_text("no profile")
    (tmp_path / "empty.json").write_text("{}")
    with nothing_new(tmp_path):
        assert_refused(occ(*arguments), 2, words)


MODULE = """
class Net(nn.Module):
    def forward(self, x):
        {line}
model = Net()
example_inputs = (torch.ones(2, 3),)
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = 1 / 0", "bad.py raised ZeroDivisionError at bad.py:4: division by zero"),
        ("def model(:", "bad.py raised SyntaxError at bad.py:4"),
        ("import no_such_package", "ModuleNotFoundError at bad.py:4: No module named 'no_such_package'"),
        ("raise SystemExit(0)", "bad.py raised SystemExit"),
        ("model = nn.ReLU()", "bad.py does not define `example_inputs`"),
        ("example_inputs = (torch.ones(1),)", "bad.py does not define `model`"),
        ("model = 3\nexample_inputs = ()", "`model` must be an nn.Module"),
        ("model = nn.ReLU\nexample_inputs = ()", "`model` is the class ReLU; define an instance of it"),
        ("model = nn.ReLU()\nexample_inputs = 'x'", "`example_inputs` must be a tuple or dict of tensors"),
        ("model = nn.ReLU()\nexample_inputs = (object(),)", "input_0 is of type object"),
        ("model = nn.ReLU()\nexample_inputs = (torch.ones(2).to_sparse(),)", "input_0 has layout"),
        (
            "model = nn.ReLU()\nexample_inputs = ()",
            "cannot capture ReLU: TypeError: missing a required argument",
        ),
        ("model = nn.Linear(3, 3, device='meta')\nexample_inputs = ()", "on the meta device"),
        ("model = nn.Linear(3, 3)\nexample_inputs = (torch.ones(4),)", "cannot capture Linear: RuntimeError"),
        (MODULE.format(line="return x if x.sum() > 0 else -x"), "depends on the values of tensors"),
        (MODULE.format(line="return x[x > 0]"), "/bad.py:7) has a size that depends on the data"),
        (MODULE.format(line="return x.sum().item()"), "a number that depends on the data"),
        (MODULE.format(line="return object()"), "the result is of type object"),
        (MODULE.format(line="raise ValueError('one\\ntwo')"), "/bad.py:7: ValueError: one"),
    ],
)
def test_models_that_cannot_be_compiled(text: str, words: str, tmp_path: Path) -> None:
    path = write_model(tmp_path, "bad", text + "\n")
    assert_refused(occ("compile", path, "-o", tmp_path / "m.occ"), 2, words)
    assert not (tmp_path / "m.occ").exists()


def test_torch_says_nothing_of_its_own(tmp_path: Path) -> None:
    """It prints the graph, and logs what it then raises, to the file descriptor."""
    for line in ("return x if x.sum() > 0 else -x", "return x @ x"):
        path = write_model(tmp_path, "bad", MODULE.format(line=line))
        assert_refused(occ_process("compile", path, "-o", tmp_path / "m.occ"), 2, "cannot capture Net")


GOOD = {name: f"{name}={name}.npy" for name in ("x", "counts", "keep", "scale")}


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        ({"keep": None}, [], "input 'keep' is missing; add --input keep=FILE.npy"),
        ({"x": "z=x.npy"}, [], "--input 'z' is unknown; the model has x, counts, keep, scale"),
        ({"x": "x"}, [], "--input takes NAME=FILE.npy, not 'x'"),
        ({"x": "x="}, [], "--input takes NAME=FILE.npy, not 'x='"),
        ({}, ["--input", "x=x.npy"], "--input x was given twice"),
        ({"x": "x=none.npy"}, [], "cannot read input 'x' from none.npy: No such file or directory"),
        ({"x": "x=."}, [], "cannot read input 'x' from .: Is a directory"),
        ({"x": "x=mixed.py"}, [], "cannot read input 'x' from mixed.py: the magic string is not correct"),
        ({"x": "x=several.npz"}, [], "cannot read input 'x' from several.npz"),
        ({"x": "x=objects.npy"}, [], "cannot read input 'x' from objects.npy: Object arrays"),
        ({"x": "x=text.npy"}, [], "cannot read input 'x' from text.npy"),
        (
            {"x": "x=short.npy"},
            [],
            "must be a bfloat16 tensor of shape (3, 8), not a bfloat16 tensor of shape (2, 8)",
        ),
        ({"counts": "counts=x.npy"}, [], "must be a int64 tensor of shape (4,), not a float32 tensor"),
        ({"keep": "keep=counts.npy"}, [], "must be a bool tensor of shape (2,)"),
        ({"scale": "scale=x.npy"}, [], "must be a float32 tensor of shape ()"),
        ({}, ["--output", "z=z.npy"], "--output 'z' is unknown; the model has"),
        ({}, ["--output", "y"], "--output takes NAME=FILE.npy, not 'y'"),
        ({}, ["--trace", "none/trace.json"], "none/trace.json: No such file or directory"),
    ],
)
def test_inputs_that_cannot_be_used(
    changes: dict[str, str | None],
    more: list[str],
    words: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    given = [text for text in {**GOOD, **changes}.values() if text is not None]
    arguments = [part for text in given for part in ("--input", text)] + more
    with nothing_new(folder):
        assert_refused(occ("run", "mixed.occ", *arguments), 2, words)


def test_outputs_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    [name] = [spec["name"] for spec in check_archive("language.occ")["outputs"]]
    for file, reason in (
        ("none/y.npy", "No such file or directory"),
        ("/dev/full", "No space left on device"),
    ):
        for run in (run_here, run_alone):
            done = run("language.occ", "--input=ids=ids.npy", f"--output={name}={file}")
            assert_refused(done, 2, f"cannot write {file}: {reason}")


def run_here(artifact: str | Path, *arguments: str) -> Done:
    return occ("run", artifact, *arguments)


def run_alone(artifact: str | Path, *arguments: str) -> Done:
    done = run_program(Path(artifact), *arguments)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("artifact", ["language.occ", "whole.occ"])
@pytest.mark.parametrize(("ids", "index"), [("high", 1000), ("negative", -1)])
def test_an_index_outside_the_table(artifact: str, ids: str, index: int, folder: Path) -> None:
    """From memory or by row from the file."""
    runs = (run_here, run_alone) if index > 0 else (run_here,)
    for run in runs:
        done = run(folder / artifact, f"--input=ids={folder / ids}.npy")
        assert_refused(done, 2, f"index {index} is outside", "1000 rows")


def test_a_full_disk_under_standard_output(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("inspect", folder / "mixed.occ"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert_refused(Done(done.returncode, "", done.stderr), 2, "No space left on device")


# 3: the budget


@pytest.mark.parametrize("name", ["language", "layers", "picture"])
def test_the_smallest_budget_works_and_a_page_less_does_not(name: str, tmp_path: Path) -> None:
    model = write_model(tmp_path, name)
    path = tmp_path / "m.occ"
    smallest = smallest_budget(model)
    refused = occ("compile", model, "--budget", smallest - PAGE, "-o", path)
    assert_refused(
        refused,
        3,
        f"a budget of {smallest - PAGE} bytes",
        f"is too small for {name}: the smallest that works is {smallest} (",
        "; step ",
        " needs ",
        ".weight",
    )
    assert not path.exists()
    done = occ("compile", model, "--budget", smallest, "-o", path)
    assert (done.code, done.err) == (0, "")
    assert occ("verify", path).code == 0
    with package.load(path) as program:
        assert program.manifest["budget"]["total"] <= smallest
        assert program.manifest["streamed_nbytes"] > 0
    refused = occ("replan", path, "--budget", smallest - PAGE, "-o", tmp_path / "less.occ", "--json")
    assert_refused(refused, 3, f"the smallest that works is {smallest} (")
    assert refused.out == ""
    assert not (tmp_path / "less.occ").exists()


# 4: damage


def flipped(path: Path, place: int, copy: Path) -> Path:
    """A copy of a file with one bit changed."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    copy.write_bytes(content)
    return copy


def commands_on(artifact: Path, folder: Path) -> dict[str, list[object]]:
    """Every command that takes an artifact."""
    return {
        "inspect": ["inspect", artifact],
        "explain": ["explain", artifact],
        "sweep": ["sweep", artifact, "--budgets", "1GB"],
        "verify": ["verify", artifact, "--json"],
        "run": ["run", artifact, f"--input=ids={folder / 'ids.npy'}"],
        "replan": ["replan", artifact, "-o", artifact.with_name("new.occ")],
        "bench": ["bench", artifact, "--runs", "1"],
    }


WITHOUT_WEIGHTS = ("inspect", "explain", "sweep")
"""These look at the plan alone; weights may be large."""


def test_a_truncated_or_extended_artifact_is_refused(folder: Path, tmp_path: Path) -> None:
    content = (folder / "language.occ").read_bytes()
    weights = check_archive(str(folder / "language.occ"))["weights_nbytes"]
    for length in (0, 10, PAGE, weights, weights + 100, len(content) - 1, len(content) + 1):
        path = tmp_path / "cut.occ"
        path.write_bytes((content + b"\n")[:length])
        with nothing_new(tmp_path):
            for arguments in commands_on(path, folder).values():
                assert_refused(occ(*arguments), 4, "cut.occ")
            with pytest.raises(ArtifactError, match=r"cut\.occ"):
                package.load(path)


def test_an_altered_archive_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "language.occ"
    with zipfile.ZipFile(path) as archive:
        places = {
            entry.filename: entry.header_offset + 60 + len(entry.filename) for entry in archive.infolist()
        }
    assert {"program.py", "plan.json", "manifest.json", "runtime_stub/loader.py"} <= places.keys()
    for place in places.values():
        altered = flipped(path, place, tmp_path / "altered.occ")
        assert_refused(occ("inspect", altered), 4, "altered.occ")
        with pytest.raises(ArtifactError, match=r"altered\.occ"):
            package.load(altered)
    for name in ("program.py", "runtime_stub/loader.py"):
        altered = flipped(path, places[name], tmp_path / "altered.occ")
        for arguments in commands_on(altered, folder).values():
            assert_refused(occ(*arguments), 4, "altered.occ")
        assert_refused(run_alone(altered, f"--input=ids={folder / 'ids.npy'}"), 4, "altered.occ")


def weight_places(artifact: Path) -> list[int]:
    """A byte in each tile of an artifact."""
    with package.load(artifact) as program:
        return [offset + nbytes // 2 for offset, nbytes, _ in program._globals["TILES"]]


@pytest.mark.parametrize("name", ["language.occ", "whole.occ"])
def test_altered_weights_are_refused_before_they_are_used(name: str, folder: Path, tmp_path: Path) -> None:
    places = weight_places(folder / name)
    assert len(places) > 1
    for place in places:
        altered = flipped(folder / name, place, tmp_path / "altered.occ")
        for command_name, arguments in commands_on(altered, folder).items():
            if command_name not in WITHOUT_WEIGHTS:
                assert_refused(occ(*arguments), 4, "altered.occ is damaged: tile ")
        with pytest.raises((ArtifactError, DamageError), match="is damaged: tile"):
            package.load(altered)(torch.tensor([[1, 5, 999, 5]]))
    [output] = [spec["name"] for spec in check_archive(str(altered))["outputs"]]
    with nothing_new(tmp_path):
        inputs = f"--input=ids={folder / 'ids.npy'}"
        done = run_alone(altered, inputs, f"--output={output}={tmp_path / 'y.npy'}")
        assert_refused(done, 4, "altered.occ is damaged: tile ")


# 70: a bug


@contextmanager
def broken(module: Any, name: str, error: BaseException) -> Iterator[None]:
    """Within the block, calling `module.name` raises `error`."""

    def fail(*_: object, **__: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, fail)
        yield


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("one\ntwo"), 70, "a bug in occ (run with --debug for where): ValueError: one two"),
        (AssertionError(), 70, "a bug in occ (run with --debug for where): AssertionError"),
        (InternalError("stage 3 lost a step"), 70, "a bug in occ (run with --debug for where): stage 3"),
        (MemoryError(), 2, "out of memory: MemoryError; free memory or use a smaller --budget"),
        (RuntimeError("[enforce fail] . can't allocate memory: 9 bytes"), 2, "out of memory"),
        (OSError(28, "No space left on device", "x"), 2, "x: No space left on device"),
    ],
)
def test_what_goes_wrong_inside(error: Exception, code: int, words: str, tmp_path: Path) -> None:
    model = write_model(tmp_path, "layers")
    with broken(pipeline, "lower", error), nothing_new(tmp_path):
        assert_refused(occ("compile", model, "-o", tmp_path / "m.occ"), code, words)
        shown = occ("compile", model, "-o", tmp_path / "m.occ", "--debug")
        assert shown.code == code
        assert shown.err.startswith("Traceback (most recent call last):")
        assert shown.err.splitlines()[-1].startswith("error: ")


def test_a_bug_in_a_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(folder / "language.occ")
    with broken(Program, "run", ValueError("no such thing")):
        for debug in ([], ["--debug"]):
            code = entry.main(path, check_archive(path), [f"--input=ids={folder / 'ids.npy'}", *debug])
            printed = capsys.readouterr()
            assert code == 70
            assert printed.out == ""
            assert ("Traceback" in printed.err) is bool(debug)
            assert printed.err.splitlines()[-1].startswith("error: a bug in occ")


# Stopped, or out of disk: nothing is left, and what was there stays


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with a model and an artifact that was there before."""
    write_model(tmp_path, "layers")
    (tmp_path / "m.occ").write_bytes(b"the one before")
    return tmp_path


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_stopped_at_any_stage(
    number: signal.Signals, code: int, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    last = 0

    def progress(silent: bool) -> Callable[[str], None]:
        def stop(line: str) -> None:
            lines.append(line)
            if line.startswith("wrote"):
                pytest.fail("the artifact was written before the signal")
            if len(lines) > last:
                kill_self(number)

        return stop

    monkeypatch.setattr(cli, "_progress", progress)
    while not any(line.startswith("verified") for line in lines):
        last, lines[:] = len(lines), []
        with nothing_new(there):
            done = occ("compile", there / "layers.py", "--budget", "400kB", "-o", there / "m.occ")
            assert_refused(done, code, f"interrupted by {number.name}")
    assert last >= 2


def test_stopped_while_writing(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = bundle.append_archive

    def stop_and_append(*arguments: Any) -> None:
        assert any(path.suffix == ".part" for path in there.iterdir())
        kill_self(signal.SIGTERM)
        append(*arguments)

    monkeypatch.setattr(bundle, "append_archive", stop_and_append)
    with nothing_new(there):
        assert_refused(occ("compile", there / "layers.py", "-o", there / "m.occ"), 143, "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_is_stopped(number: signal.Signals, code: int, there: Path) -> None:
    with (
        nothing_new(there),
        subprocess.Popen(
            command("compile", there / "layers.py", "-o", there / "m.occ"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(number)
        rest, err = process.communicate(timeout=300)
        assert "captured" in first
        assert_refused(Done(process.returncode, first + rest, err), code, f"interrupted by {number.name}")


@contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    """Within the block no file can grow beyond `nbytes`, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_out_of_disk(folder: Path, there: Path) -> None:
    # Measurements are in the cache after this one, so that only the artifact is written below.
    assert occ("compile", there / "layers.py", "-o", there / "first.occ").code == 0
    with nothing_new(there):
        # In the weights, and in the archive behind them.
        for nbytes in (PAGE, (there / "first.occ").stat().st_size - 100):
            with file_size_limit(nbytes):
                done = occ("compile", there / "layers.py", "-o", there / "m.occ")
                assert_refused(done, 2, "cannot write", "m.occ: File too large")
                done = occ("replan", folder / "whole.occ", "-o", there / "m.occ")
                assert_refused(done, 2, "cannot write", "m.occ: File too large")
