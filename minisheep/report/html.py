"""A report as one HTML page: everything inside, nothing fetched, no script, and all text escaped.

The page is ``data/report.html.jinja``. What stands between its braces becomes markup in one place, the environment made
here: characters that could move or hide text are replaced, then all is escaped for content and attributes.
"""

from __future__ import annotations

from collections.abc import Mapping

from minisheep import __version__
from minisheep.report.blocks import Bars, Document
from minisheep.report.strips import strips
from minisheep.ui.sanitise import sanitise


def page(document: Document, drawings: Mapping[str, str]) -> str:
    """The whole page. `drawings` holds the SVG of each figure by its name, from plots.py; those that are missing are
    replaced by rows of bars, or left out."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("minisheep", "data"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else sanitise(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["bars"] = lambda block: isinstance(block, Bars)
    return environment.get_template("report.html.jinja").render(
        document=document,
        drawings=drawings,
        kind=lambda value: type(value).__name__,
        strips=strips,
        version=__version__,
    )
