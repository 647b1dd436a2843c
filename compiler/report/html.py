"""A plan as one HTML page that needs nothing but a browser: `occ inspect --html`."""

from __future__ import annotations

from dataclasses import dataclass

from occ.ir import Plan, Program
from occ.passes.timing import Timeline, predicted_timeline
from occ.report.page_data import page_data
from occ.report.pages import page, seconds_text
from occ.report.peak import peak_story
from occ.report.spans import ArenaPicture, Occupancy, SpanKind, picture
from occ.report.text import claim, proof, summary
from occ.units import format_bytes

SCRIPTS = (
    "format.js",
    "dom.js",
    "model.js",
    "axis.js",
    "palette.js",
    "lanes.js",
    "map.js",
    "strips.js",
    "inspector.js",
    "table.js",
    "steps.js",
    "main.js",
)
"""In the order in which they build on each other."""

ROWS = 25
"""Rows of the tables that the page has without its script."""

LEGEND = (
    ("resident", "resident weights", "read once, kept across runs"),
    ("streamed", "streamed weights", "read again in every run"),
    ("loading", "being loaded", "taken from issue to deadline, not usable yet"),
    ("activation", "activations", "written and read by steps"),
    ("state", "state", "kept across runs"),
    ("scratch", "scratch", "dead after its step"),
    ("stall", "stall", "a step waits for a load"),
)


@dataclass(frozen=True, slots=True)
class StepRow:
    """A row of the table of the fullest steps; every cell as text."""

    index: int
    name: str
    module: str
    kernel: str
    time: str
    wait: str
    in_use: str
    weights_on_way: str
    workspace: str


@dataclass(frozen=True, slots=True)
class BufferRow:
    """A row of the table of the largest buffers; every cell as text."""

    name: str
    module: str
    kind: str
    nbytes: str
    addresses: str
    steps: str


def html_page(plan: Plan, source: Program) -> str:
    """The page: memory map, bytes in use, timeline, why the peak is where it is, the fullest steps.

    `source` is the unsplit program that the plan was made from. Times are those of the time model. The page
    is self-contained: style, script and data are inside it, and it asks the network for nothing. Same
    arguments, same text.
    """
    drawn = picture(plan)
    occupancy = drawn.occupancy()
    story = peak_story(plan, source, drawn)
    timeline = predicted_timeline(plan)
    return page(
        "page.html",
        ("base.css", "stage.css", "page.css"),
        SCRIPTS,
        page_data(plan, drawn, timeline, story.step if story else 0),
        model=plan.program.name,
        claim=claim(plan),
        figures=_figures(plan, timeline),
        summary=[line.split(maxsplit=1) for line in summary(plan, source).splitlines()],
        legend=LEGEND,
        story=story,
        step_rows=_step_rows(plan, occupancy, timeline),
        buffer_rows=_buffer_rows(drawn),
        buffer_count=len(drawn.owners),
        steps=len(plan.program.steps),
    )


def _figures(plan: Plan, timeline: Timeline) -> list[tuple[str, str, str]]:
    """(label, figure, what it is made of) of the numbers at the top of the page."""
    budget, placement, prediction = plan.budget, plan.placement, plan.prediction
    resident = sum(plan.sizing.tiles[tile].nbytes for tile in plan.sizing.resident)
    limit = "no limit given" if budget.limit is None else f"of a budget of {format_bytes(budget.limit)}"
    return [
        ("in all", format_bytes(budget.total), limit),
        ("arena", format_bytes(budget.arena), f"bound {format_bytes(placement.bound)}, {proof(plan)}"),
        ("weights", format_bytes(plan.program.weights_nbytes), f"{format_bytes(resident)} of tiles resident"),
        (
            "read per run",
            format_bytes(prediction.streamed_nbytes),
            f"in {len(plan.sizing.loads)} loads" if plan.sizing.loads else "nothing is streamed",
        ),
        (
            "predicted run",
            seconds_text(prediction.latency),
            f"{seconds_text(prediction.stall)} of it waiting for loads",
        ),
        ("steps", str(len(plan.program.steps)), f"first run {seconds_text(prediction.cold_start)}"),
    ]


def _step_rows(plan: Plan, occupancy: Occupancy, timeline: Timeline) -> list[StepRow]:
    program, waits = plan.program, timeline.waits
    fullest = sorted(range(len(program.steps)), key=lambda index: (-occupancy.total[index], index))[:ROWS]
    return [
        StepRow(
            index=index,
            name=program.steps[index].name,
            module=program.steps[index].module,
            kernel=program.steps[index].kernel,
            time=seconds_text(timeline.ends[index] - timeline.starts[index]),
            wait=seconds_text(waits[index]) if waits[index] >= 5e-10 else "",
            in_use=format_bytes(occupancy.total[index]),
            weights_on_way=format_bytes(occupancy.loading[index]) if occupancy.loading[index] else "",
            workspace=format_bytes(plan.costs[index].workspace) if plan.costs[index].workspace else "",
        )
        for index in fullest
    ]


def _buffer_rows(drawn: ArenaPicture) -> list[BufferRow]:
    nouns = {SpanKind.RESIDENT: "resident weights", SpanKind.STREAMED: "streamed weights"}
    spans: dict[int, list[tuple[int, int]]] = {}
    for span in drawn.spans:
        spans.setdefault(span.owner, []).append((span.first, span.last))
    first_span = {span.owner: span for span in reversed(drawn.spans)}
    largest = sorted(first_span.values(), key=lambda span: (-span.nbytes, span.offset, span.first))[:ROWS]
    return [
        BufferRow(
            name=drawn.owners[span.owner].name,
            module=drawn.owners[span.owner].module,
            kind=nouns.get(drawn.owners[span.owner].kind, drawn.owners[span.owner].kind.value),
            nbytes=format_bytes(span.nbytes),
            addresses=f"{span.offset:#x}-{span.end:#x}",
            steps=", ".join(f"{first}-{last - 1}" for first, last in sorted(spans[span.owner])),
        )
        for span in largest
    ]
