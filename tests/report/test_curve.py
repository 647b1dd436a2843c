"""The picture of a sweep: self-contained, complete without a pointer, the same every time."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from occ.errors import UsageError
from occ.report.curve import MARGIN, curve_page, placed
from occ.report.curve_png import write_png
from occ.report.papers import REPORTED, Reference
from occ.report.scale import MOST_TICKS, Axis
from occ.sweep import Sweep, sweep
from tests.planners import plans
from tests.report.browser import browser, chromium
from tests.report.planned import stack

VOID = {"meta"}


@pytest.fixture(scope="module")
def swept() -> Sweep:
    """A sweep of a stack of layers, every other point measured, one budget too small."""
    made = sweep(plans(stack(10)))
    points = tuple(
        replace(point, measured=1.1 * point.predicted if index % 2 else None)
        for index, point in enumerate(made.points)
    )
    return replace(made, points=points, too_small=(4096,), knee=2, eager=1.3 * points[-1].predicted)


class Outline(HTMLParser):
    """Checks that elements are nested, and collects the attributes of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_has_every_point(swept: Sweep) -> None:
    page = curve_page(swept)
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    points = [attributes for _, attributes in outline.found if attributes.get("class") == "point"]
    assert len(points) == len(swept.points)
    for attributes in points:
        assert attributes["tabindex"] == "0"
        assert "predicted latency" in (attributes["aria-label"] or "")
    assert "the knee" in (points[2]["aria-label"] or "")
    rows = 1 + len(swept.points) + 1, 1 + len(REPORTED)
    assert sum(tag == "tr" for tag, _ in outline.found) == sum(rows)
    others = [attributes for _, attributes in outline.found if attributes.get("class") == "other"]
    assert len(others) == len(placed(swept)) + 1
    assert page.count("too small: the smallest that works") == 1
    assert curve_page(swept) == page


def test_the_page_refers_to_nothing_outside(swept: Sweep) -> None:
    page = curve_page(swept)
    assert "default-src 'none'" in page
    for word in ("http:", "https:", "src=", "url(", "@import", "<script"):
        assert word not in page


def test_names_are_text(swept: Sweep) -> None:
    page = curve_page(replace(swept, model="<b>&"))
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page


def test_what_others_report_lies_at_its_share_and_factor(swept: Sweep) -> None:
    resident = swept.points[-1].measured or swept.points[-1].predicted
    found = {each.reported.name: each for each in placed(swept)}
    assert found.keys() == {each.name for each in REPORTED if each.latency is not None}
    assert found["FlexNN"].low == pytest.approx(0.0619 * swept.demand)
    assert found["FlexNN"].seconds == pytest.approx(1.0364 * resident)
    assert found["SwapNet"].low < found["SwapNet"].high
    assert swept.eager is not None
    assert found["Occamy"].seconds == pytest.approx(swept.eager / 1.25)
    without = {each.reported.name for each in placed(replace(swept, eager=None))}
    assert without == {each.reported.name for each in placed(swept)} - {
        each.name for each in REPORTED if each.reference is Reference.EAGER
    }
    assert "eager" not in curve_page(replace(swept, eager=None)).partition("<table")[0].partition("<main>")[2]


def test_a_single_point_is_a_curve_too(swept: Sweep) -> None:
    alone = replace(swept, points=swept.points[:1], knee=None)
    assert 'class="point"' in curve_page(alone)


@given(st.floats(1e-7, 1e12), st.floats(1.0, 1e6))
def test_ticks_lie_on_the_axis_and_are_few(low: float, ratio: float) -> None:
    axis = Axis(low / MARGIN, low * ratio * MARGIN, 0.0, 100.0)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= MOST_TICKS
    assert list(ticks) == sorted(set(ticks))
    for tick in ticks:
        assert -1e-6 <= axis.at(tick) <= 100.0 + 1e-6


def test_a_png_needs_matplotlib_and_says_so(swept: Sweep, tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(UsageError, match=r"occ-compiler\[plot\]"):
            write_png(swept, tmp_path / "curve.png")
        return
    write_png(swept, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="cannot write"):
        write_png(swept, tmp_path / "missing" / "curve.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_points_say_what_they_are_when_they_are_reached(swept: Sweep, tmp_path: Path, scheme: str) -> None:
    binary = chromium()
    if binary is None:
        pytest.skip("no Chromium is installed, so the page is NOT tested")
    (tmp_path / "curve.html").write_text(curve_page(swept))
    shown = (
        "[...document.querySelectorAll('.readout')]"
        ".map((r, i) => getComputedStyle(r).visibility === 'visible' ? i : -1).filter((i) => i >= 0)"
    )
    with browser(binary) as opened:
        opened.open(tmp_path / "curve.html", 1100, 900, scheme)
        assert opened.run(shown) == []
        opened.run("document.querySelectorAll('.point')[3].focus()")
        assert opened.run(shown) == [3]
        ink = opened.run("getComputedStyle(document.querySelector('.readout text')).fill")
        assert ink == ("rgb(22, 25, 29)" if scheme == "light" else "rgb(232, 234, 237)")
        assert opened.problems == []
