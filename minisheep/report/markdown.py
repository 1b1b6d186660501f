"""The same report as Markdown: for terminals, reviews and tools. Figures are rows of bars, or the numbers themselves.

Model text stands in fenced blocks whose fence is longer than any in it; everything else is escaped so that no renderer
takes it for markup, HTML or a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from minisheep.report.blocks import (
    Bars,
    Block,
    Charts,
    Curves,
    Document,
    Histogram,
    Item,
    Items,
    Paragraph,
    Plot,
    Sample,
    Samples,
    Section,
    Table,
)
from minisheep.report.strips import strips
from minisheep.ui.sanitise import one_line, sanitise

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$])")
_AT_START = re.compile(r"^([0-9]*)([-+.)#=])")
# What renderers turn into links by themselves.
_LINKED = re.compile(r"(?i)(?<=\w)(:)(?=//)|(?<=www)(\.)|(@)")
_TICKS = re.compile("`+")


def markdown(document: Document) -> str:
    facts = Table(("", ""), document.facts, left=2)
    parts = [f"# {inline(document.title)}", paragraph(document.lead), *_table(facts)]
    for section in document.sections:
        parts += _section(section)
    return "\n\n".join(part for part in parts if part) + "\n"


def inline(value: str) -> str:
    """Any text on one line, as Markdown that shows it, for a place within a line."""
    line = _SPECIAL.sub(r"\\\1", one_line(value).replace("&", "&amp;"))
    return _LINKED.sub(lambda found: f"&#{ord(found[0])};", line)


def paragraph(value: str) -> str:
    """Any text as a paragraph or a list item that begins nothing else."""
    return _AT_START.sub(r"\1\\\2", inline(value))


def fenced(value: str) -> str:
    """Any text as a block of code that it cannot end."""
    told = sanitise(value)
    longest = max((len(ticks) for ticks in _TICKS.findall(told)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{told}\n{fence}"


def _section(section: Section) -> list[str]:
    return [f"## {inline(section.title)}", *(part for block in section.blocks for part in _block(block))]


def _block(block: Block) -> list[str]:
    if isinstance(block, Paragraph):
        return [paragraph(block.text)]
    if isinstance(block, Items):
        return ["\n".join(_item(item) for item in block.items)]
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Bars):
        return _table(Table((block.caption, "number"), tuple((bar.label, bar.said) for bar in block.bars)))
    if isinstance(block, Samples):
        return [part for sample in block.samples for part in _sample(sample)]
    return _charts(block)


def _item(item: Item) -> str:
    level = {"plain": "", "good": "Good: ", "warning": "Look: "}[item.level]
    command = "\n\n" + "\n".join(f"  {line}" for line in fenced(item.command).split("\n")) if item.command else ""
    return f"- {level}{inline(item.text) if level else paragraph(item.text)}{command}"


def _table(table: Table) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    marks = ["---" if place < table.left else "---:" for place in range(len(table.columns))]
    lines = [line(map(inline, table.columns)), line(marks), *(line(map(inline, row)) for row in table.rows)]
    return ["\n".join(lines), paragraph(table.caption)] if table.caption else ["\n".join(lines)]


def _charts(block: Charts) -> list[str]:
    parts = [part for plot in block.plots for part in _plot(plot)]
    return [*parts, paragraph(block.caption)]


def _plot(plot: Plot) -> list[str]:
    title = f"**{inline(plot.title)}**"
    if isinstance(plot, Histogram):
        return [title, fenced("\n".join(strips(plot)))]
    if isinstance(plot, Curves):
        return [title, *_curves(plot)]
    return [f"{title} is drawn in report.html."]


def _curves(plot: Curves) -> list[str]:
    """The points as a table; of a long curve every tenth part."""
    places = sorted({point.x for _, points in plot.series for point in points})
    if len(places) > 12:
        places = [places[i * (len(places) - 1) // 10] for i in range(11)]
    known = [(label, {point.x: point for point in points}) for label, points in plot.series]
    rows = []
    for x in places:
        cells = []
        for _, points in known:
            point = points.get(x)
            told = "-" if point is None else f"{point.y:.3f}"
            if point is not None and point.low is not None and point.high is not None:
                told += f" ({point.low:.3f} to {point.high:.3f})"
            cells.append(told)
        rows.append((plot.ticks.get(int(x), f"{x:g}"), *cells))
    first = "round" if plot.ticks else "step"
    return _table(Table((first, *(label for label, _ in known)), tuple(rows)))


def _sample(sample: Sample) -> list[str]:
    parts = [f"### {inline(sample.title)}", paragraph(", ".join(sample.marks))]
    for name, value in (("Instruction", sample.instruction), ("Input", sample.input), ("Answer", sample.output)):
        if value:
            parts += [f"{name}:", fenced(value)]
    return parts
