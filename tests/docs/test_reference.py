"""The reference pages say what the code says."""

from __future__ import annotations

import pytest

from docs.tools.pages import read
from docs.tools.reference import reference_pages

PAGES = reference_pages()


@pytest.mark.parametrize("page", PAGES)
def test_reference_pages_are_up_to_date(page: str) -> None:
    assert read(page) == PAGES[page], f"{page} is out of date; run make docs"
