"""A model's answer as a terminal may show it: Markdown that can do nothing but be read.

Links, images, HTML, references and entities are not interpreted, so that each is shown as it was written: nothing is
clickable, nothing is hidden, and no character comes out of an entity that `ui.sanitise` would have replaced. Code is
not highlighted: the model would choose which of some hundred lexers reads its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Markdown, MarkdownElement, TextElement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from minisheep.ui.sanitise import sanitise

NOT_INTERPRETED = ("link", "image", "autolink", "html_inline", "html_block", "reference", "entity")
"""Rules of markdown-it that are switched off."""
GAP = 3
"""Columns between two answers side by side."""


class _Code(TextElement):
    """A block of code as plain text."""

    style_name = "markdown.code_block"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Padding(Text(self.text.plain.rstrip("\n"), style=console.get_style("markdown.code_block")), (0, 2))


class SafeMarkdown(Markdown):
    """Model text as Markdown; sanitised first."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "fence": _Code, "code_block": _Code}

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        self.markup = sanitise(text)
        parser = MarkdownIt().enable(["strikethrough", "table"]).disable(list(NOT_INTERPRETED))
        self.parsed = parser.parse(self.markup)


class Tail:
    """The last lines of what grows, as many as the terminal has room for."""

    def __init__(self, inner: RenderableType, spare: int = 2) -> None:
        self._inner, self._spare = inner, spare

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._inner, options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - self._spare) :]:
            yield from line
            yield Segment.line()


def side_by_side(titles: Sequence[str], texts: Sequence[str]) -> RenderableType:
    """Answers in columns of the same width, each under its title; one alone has none."""
    if len(texts) == 1:
        return SafeMarkdown(texts[0])
    table = Table.grid(padding=(0, GAP, 0, 0), expand=True)
    for _ in texts:
        table.add_column(ratio=1)
    table.add_row(*(Text(title, style="bold") for title in titles))
    table.add_row(*(SafeMarkdown(text) for text in texts))
    return table


class Flow:
    """Sanitises text that comes in parts, as if it had come in one."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, part: str) -> str:
        """What may be shown of it now: a carriage return waits for what comes after it."""
        text = self._held + part
        self._held = "\r" if text.endswith("\r") else ""
        return sanitise(text.removesuffix("\r") if self._held else text)

    def rest(self) -> str:
        held, self._held = self._held, ""
        return sanitise(held)
