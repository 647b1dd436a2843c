"""How the page of a large plan behaves in a browser: `python benchmarks/large_pages.py --models a,b`.

For each network: the page's size, the time from opening it to its first paint, and how long frames take while
the map is panned, zoomed and searched, in a headless Chromium. Plans are made with rough costs, so nothing is
measured but the page. With `--folder` the plans and pages are kept there, and plans found there are used.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from zoo_models import build

from occ.capture import capture
from occ.drafts import PlanningTarget
from occ.errors import BudgetError
from occ.ir import BufferKind, Machine, Plan, Program, Reader, StepCost
from occ.lower import lower
from occ.model_file import as_call
from occ.planning import plan
from occ.report.html import html_page
from occ.runtime_stub.packed import probe
from occ.serialize import plan_from_json, plan_to_json, program_from_json, program_to_json
from tests.report.browser import Browser, browser, chromium
from tests.report.planned import planned as made_of_layers
from tests.report.planned import stack

MODELS = "resnet152,gpt2_medium,mamba_130m,stack"
STACK = "stack"
"""No network, but 1,000 residual blocks of 12 steps: more buffers than any network here has."""

SHARE = 0.2
READER = Reader(bandwidth=2e9, overhead=1e-4, slowdown=1.05)
CALL_SECONDS, FLOPS, BYTES = 5e-6, 180e9, 20e9
"""Rough costs: a call, arithmetic of products, and bytes of operands a second."""

FRAMES = 60
"""Frames of each movement."""

FIRST_PAINT = """new Promise((done) => new PerformanceObserver((list) => {
  for (const { name, startTime } of list.getEntries()) if (name === "first-contentful-paint") done(startTime);
}).observe({ type: "paint", buffered: true }))"""

# Asks for frame after frame, moves before each, and gives the milliseconds between them.
MOVE = """(async () => {
  const canvas = document.querySelector("#overlay");
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const at = { clientX: left + width / 2, clientY: top + height / 3, bubbles: true, cancelable: true };
  const key = (name) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  const wheel = (deltaY) => canvas.dispatchEvent(new WheelEvent("wheel", { ...at, deltaY }));
  const point = (share) => canvas.dispatchEvent(new PointerEvent("pointermove",
    { ...at, clientX: left + 80 + (width - 90) * share, pointerId: 1 }));
  const query = document.querySelector("#query");
  const search = (text) => { query.value = text; query.dispatchEvent(new Event("input")); };
  const frame = () => new Promise(requestAnimationFrame);
  const moves = {
    zoom: (i) => wheel(i % 2 ? 40 : -60),
    pan: (i) => key(i % 20 < 10 ? "ArrowRight" : "ArrowLeft"),
    hover: (i) => point(i / FRAMES),
    search: (i) => search(["weight", "layer", "1", "block conv", ""][i % 5]),
  };
  const found = {};
  for (const [name, move] of Object.entries(moves)) {
    if (name === "pan") for (let i = 0; i < 3; i++) key("+");
    if (name === "hover") key("0");
    const times = [];
    await frame();
    for (let i = 0; i < FRAMES; i++) {
      const before = performance.now();
      move(i);
      await frame();
      // The frame's own work is done when the next task runs.
      await new Promise((done) => {
        const channel = new MessageChannel();
        channel.port1.onmessage = done;
        channel.port2.postMessage(0);
      });
      times.push(performance.now() - before);
    }
    times.sort((a, b) => a - b);
    found[name] = [times[Math.floor(times.length / 2)], times[Math.floor(times.length * 0.95)]];
  }
  return found;
})()""".replace("FRAMES", str(FRAMES))


def rough_costs(program: Program, spin: str, resident: bool = False) -> tuple[StepCost, ...]:
    """A fixed time a call, and its bytes and products at fixed rates."""
    costs = []
    for step in program.steps:
        values = [program.values[value] for value in (*step.reads, *step.outs)]
        weights = [v for v in values if program.buffers[v.buffer].kind is BufferKind.WEIGHT]
        nbytes = sum(value.extent[1] - value.extent[0] for value in values)
        rows = max(
            (program.values[out].shape[0] for out in step.outs if program.values[out].shape), default=1
        )
        products = 2.0 * rows * sum(v.extent[1] - v.extent[0] for v in weights) / 4
        costs.append(StepCost(CALL_SECONDS + max(nbytes / BYTES, products / FLOPS), 65536))
    return tuple(costs)


def planned(name: str, folder: Path) -> tuple[Plan, Program]:
    """The plan of a network (or STACK) at SHARE of its demand, or the least that works, and its source."""
    if name == STACK:
        program = stack(1000, steps_a_layer=12, name=STACK)
        return made_of_layers(program, SHARE), program
    paths = [folder / f"{name}.{part}.json" for part in ("plan", "source")]
    if all(path.exists() for path in paths):
        return plan_from_json(paths[0].read_bytes()), program_from_json(paths[1].read_bytes())
    torch.manual_seed(0)
    model = build(name)
    captured = capture(model.module, as_call(model.example_inputs))
    source = lower(captured, name, pack=bool(probe())).program
    machine = Machine("cpu", 2, "passive", torch.__version__, "rough", "0" * 64)
    target = PlanningTarget(rough_costs, READER, machine, "passive")
    try:
        made = plan(source, int(source.demand * SHARE), target)
    except BudgetError as error:
        made = plan(source, error.smallest, target)
    paths[0].write_text(plan_to_json(made))
    paths[1].write_text(program_to_json(source))
    return made, source


def row_of(name: str, folder: Path, opened: Browser) -> str:
    """The measurements of one network's page. Raises RuntimeError where the page reports an error."""
    made, source = planned(name, folder)
    began = time.perf_counter()
    text = html_page(made, source)
    seconds = time.perf_counter() - began
    page = folder / f"{name}.html"
    page.write_text(text)
    opened.problems.clear()
    opened.open(page, 1500, 1000)
    paint = opened.run(FIRST_PAINT)
    drawn = opened.run("performance.now()")
    moves = opened.run(MOVE)
    if opened.problems:
        raise RuntimeError(f"{name}: {opened.problems[0]}")
    shown = ", ".join(f"{move} {median:.0f} ({worst:.0f}) ms" for move, (median, worst) in moves.items())
    spans = len(made.buffer_offsets) + len(made.sizing.tiles)
    return (
        f"{name}: {len(made.program.steps)} steps, {spans} buffers and tiles, page {len(text) / 1e6:.2f} MB"
        f" made in {seconds:.1f} s, first paint {paint:.0f} ms, drawn by {drawn:.0f} ms; frames {shown}"
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default=MODELS, help="names of the zoo, separated by commas")
    parser.add_argument("--folder", type=Path, help="where plans and pages are kept; default: nowhere")
    options = parser.parse_args(arguments)
    binary = chromium()
    if binary is None:
        print("error: no Chromium is installed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary, browser(binary) as opened:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.models.split(","):
            print(row_of(name, folder, opened), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
