"""The page as text: self-contained, safe with any name, the same each time."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

from occ.ir import Plan
from occ.passes.timing import predicted_timeline
from occ.report.html import html_page
from occ.report.spans import picture
from tests.report.planned import planned, stack
from tests.tiny_plans import EXAMPLES

PLAN = planned(stack(12), 0.3)


def embedded(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="plan">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, object] = json.loads(found.group(1))
    return data


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def test_it_asks_for_nothing_from_outside() -> None:
    page = html_page(PLAN, PLAN.program)
    elements = Elements(page)
    for tag, attributes in elements.found:
        assert "src" not in attributes
        assert tag != "link"
        assert not (attributes.get("href") or "#").strip("#").startswith(("http", "//"))
    assert "http://" not in page
    assert "https://" not in page
    policies = [
        attributes["content"] or "" for tag, attributes in elements.found if "http-equiv" in attributes
    ]
    assert "default-src 'none'" in policies[0]


def test_it_is_the_same_each_time() -> None:
    assert html_page(PLAN, PLAN.program) == html_page(PLAN, PLAN.program)


def test_its_data_is_the_plan() -> None:
    data = embedded(html_page(PLAN, PLAN.program))
    drawn = picture(PLAN)
    assert data["spans"]["offset"] == [span.offset for span in drawn.spans]  # type: ignore[index]
    timeline = predicted_timeline(PLAN)
    assert timeline.latency == PLAN.prediction.latency
    assert timeline.stall == PLAN.prediction.stall
    waits = data["steps"]["wait"]  # type: ignore[index]
    assert waits == [round(wait * 1e9) for wait in timeline.waits]
    assert data["latency"] == round(timeline.latency * 1e9)
    assert data["arena"] == PLAN.budget.arena
    assert data["room"] == PLAN.budget.limit - PLAN.budget.outputs - PLAN.budget.workspace  # type: ignore[operator]


def test_names_cannot_break_out() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"
    program = PLAN.program
    named = replace(
        PLAN,
        program=replace(
            program,
            name=evil,
            buffers=tuple(replace(buffer, name=f"{evil}{buffer.id}") for buffer in program.buffers),
            steps=tuple(replace(step, name=evil, module=evil, kernel=evil) for step in program.steps),
        ),
    )
    page = html_page(named, named.program)
    tags = [tag for tag, _ in Elements(page).found]
    clean = [tag for tag, _ in Elements(html_page(PLAN, program)).found]
    assert tags == clean
    assert embedded(page)["model"] == evil


def test_every_kind_of_plan_has_a_page() -> None:
    plans: list[Plan] = [make().plan for make in EXAMPLES.values()]
    for plan in (*plans, planned(stack(3))):
        text = " ".join(Elements(html_page(plan, plan.program)).text)
        assert plan.program.name in text
        assert "Largest steps" in text


def test_without_its_script_the_tables_stand() -> None:
    text = " ".join(" ".join(Elements(html_page(PLAN, PLAN.program)).text).split())
    assert "proj_1 blocks.1.proj linear" in text
    assert "blocks.1.proj.weight" in text
    assert "Why the peak is where it is" in text
