"""What the commands do and print when all is well; `test_failures` has the rest."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from occ import cache, cli
from occ.artifact import open_artifact
from occ.model_file import load_model_file
from tests.commands import MODELS, Done, command, occ, occ_process, smallest_budget, write_model
from tests.comparing import tensors_in
from tests.tiny_plans import run_program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts NAME.occ of all MODELS, beside NAME.py; the one of language streams."""
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        path = write_model(folder, name)
        budget = ["--budget", streaming_budget(path)] if name == "language" else []
        done = occ("compile", path, "-o", folder / f"{name}.occ", *budget)
        assert done.code == 0, done.err
    return folder


def streaming_budget(model: Path) -> int:
    """Bytes between the least that works and all weights."""
    return smallest_budget(model) + 65536


def only_json(done: Done) -> dict[str, Any]:
    """The one JSON object that a command printed."""
    assert (done.code, done.err) == (0, "")
    content = json.loads(done.out)
    assert isinstance(content, dict)
    return content


# compile


def test_compile_says_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = occ("compile", write_model(tmp_path, "layers"), "--budget", "1MB")
    assert (done.code, done.err) == (0, "")
    assert all(re.match(r"\[ *\d+\.\d s\] \w", line) for line in done.out.splitlines())
    for words in ("captured", "lowered to", "verified", "wrote layers.occ", "budget 1 MB"):
        assert words in done.out
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["layers.occ", "layers.py"]


def test_compile_options(tmp_path: Path) -> None:
    text = MODELS["layers"].replace("model =", "small =")
    path = write_model(tmp_path, "named", text)
    target = tmp_path / "target.json"
    assert occ("profile", "-o", target, "--threads", "1").code == 0
    arguments = ("-o", tmp_path / "m.occ", "--target", target, "--portable", "--dump", tmp_path / "stages")
    made = only_json(occ("compile", f"{path}:small", *arguments, "--json"))
    assert made["model"] == "named"
    assert made["artifact"] == str(tmp_path / "m.occ")
    assert made["machine"]["threads"] == 1
    assert made["machine"]["packing"] == ""
    stages = [path.name for path in sorted((tmp_path / "stages").iterdir())]
    assert stages == ["00-lowered.txt", "01-rewritten.txt", "02-planned.txt", "03-program.txt"]


def test_the_same_compile_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    name = "language"
    model = folder / f"{name}.py"
    budget = streaming_budget(model)
    for seed in ("1", "2"):
        done = occ_process(
            "compile", model, "--budget", budget, "-o", tmp_path / f"{seed}.occ", PYTHONHASHSEED=seed
        )
        assert (done.code, done.err) == (0, "")
        assert (tmp_path / f"{seed}.occ").read_bytes() == (folder / f"{name}.occ").read_bytes()


# run, and the artifact by itself


def inputs_of(model: Path) -> dict[str, Tensor]:
    """The example inputs by name."""
    args, kwargs = load_model_file(str(model)).example_inputs
    names = {"mixed": ["x", "counts", "keep"], "language": ["ids"]}[model.stem]
    return {**dict(zip(names, args, strict=True)), **kwargs}


def results_of(model: Path) -> list[Tensor]:
    """What the module returns for them."""
    loaded = load_model_file(str(model))
    args, kwargs = loaded.example_inputs
    return tensors_in(loaded.module(*args, **kwargs))


def as_array(tensor: Tensor) -> Any:
    """As in a file: NumPy has no bfloat16."""
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).detach().numpy()


def save_inputs(model: Path, folder: Path) -> list[str]:
    """Write the example inputs; the arguments that name them."""
    for name, tensor in inputs_of(model).items():
        numpy.save(folder / f"{name}.npy", as_array(tensor))
    return [f"--input={name}={folder / name}.npy" for name in inputs_of(model)]


def alone(artifact: Path, *arguments: str) -> Done:
    """`python artifact arguments`, where occ cannot be imported."""
    done = run_program(artifact, *arguments)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("name", ["mixed", "language"])
def test_an_artifact_alone_does_what_run_does(name: str, folder: Path, tmp_path: Path) -> None:
    artifact, expected = folder / f"{name}.occ", results_of(folder / f"{name}.py")
    inputs = save_inputs(folder / f"{name}.py", tmp_path)
    listed = occ("run", artifact, *inputs)
    assert (listed.code, listed.err) == (0, "")
    assert [line.split(": ")[1] for line in listed.out.splitlines()] == [
        f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}" for tensor in expected
    ]
    names = [line.split(": ")[0] for line in listed.out.splitlines()]

    told = []
    for place, run in ((tmp_path / "occ", lambda *rest: occ("run", *rest)), (tmp_path / "alone", alone)):
        place.mkdir()
        files = [f"--output={output}={place / output}.npy" for output in names[1:]]
        done = run(artifact, *inputs, *files, "--stats", "--trace", str(place / "trace.json"))
        assert (done.code, done.out) == (0, listed.out.splitlines(keepends=True)[0])
        # Which step takes most of the little that there is changes from run to run, and so does how much.
        said = re.sub(r"at most, in [^:]+: (within|more than)", "at most, in a step:", done.err)
        told.append(re.sub(r"[\d.]+", "N", said))
        assert json.loads((place / "trace.json").read_text())["traceEvents"]
        first = run(artifact, *inputs, "--output", f"{names[0]}={place / names[0]}.npy")
        assert first.code == 0
    assert told[0] == told[1]
    assert told[0].startswith("arena N MB, start N ms, run N ms of which N ms waiting, read N MB (")

    for output, tensor in zip(names, expected, strict=True):
        ours, theirs = (numpy.load(tmp_path / place / f"{output}.npy") for place in ("occ", "alone"))
        assert ours.dtype == theirs.dtype == as_array(tensor).dtype
        assert ours.shape == theirs.shape == tuple(tensor.shape)
        assert numpy.array_equal(ours, theirs)
        slack = 1e-2 if tensor.dtype is torch.bfloat16 else 1e-4
        assert numpy.allclose(ours, as_array(tensor), rtol=slack, atol=slack)


def test_stats_do_not_change_the_result(tmp_path: Path) -> None:
    """They take one more run, and a program may have state."""
    text = """
class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(3))
    def forward(self, x):
        self.count.add_(x)
        return self.count + 1
model = Counter()
example_inputs = (torch.ones(3),)
"""
    path = tmp_path / "counter.occ"
    assert occ("compile", write_model(tmp_path, "counter", text), "-o", path).code == 0
    numpy.save(tmp_path / "x.npy", numpy.ones(3, numpy.float32))
    inputs = f"--input=x={tmp_path / 'x.npy'}"
    name = occ("run", path, inputs).out.split(":")[0]
    done = occ("run", path, inputs, "--stats", f"--output={name}={tmp_path / 'y.npy'}")
    assert done.code == 0
    assert numpy.load(tmp_path / "y.npy").tolist() == [2.0, 2.0, 2.0]


def test_an_artifact_says_what_it_takes(folder: Path) -> None:
    done = alone(folder / "mixed.occ", "--help")
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    for words in ("input x: bfloat16 (3, 8)", "input keep: bool (2,)", "input scale: float32 ()"):
        assert words in text


# inspect, verify, replan, bench, profile, cache


def test_inspect(folder: Path, tmp_path: Path) -> None:
    path = folder / "language.occ"
    for option, words in (
        ([], "streamed"),
        (["--steps"], "linear"),
        (["--program"], "def steps_0"),
        (["--map"], "resident weights"),
        (["--diff", folder / "picture.occ"], "picture"),
    ):
        done = occ("inspect", path, *option)
        assert (done.code, done.err) == (0, "")
        assert words in done.out
    done = occ("inspect", path, "--html", tmp_path / "plan.html")
    assert (done.code, done.err) == (0, "")
    assert "<html" in (tmp_path / "plan.html").read_text()


def test_json_is_one_object_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    loud = write_model(tmp_path, "layers", "print('hello')\n" + MODELS["layers"])
    made = occ("compile", loud, "--json", "-o", tmp_path / "loud.occ")
    assert (made.code, made.err) == (0, "hello\n")
    path = folder / "language.occ"
    plan = only_json(occ("inspect", path, "--json"))
    assert plan["artifact"] == str(path)
    assert plan["budget"]["total"] <= plan["budget"]["limit"]
    assert plan["loads"] > 0
    assert json.loads(made.out).keys() == plan.keys()
    replanned = only_json(occ("replan", path, "--budget", "1MB", "-o", tmp_path / "r.occ", "--json"))
    assert replanned.keys() == plan.keys()
    assert replanned["budget"]["limit"] == 1_000_000
    verified = only_json(occ("verify", path, "--json"))
    assert verified == {"artifact": str(path), "tiles": plan["tiles"], "sound": True, "library": None}
    profile = only_json(occ("profile", "-o", tmp_path / "p.json", "--json"))
    assert profile == {"profile": str(tmp_path / "p.json"), **json.loads((tmp_path / "p.json").read_text())}


def test_json_has_what_the_other_options_print(folder: Path, tmp_path: Path) -> None:
    path, other = folder / "language.occ", folder / "picture.occ"
    plan = only_json(occ("inspect", path, "--json"))
    page = tmp_path / "plan.html"
    options = ["--steps", "--map", "--program", "--diff", other, "--html", page]
    found = only_json(occ("inspect", path, "--json", *options))
    assert {key: found[key] for key in plan} == plan
    assert page.exists()
    assert len(found["table"]) == plan["steps"]
    assert sum(step["wait"] for step in found["table"]) == pytest.approx(plan["prediction"]["stall"])
    shown = occ("inspect", path, "--steps").out.splitlines()[1:]
    assert [step["name"] for step in found["table"]] == [line.split()[1] for line in shown]
    assert max(span["offset"] + span["nbytes"] for span in found["map"]) <= plan["budget"]["arena"]
    assert found["program"] == occ("inspect", path, "--program").out
    assert found["diff"]["figures"]["arena"] == [
        only_json(occ("inspect", other, "--json"))["budget"]["arena"],
        plan["budget"]["arena"],
    ]


def test_run_as_json(folder: Path, tmp_path: Path) -> None:
    path = folder / "layers.occ"
    numpy.save(tmp_path / "x.npy", numpy.ones((4, 64), numpy.float32))
    arguments = [f"--input={input_name(path)}={tmp_path / 'x.npy'}", "--json", "--stats"]
    trace = tmp_path / "t.json"
    found = only_json(occ("run", path, *arguments, "--trace", trace))
    [output] = found["outputs"]
    assert (output["dtype"], output["shape"], output["file"]) == ("float32", [4, 256], None)
    assert found["stats"]["runs"] == 1
    assert found["stats"]["last_latency"] > 0
    assert found["stats"]["workspace_declared"] >= 0
    assert json.loads(trace.read_text())["otherData"]["model"] == "layers"
    file = tmp_path / "y.npy"
    done = alone(path, *arguments, "--output", f"{output['name']}={file}")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["outputs"][0]["file"] == str(file)


def input_name(path: Path) -> str:
    [spec] = open_artifact(path).manifest["inputs"]
    return str(spec["name"])


def test_bench(folder: Path) -> None:
    path = folder / "language.occ"
    bench = only_json(occ("bench", path, "--model", folder / "language.py", "--runs", "2", "--json"))
    assert bench["runs"] == 2
    assert bench["latency"] > 0
    assert bench["eager_latency"] > 0
    assert bench["difference"] < 1e-4
    done = occ("bench", folder / "mixed.occ", "--model", folder / "mixed.py", "--runs", "1")
    assert (done.code, done.err) == (0, "")
    assert "of the largest output" in done.out
    without = only_json(occ("bench", folder / "mixed.occ", "--runs", "1", "--json"))
    assert without["eager_latency"] is without["difference"] is None


def test_bench_draws_what_was_measured(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    found = only_json(occ("bench", folder / "language.occ", "--runs", "1", "--html", page, "--json"))
    assert found["runs"] == 1
    text = page.read_text()
    steps = only_json(occ("inspect", folder / "language.occ", "--json"))["steps"]
    data = json.loads(text.partition('id="bench">')[2].partition("</script>")[0])
    assert len(data["measured"]["start"]) == len(data["predicted"]["start"]) == steps
    assert data["measured"]["latency"] >= max(data["measured"]["end"])
    assert data["measured"]["reads"]["nbytes"]


def test_bench_finds_a_model_that_is_not_the_one(folder: Path, tmp_path: Path) -> None:
    for change, difference in (("* 0.5", 0.1), ("* float('nan')", "inf")):
        text = MODELS["language"].replace(
            "self.body(self.table(ids))", f"self.body(self.table(ids)) {change}"
        )
        other = write_model(tmp_path, "other", text)
        found = only_json(occ("bench", folder / "language.occ", "--model", other, "--runs", "1", "--json"))
        assert found["difference"] == difference or found["difference"] > difference


def plan_json(artifact: Path) -> bytes:
    with zipfile.ZipFile(artifact) as archive:
        return archive.read("plan.json")


@pytest.mark.parametrize(("name", "more"), [("language", 0), ("language", 1 << 20), ("layers", 32768)])
def test_replanned_is_as_compiled(name: str, more: int, folder: Path, tmp_path: Path) -> None:
    compiled, replanned = tmp_path / "compiled.occ", tmp_path / "replanned.occ"
    budget = smallest_budget(folder / f"{name}.py") + more
    assert occ("compile", folder / f"{name}.py", "--budget", budget, "-o", compiled).code == 0
    done = occ("replan", folder / f"{name}.occ", "--budget", budget, "-o", replanned)
    assert (done.code, done.err) == (0, "")
    assert plan_json(replanned) == plan_json(compiled)
    assert replanned.read_bytes() == compiled.read_bytes()
    assert occ("verify", replanned).code == 0


def test_replan_onto_itself(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.occ"
    path.write_bytes((folder / "language.occ").read_bytes())
    assert occ("replan", path, "--budget", "unlimited", "-o", path).code == 0
    plan = only_json(occ("inspect", path, "--json"))
    assert plan["budget"]["limit"] is None
    assert plan["loads"] == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.occ"]


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCC_CACHE_DIR", str(tmp_path / "cache"))
    where = {"cache": str(tmp_path / "cache")}
    assert only_json(occ("cache", "--json")) == {**where, "nbytes": 0, "deleted": False}
    cache.write_bytes("something.json", b"12345")
    assert occ("cache").out == f"{tmp_path / 'cache'}: 5 B\n"
    assert only_json(occ("cache", "--clear", "--json")) == {**where, "nbytes": 5, "deleted": True}
    assert not (tmp_path / "cache").exists()


def test_every_command_is_described() -> None:
    """On the page by hand; the options are on the one that is made from the parser."""
    page = (Path(__file__).parent.parent / "docs" / "commands.md").read_text()
    [commands] = [action for action in cli._parser()._actions if isinstance(action.choices, dict)]
    assert isinstance(commands.choices, dict)
    for name, parser in commands.choices.items():
        assert f"\nocc {name} " in page
        assert f"\n## {name}" in page
        for action in parser._actions:
            assert action.help, f"occ {name} {action.dest} has no help"


def test_help_and_version() -> None:
    for arguments in (["--help"], ["compile", "--help"], ["--version"]):
        done = occ(*arguments)
        assert (done.code, done.err) == (0, "")
        assert "occ" in done.out


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    with subprocess.Popen(
        command("inspect", folder / "picture.occ", "--program"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
