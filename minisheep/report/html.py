"""A report as one HTML page: everything inside, nothing fetched, no script, and all text escaped.

Each function below returns markup and takes text; text becomes markup through `text` alone. A policy in the page's head
forbids scripts and requests besides, so that a fault here could still neither run nor send anything.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from importlib import resources

from minisheep import __version__
from minisheep.report.blocks import (
    Bars,
    Block,
    Charts,
    Document,
    Histogram,
    Item,
    Items,
    Paragraph,
    Plot,
    Sample,
    Samples,
    Scatter,
    Section,
    Table,
)
from minisheep.report.strips import strips
from minisheep.ui.sanitise import sanitise

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
LEVELS = {"plain": "", "good": "Good: ", "warning": "Look: "}
"""Said, so that colour is not all that tells them apart."""


def page(document: Document, drawings: Mapping[str, str]) -> str:
    """The whole page. `drawings` holds the SVG of each figure by its name, from plots.py; those that are missing are
    replaced by rows of bars, or left out."""
    style = resources.files("minisheep.report").joinpath("style.css").read_text(encoding="utf-8")
    facts = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in document.facts)
    links = "".join(f'<li><a href="#{s.anchor}">{text(s.title)}</a></li>' for s in document.sections)
    body = "\n".join(_section(section, drawings) for section in document.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(document.title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header>
<h1>{text(document.title)}</h1>
<p class="lead">{text(document.lead)}</p>
<dl class="facts">{facts}</dl>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
<footer>Made by minisheep {text(__version__)} from the run folder alone; the same folder gives the same page.</footer>
</body>
</html>
"""


def text(value: str) -> str:
    """Any text as markup that shows it: no control or direction characters, escaped for content and attributes."""
    return html.escape(sanitise(value), quote=True)


def _section(section: Section, drawings: Mapping[str, str]) -> str:
    blocks = "\n".join(_block(block, drawings) for block in section.blocks)
    if any(isinstance(block, Bars) for block in section.blocks):
        blocks = _side_by_side(section, drawings)
    return f'<section id="{section.anchor}">\n<h2>{text(section.title)}</h2>\n{blocks}\n</section>'


def _side_by_side(section: Section, drawings: Mapping[str, str]) -> str:
    """Bars of all rounds in one grid, then the rest."""
    bars = [block for block in section.blocks if isinstance(block, Bars)]
    most = max((bar.size for block in bars for bar in block.bars), default=0)
    rest = "\n".join(_block(block, drawings) for block in section.blocks if not isinstance(block, Bars))
    return f'<div class="bars">{"".join(_bars(block, most) for block in bars)}</div>\n{rest}'


def _block(block: Block, drawings: Mapping[str, str]) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{text(block.text)}</p>"
    if isinstance(block, Items):
        return f'<ul class="said">{"".join(map(_item, block.items))}</ul>'
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Bars):
        return _bars(block, max((bar.size for bar in block.bars), default=0))
    if isinstance(block, Samples):
        return f'<div class="records">{"".join(map(_sample, block.samples))}</div>'
    return _charts(block, drawings)


def _item(item: Item) -> str:
    level = f'<span class="level">{LEVELS[item.level]}</span>' if LEVELS[item.level] else ""
    command = f'<code class="command">{text(item.command)}</code>' if item.command else ""
    return f'<li class="{item.level}">{level}{text(item.text)}{command}</li>'


def _table(table: Table) -> str:
    looks = ("", ' class="number"')

    def cells(tag: str, row: Iterable[str]) -> str:
        return "".join(f"<{tag}{looks[place >= table.left]}>{text(cell)}</{tag}>" for place, cell in enumerate(row))

    head = cells("th", table.columns)
    rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    caption = f"<caption>{text(table.caption)}</caption>" if table.caption else ""
    # A wide table moves in its own frame, which the keyboard can reach.
    return (
        f'<div class="scroll" tabindex="0"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _bars(block: Bars, most: int) -> str:
    rows = "".join(
        f'<dt>{text(bar.label)}</dt><dd><i class="bar" style="width:{100 * bar.size / (most or 1):.1f}%"></i>'
        f"<span>{text(bar.said)}</span></dd>"
        for bar in block.bars
    )
    return f"<section><h3>{text(block.caption)}</h3><dl>{rows}</dl></section>"


def _charts(block: Charts, drawings: Mapping[str, str]) -> str:
    charts = "".join(_chart(plot, drawings) for plot in block.plots)
    return f'<figure><div class="charts">{charts}</div><figcaption>{text(block.caption)}</figcaption></figure>'


def _chart(plot: Plot, drawings: Mapping[str, str]) -> str:
    wide = " wide" if isinstance(plot, Scatter) else ""
    drawing = drawings.get(plot.name)
    if drawing is not None:
        return f'<div class="chart{wide}" role="img" aria-label="{text(plot.title)}">{drawing}</div>'
    if isinstance(plot, Histogram):
        lines = "\n".join(strips(plot))
        return f'<div class="chart"><h3>{text(plot.title)}</h3><div class="scroll strip">{text(lines)}</div></div>'
    return f'<div class="chart{wide}"><h3>{text(plot.title)}</h3><p>Not drawn: matplotlib is not installed.</p></div>'


def _sample(sample: Sample) -> str:
    marks = "".join(f"<span>{text(mark)}</span>" for mark in sample.marks)
    parts = "".join(
        f'<h4>{name}</h4><div class="text" dir="auto">{text(value)}</div>'
        for name, value in (("Instruction", sample.instruction), ("Input", sample.input), ("Answer", sample.output))
        if value
    )
    return f"<article><header><h3>{text(sample.title)}</h3>{marks}</header>{parts}</article>"
