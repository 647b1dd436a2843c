"""The page in a browser: it draws, answers to pointer, wheel, keys and search, and reports no errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from occ.report.html import html_page
from tests.report.browser import Browser, browser, chromium
from tests.report.planned import planned, stack

BINARY = chromium()
pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed, so the page is NOT tested")

GUTTER = 90
"""Pixels at the left of the map that hold its axis, and some."""


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    assert BINARY is not None
    with browser(BINARY) as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a streaming plan, and of one with 12,000 steps and more buffers."""
    folder = tmp_path_factory.mktemp("pages")
    large = planned(stack(1000, steps_a_layer=12, name="large"), 0.2)
    assert len(large.program.steps) > 12_000
    assert len(large.buffer_offsets) > 10_000
    pages = {"small": planned(stack(12), 0.3), "large": large}
    for name, plan in pages.items():
        (folder / f"{name}.html").write_text(html_page(plan, plan.program))
    return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture
def page(opened: Browser, files: dict[str, Path]) -> Iterator[Browser]:
    opened.problems.clear()
    opened.open(files["small"])
    yield opened
    assert not opened.problems


def colours(page: Browser) -> set[tuple[int, ...]]:
    """Some of the colours of the map's canvas."""
    found = page.run(
        """(() => {
          const canvas = document.querySelector("#base");
          const copy = new OffscreenCanvas(canvas.width, canvas.height);
          const pen = copy.getContext("2d", { willReadFrequently: true });
          pen.drawImage(canvas, 0, 0);
          const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
          const found = new Set();
          for (let i = 0; i < data.length; i += 4 * 7) found.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
          return [...found];
        })()"""
    )
    return {tuple(map(int, colour.split(","))) for colour in found}


def variable(page: Browser, name: str) -> tuple[int, ...]:
    """A colour of the style sheet."""
    text = page.run(f"getComputedStyle(document.documentElement).getPropertyValue({json.dumps('--' + name)})")
    return tuple(bytes.fromhex(str(text).strip().lstrip("#")))


def search(page: Browser, query: str) -> None:
    page.run("document.querySelector('#query').focus()")
    page.run("document.querySelector('#query').select()")
    page.type(query)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_kind_is_drawn_in_its_colour(page: Browser, files: dict[str, Path], scheme: str) -> None:
    page.open(files["small"], scheme=scheme)
    drawn = colours(page)
    for kind in ("resident", "streamed", "activation", "state", "stall", "compute"):
        assert variable(page, kind) in drawn, kind


def test_search_finds_by_module_and_walks(page: Browser) -> None:
    search(page, "blocks.7. weight")
    assert page.text("#found") == "1 found"
    page.key("Enter")
    assert page.text("#details h3") == "blocks.7.proj.weight"
    assert "blocks.7.proj.weight" in page.text("#spoken")
    search(page, "BLOCKS.7")
    assert int(page.text("#found").split()[0]) > 3
    search(page, "nothing like it")
    assert page.text("#found") == "0 found"


def test_pointing_names_what_lies_there_and_a_click_keeps_it(page: Browser) -> None:
    search(page, "act_5_0")
    page.key("Enter")
    page.run("document.querySelector('#overlay').focus()")
    page.key("Enter")
    left, top, width, height = page.box("#overlay")
    middle = (left + GUTTER + (width - GUTTER) / 2, top + height * 0.33)
    page.key("Escape")
    page.mouse("mouseMoved", *middle)
    assert page.text("#tip").startswith("act_5_0")
    details = page.text("#details")
    for fact in ("16,384 (16.4 kB)", "blocks.5.act", "0x", "lifetime", "steps 26 to 27", "OVERWRITES"):
        assert fact.lower() in details.lower()
    page.mouse("mousePressed", *middle, button="left", clickCount=1)
    page.mouse("mouseReleased", *middle, button="left", clickCount=1)
    page.mouse("mouseMoved", left + GUTTER, top + 20)
    assert page.text("#details h3") == "act_5_0"


def test_wheel_keys_drag_and_buttons_change_the_view(page: Browser) -> None:
    left, top, width, height = page.box("#overlay")
    middle = (left + width / 2, top + height / 3)
    pictures = [page.run("document.querySelector('#base').toDataURL()")]

    def changed() -> bool:
        pictures.append(page.run("document.querySelector('#base').toDataURL()"))
        return bool(pictures[-1] != pictures[-2])

    page.mouse("mouseWheel", *middle, deltaX=0, deltaY=-300)
    assert changed()
    page.mouse("mousePressed", *middle, button="left", clickCount=1)
    page.mouse("mouseMoved", middle[0] - 60, middle[1] + 40, button="left", buttons=1)
    page.mouse("mouseReleased", middle[0] - 60, middle[1] + 40, button="left", clickCount=1)
    assert changed()
    page.run("document.querySelector('#overlay').focus()")
    for key in ("ArrowLeft", "ArrowUp", "+", "-", "1", "0"):
        page.key(key)
        assert changed(), key
    assert pictures[-1] == pictures[0]
    for selector in ("#zoom-in", "#zoom-out", "#zoom-pool", "#zoom-fit", 'label:has([value="time"])'):
        page.click(selector)
        assert changed() or selector == "#zoom-out", selector


def test_keys_walk_through_buffers(page: Browser) -> None:
    page.run("document.querySelector('#overlay').focus()")
    page.key("n")
    first = page.text("#spoken")
    page.key("n")
    assert page.text("#spoken") != first
    page.key("p")
    assert page.text("#spoken") == first
    page.key("Escape")
    assert "Point at the map" in page.text("#details")


def test_the_lanes_tell_steps_and_loads(page: Browser) -> None:
    left, top, width, height = page.box("#overlay")
    page.mouse("mouseMoved", left + width / 2, top + height * 0.8)
    assert "in use" in page.text("#details")
    assert "kernel" in page.text("#details")
    lane = range(int(top + height * 0.85), int(top + height - 30), 4)
    told = []
    for y in lane:
        page.mouse("mouseMoved", left + width / 2, y)
        told.append(page.text("#details"))
    assert any(text.startswith("load of blocks") for text in told)


def test_the_table_sorts_and_leads_to_the_map(page: Browser) -> None:
    page.click('th[data-sort="wait"]')
    assert page.text("#steps tbody tr td:nth-child(8)")
    assert page.run("document.querySelector('th[data-sort=wait]').getAttribute('aria-sort')") == "descending"
    page.click("#steps tbody tr")
    assert page.text("#steps tbody tr td:nth-child(2)") in page.text("#details")


def test_use_matches_the_tables_made_without_a_script(page: Browser) -> None:
    before = page.text("#steps tbody")
    page.click('th[data-sort="work"]')
    page.click('th[data-sort="use"]')
    assert [line.split("\t")[:5] for line in page.text("#steps tbody").splitlines()] == [
        line.split("\t")[:5] for line in before.splitlines()
    ]


def test_printing_uses_the_light_colours(page: Browser, files: dict[str, Path]) -> None:
    page.open(files["small"], scheme="dark")
    dark = variable(page, "resident")
    page.run("window.dispatchEvent(new Event('beforeprint'))")
    light = variable(page, "resident")
    assert light != dark
    assert light in colours(page)
    page.run("window.dispatchEvent(new Event('afterprint'))")
    assert dark in colours(page)


def test_a_large_plan_draws_and_answers(opened: Browser, files: dict[str, Path]) -> None:
    opened.problems.clear()
    opened.open(files["large"])
    assert variable(opened, "activation") in colours(opened)
    search(opened, "blocks.777 weight")
    opened.key("Enter")
    assert opened.text("#details h3") == "blocks.777.proj.weight"
    left, top, width, height = opened.box("#overlay")
    for _ in range(5):
        opened.mouse("mouseWheel", left + width / 2, top + height / 3, deltaX=0, deltaY=-300)
    opened.mouse("mouseMoved", left + width / 2, top + height * 0.8)
    assert "in use" in opened.text("#tip")
    opened.click('label:has([value="time"])')
    opened.mouse("mouseMoved", left + width / 2, top + height / 3)
    assert not opened.problems


def test_it_opens_on_the_addresses_whose_contents_change(opened: Browser, files: dict[str, Path]) -> None:
    opened.problems.clear()
    opened.open(files["large"])
    picture = "document.querySelector('#base').toDataURL()"
    first = opened.run(picture)
    opened.run("document.querySelector('#overlay').focus()")
    opened.key("0")
    assert opened.run(picture) != first
    opened.key("1")
    assert opened.run(picture) == first
    assert not opened.problems
