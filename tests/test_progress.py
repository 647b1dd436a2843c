"""What is told while a command works: rates and remaining times, on a terminal and elsewhere."""

from __future__ import annotations

from io import StringIO

import pytest

from occ.progress import BYTES, PLAIN_SECONDS, SILENT, Lines, Progress, Shown, Stage, as_progress


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        """What the line shows: what was written since it was last erased."""
        return self.getvalue().rpartition("\r\x1b[K")[2]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("what", "total", "unit", "done", "text"),
    [
        ("measuring", 400, "kernels", 200, "measuring 200 of 400 kernels, 20 a second, 10 s left"),
        ("writing", 1_400_000_000, BYTES, 7 * 10**8, "writing 700 MB of 1.4 GB, 70 MB a second, 10 s left"),
        ("capturing", None, "", 0, "capturing, 10 s"),
        ("measuring", 5, "kernels", 0, "measuring 0 of 5 kernels, 10 s"),
        ("planning", None, "plans", 5, "planning 5 plans, 0.5 a second"),
        ("sweeping", 20, "budgets", 1, "sweeping 1 of 20 budgets, 0.1 a second, 3 min 10 s left"),
        ("sweeping", 999, "budgets", 1, "sweeping 1 of 999 budgets, 0.1 a second, 2 h 46 min left"),
    ],
)
def test_a_stage_says_its_rate_and_what_is_left(
    what: str, total: int | None, unit: str, done: int, text: str
) -> None:
    assert Stage(what, total, unit, 0.0, done).text(10.0) == text


def test_on_a_terminal_one_line_is_rewritten_and_gone_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    terminal, clock = Terminal(), Clock()
    shown = Shown(terminal, clock)
    with shown.stage("measuring", 10, "kernels", ticking=False) as advance:
        advance(1)
        assert terminal.getvalue() == ""
        clock.now += 2
        advance(3)
        assert terminal.shown() == "measuring 4 of 10 kernels, 2 a second, 3 s left"
        with shown.stage("compiling kernels"):
            clock.now += 5
            shown.draw()
            assert terminal.shown() == "compiling kernels, 5 s"
        assert terminal.shown() == ""
        shown.draw()
        assert terminal.shown().startswith("measuring 4 of 10")
        shown("captured 7 operators")
        assert terminal.shown() == ""
    assert terminal.shown() == ""
    assert "\n" not in terminal.getvalue()
    assert capsys.readouterr().out == "[   7.0 s] captured 7 operators\n"


def test_it_goes_on_by_itself_and_stops_with_the_stage() -> None:
    terminal, clock = Terminal(), Clock()
    shown = Shown(terminal, clock)
    with shown.stage("capturing"):
        clock.now += 3
        while not terminal.shown():
            pass
        assert terminal.shown() == "capturing, 3 s"
    assert terminal.shown() == ""


def test_elsewhere_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    stream, clock = StringIO(), Clock()
    with Shown(stream, clock).stage("writing", 100, "pieces") as advance:
        for _ in range(100):
            clock.now += 1
            advance(1)
    assert stream.getvalue() == ""
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 100 // int(PLAIN_SECONDS)
    assert lines[0] == "[  15.0 s] writing 15 of 100 pieces, 1 a second, 85 s left"


def test_an_error_ends_the_stage() -> None:
    terminal, clock = Terminal(), Clock()
    shown = Shown(terminal, clock)

    def fail() -> None:
        with shown.stage("capturing", ticking=False):
            clock.now += 3
            shown.draw()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert terminal.getvalue().count("capturing, 3 s") == 1
    assert terminal.shown() == ""


def test_silence_and_lines_alone() -> None:
    lines: list[str] = []
    for progress in (SILENT, as_progress(lines.append)):
        with progress.stage("capturing", 3, "things") as advance:
            advance(3)
        progress("captured")
    assert lines == ["captured"]
    assert as_progress(SILENT) is SILENT
    assert isinstance(as_progress(print), Lines)
    assert isinstance(Lines(print), Progress)
