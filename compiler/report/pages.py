"""What every page is made with: one HTML file that has its style, scripts and data in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import occ


def page(
    template: str, styles: Sequence[str], scripts: Sequence[str] = (), data: object = None, **values: Any
) -> str:
    """The page that a template of `occ.report` makes of `values`, with `data` as JSON for its scripts.

    Style sheets and scripts are put together in the order given. Whatever is no part of the templates is
    text, and cannot become markup. Same arguments, same page.
    """
    loader = PackageLoader("occ.report", "page")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def joined(names: Sequence[str]) -> Markup:
        return Markup("\n".join(loader.get_source(environment, name)[0] for name in names))

    return environment.get_template(template).render(
        version=occ.__version__,
        style=joined(styles),
        script=joined(scripts),
        data=Markup(_embedded(data)),
        **values,
    )


def seconds_text(seconds: float) -> str:
    """A time as the scripts of the pages write it: three digits, and whole nanoseconds."""
    nanoseconds = round(seconds * 1e9)
    for unit, size in (("s", 1e9), ("ms", 1e6), ("\N{MICRO SIGN}s", 1e3)):
        if nanoseconds >= size:
            return f"{float(f'{nanoseconds / size:.3g}'):g} {unit}"
    return f"{nanoseconds} ns"


def _embedded(data: object) -> str:
    """JSON that may stand inside a script element: no text of it can end the element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
