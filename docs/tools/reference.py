"""The reference pages: what is made from the code and checked to be up to date by the tests."""

from __future__ import annotations

from docs.tools.reference_api import api_page
from docs.tools.reference_cli import cli_page
from docs.tools.reference_kernels import kernels_page

MADE = "*Made by `make docs`: edit the code, not this page.*"


def reference_pages() -> dict[str, str]:
    """The text of each reference page by its path from the repository's root."""
    return {
        "docs/reference-cli.md": cli_page(MADE),
        "docs/reference-api.md": api_page(MADE),
        "docs/kernels.md": kernels_page(MADE),
    }
