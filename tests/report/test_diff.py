"""Two plans side by side."""

from __future__ import annotations

from dataclasses import replace

from occ.ir import Choices
from occ.report.diff import diff_text
from tests.report.planned import planned, stack
from tests.tiny_plans import counter

SOURCE = stack(12)
ALL, FEW = planned(SOURCE), planned(SOURCE, 0.3)


def line(text: str, start: str) -> str:
    [found] = [line for line in text.splitlines() if line.startswith(start)]
    return found


def test_equal_plans_are_said_to_be_equal() -> None:
    assert diff_text(ALL, planned(SOURCE)) == "left and right are the same plan of stack"


def test_figures_stand_side_by_side_with_their_change() -> None:
    text = diff_text(ALL, FEW, SOURCE, ("all.occ", "few.occ"))
    assert text.splitlines()[0].split() == ["all.occ", "few.occ", "change"]
    assert line(text, "arena").endswith(" %")
    assert line(text, "budget").split()[1] == "none"
    assert line(text, "steps").split() == ["steps", "61", "61"]
    assert line(text, "loads").endswith("new")


def test_weights_that_went_to_the_file_are_named_largest_first() -> None:
    text = diff_text(ALL, FEW, SOURCE)
    section = text[text.index("weights kept differently") :].splitlines()[1:]
    assert all("-> 0 B" in entry for entry in section if "blocks" in entry)
    assert "393 kB" in section[0]


def test_cuts_and_gathers_are_named_by_operator() -> None:
    cut = replace(ALL, choices=Choices(splits=((0, "rows", 4),), gathers=(5,)))
    text = diff_text(ALL, cut, SOURCE)
    assert "  operator 0, proj_0 in blocks.0.proj: whole -> 4 parts along rows" in text
    assert "  operator 5, proj_1 in blocks.1.proj: whole -> by row" in text
    assert "operator 0: 4 parts along rows -> whole" in diff_text(cut, ALL)


def test_other_models_and_machines_are_told() -> None:
    text = diff_text(ALL, replace(counter().plan, machine=replace(ALL.machine, threads=8)))
    assert line(text, "model").split() == ["model", "stack", "counter"]
    assert "threads: 2 -> 8" in text
