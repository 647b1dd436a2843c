"""Every command in README.md and docs/ is run as a reader would run it, or names only what exists."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from docs.tools.named import missing_in_block, missing_in_prose, missing_links
from docs.tools.pages import ROOT, Kind, blocks, inline, pages, read
from docs.tools.running import Outcome, report, run_page
from occ.host import cpus

Runs = dict[str, Future[list[Outcome]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """All pages, run side by side, those with most code first."""
    texts = {page: read(page) for page in pages()}
    with ThreadPoolExecutor(cpus()) as pool:
        yield {
            page: pool.submit(run_page, page, texts[page], tmp_path_factory.mktemp("page"))
            for page in sorted(texts, key=lambda page: -texts[page].count("```"))
        }


@pytest.mark.parametrize("page", pages())
def test_commands_do_what_the_page_says(page: str, runs: Runs) -> None:
    outcomes = runs[page].result()
    failed = [report(outcome) for outcome in outcomes if outcome.failure]
    assert not failed, "\n".join(failed)
    assert len(outcomes) == len(blocks(page, read(page)))


@pytest.mark.parametrize("page", pages())
def test_what_is_named_exists(page: str) -> None:
    text = read(page)
    missing = [trouble for span in inline(page, text) for trouble in missing_in_prose(span)]
    missing += missing_links(page, text)
    for block in blocks(page, text):
        if block.kind is Kind.NAMED:
            missing += missing_in_block(block)
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("page", pages())
def test_quoted_code_is_in_the_file(page: str) -> None:
    for block in blocks(page, read(page)):
        if block.kind is Kind.QUOTED:
            source = (ROOT / block.subject).read_text()
            assert squeezed(block.text) in squeezed(source), f"{page}:{block.line}: not in {block.subject}"


def squeezed(text: str) -> str:
    """Without indentation, line breaks, and what only a line break or a quotation asks for: commas, and
    parentheses around an entry of a tuple."""
    return "".join(text.split()).replace(",)", ")").removeprefix("(").removesuffix(")")
