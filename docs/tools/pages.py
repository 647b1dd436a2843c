"""A Markdown page as the code blocks in it, and what is to be done with each.

docs/README.md says how pages are written; this module reads them so. Nothing is passed over: a block of which
it cannot say what it is for is a PageError.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class PageError(Exception):
    """A page that breaks the rules of docs/README.md. The text names page, line and rule."""


class Kind(Enum):
    """What a code block is for."""

    SHELL = "run by bash"
    DEVICE = "run by bash on the device: another folder, and a Python without occ"
    PYTHON = "run in the page's Python"
    FILE = "written to the file that the line above it names"
    OUTPUT = "what the commands above it print"
    QUOTED = "lines of a file of the repository"
    NAMED = "commands that cannot be run by a test; what they name must exist"
    FIGURE = "no commands: a drawing, a formula"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block. `line` is that of its opening fence, counted from 1.

    `subject` is the file's name of a FILE or QUOTED block, and the reason of a NAMED one or of an OUTPUT that
    `varies` from machine to machine, so that only its first line with words is compared.
    """

    page: str
    line: int
    kind: Kind
    language: str
    text: str
    subject: str = ""
    varies: bool = False


@dataclass(frozen=True, slots=True)
class Inline:
    """A code span within prose."""

    page: str
    line: int
    text: str


_FENCE = re.compile(r"```(\S*)\s*$")
_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->\s*$")
_DIRECTIVES = {
    "not run": Kind.NAMED,
    "on the device": Kind.DEVICE,
    "output": Kind.OUTPUT,
    "output varies": Kind.OUTPUT,
    "quoted from": Kind.QUOTED,
}
_REASONED = {"not run", "output varies", "quoted from"}
_CAPTION = re.compile(r"`([\w./-]+)`(?: \([^)]*\))?:$")
_COMMAND = re.compile(r"^\s*(?:\$ )?(?:occ|make|python|pip|docker|scp)\s+[\w./-]", re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def pages() -> tuple[str, ...]:
    """The pages whose commands are run, relative to the repository's root."""
    return ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text()


def blocks(page: str, text: str) -> tuple[Block, ...]:
    """The code blocks of a page in order. Raises PageError."""
    lines = text.splitlines()
    found: list[Block] = []
    below = 0
    for opening, closing in _fences(page, lines):
        match = _FENCE.match(lines[opening])
        assert match is not None
        above = [line for line in lines[below:opening] if line.strip()]
        adjacent = all(_COMMENT.match(line) for line in above)
        block = _block(
            page,
            opening + 1,
            match[1],
            "".join(f"{line}\n" for line in lines[opening + 1 : closing]),
            above[-1].strip() if above else "",
            found[-1] if found and adjacent else None,
        )
        found.append(block)
        below = closing + 1
    return tuple(found)


def inline(page: str, text: str) -> tuple[Inline, ...]:
    """The code spans of a page, those in code blocks left out. Raises PageError."""
    lines = text.splitlines()
    for opening, closing in _fences(page, lines):
        lines[opening : closing + 1] = [""] * (closing + 1 - opening)
    return tuple(
        Inline(page, number, match[1].replace("\\|", "|"))
        for number, line in enumerate(lines, 1)
        for match in _SPAN.finditer(line)
    )


def _fences(page: str, lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The lines (from 0) of each opening and closing fence."""
    opening: int | None = None
    for number, line in enumerate(lines):
        if line.startswith("```"):
            if opening is None:
                opening = number
            else:
                yield opening, number
                opening = None
        elif opening is None:
            _check_prose(page, lines, number)
    if opening is not None:
        raise PageError(f"{page}:{opening + 1}: the code block is never closed")


def _check_prose(page: str, lines: Sequence[str], number: int) -> None:
    """Raise PageError for a code block without fences: nothing would say what it is for."""
    line = lines[number]
    if line.lstrip().startswith("```"):
        raise PageError(f"{page}:{number + 1}: a code block begins at the margin")
    if line.startswith("    ") and (number == 0 or not lines[number - 1].strip()):
        raise PageError(f"{page}:{number + 1}: an indented code block; write it between fences")


def _block(page: str, line: int, language: str, text: str, above: str, before: Block | None) -> Block:
    """`above` is the last line of text before the block, `before` the block that it follows without prose."""
    where = f"{page}:{line}"
    if comment := _COMMENT.match(above):
        name, _, reason = comment[1].partition(":")
        if name not in _DIRECTIVES:
            raise PageError(f"{where}: no directive is called {name!r}; there are {', '.join(_DIRECTIVES)}")
        if (name in _REASONED) != bool(reason.strip()):
            raise PageError(f"{where}: write <!-- {name}{': ...' if name in _REASONED else ''} -->")
        return Block(page, line, _DIRECTIVES[name], language, text, reason.strip(), name == "output varies")
    caption = _CAPTION.search(above)
    if caption and language and language != "text" and before is None:
        return Block(page, line, Kind.FILE, language, text, caption[1])
    if language == "sh":
        return Block(page, line, Kind.SHELL, language, text)
    if language == "python":
        return Block(page, line, Kind.PYTHON, language, text)
    if language == "text":
        if before is not None and before.kind in (Kind.SHELL, Kind.DEVICE, Kind.PYTHON):
            return Block(page, line, Kind.OUTPUT, language, text)
        if _COMMAND.search(text):
            raise PageError(f"{where}: commands in a block that is not run; write ```sh")
        return Block(page, line, Kind.FIGURE, language, text)
    raise PageError(
        f"{where}: a code block is sh, python or text, or has a file's name above it, not {language!r}"
    )
