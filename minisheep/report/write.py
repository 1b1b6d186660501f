"""Writes a run's report as report.html and report.md, each completely or not at all. Nothing else in the run changes.

The page is ``data/report.html.jinja``; the environment made in `html_page` replaces characters that could move or hide
text, then escapes everything. In Markdown, model text stands in fenced blocks whose fence is longer than any inside;
everything else is escaped, so that no renderer takes it for markup, HTML or a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from minisheep import __version__
from minisheep.errors import UsageError
from minisheep.machine.installing import install_extra
from minisheep.report import blocks, data_sections, distributions, findings, plots, sections
from minisheep.report.gather import Gathered, gather
from minisheep.rules.plain_text import one_line, sanitise
from minisheep.run.files import disk_errors, write_atomic

SECTIONS = (
    ("answers", "Answers before and after", sections.answers_blocks),
    ("metrics", "What each round did to the model", sections.outcome_blocks),
    ("findings", "Findings", findings.findings_blocks),
    ("next", "What to try next", findings.advice_blocks),
    ("constraints", "Constraints, kind by kind", sections.curve_blocks),
    ("funnel", "Data funnel", data_sections.funnel_blocks),
    ("distributions", "Scores, lengths, similarity", distributions.spread_blocks),
    ("training", "Training", sections.training_blocks),
    ("map", "Map of the data", distributions.projection_blocks),
    ("watch", "Variety of the data and health of the judge", data_sections.health_blocks),
    ("kept", "Kept records to read", sections.kept_blocks),
    ("dropped", "Dropped records to read", sections.dropped_blocks),
    ("origins", "Settings, versions, hashes", data_sections.provenance_blocks),
)
"""Anchor, title and what makes the blocks of each section, which is left out without any. What decides comes first, and
what proves it later."""


def document(run: Gathered) -> blocks.Document:
    made = ((anchor, title, tuple(make(run))) for anchor, title, make in SECTIONS)
    sections = tuple(blocks.Section(anchor, title, inner) for anchor, title, inner in made if inner)
    return blocks.Document(findings.title(run), findings.lead(run), findings.facts(run), sections)


def html_page(document: blocks.Document, drawings: Mapping[str, str]) -> str:
    """The whole page, which fetches nothing and has no script.

    `drawings` holds the SVG of each figure by name, from plots.py. Without one, a histogram becomes rows of bars.
    """
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
    environment.tests["bars"] = lambda block: isinstance(block, blocks.Bars)
    return environment.get_template("report.html.jinja").render(
        document=document,
        drawings=drawings,
        kind=lambda value: type(value).__name__,
        text_histogram=blocks.text_histogram,
        version=__version__,
    )


_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$])")
_AT_START = re.compile(r"^([0-9]*)([-+.)#=])")
# Renderers turn these into links.
_LINKED = re.compile(r"(?i)(?<=\w)(:)(?=//)|(?<=www)(\.)|(@)")
_TICKS = re.compile("`+")


def markdown(document: blocks.Document) -> str:
    """The same report as Markdown. Figures become rows of bars or tables of numbers."""
    facts = blocks.Table(("", ""), document.facts, left=2)
    parts = [f"# {inline(document.title)}", paragraph(document.lead), *_table(facts)]
    for section in document.sections:
        parts += [f"## {inline(section.title)}", *(part for block in section.blocks for part in _block(block))]
    return "\n\n".join(part for part in parts if part) + "\n"


def inline(value: str) -> str:
    """Any text as Markdown that shows it, for a place within a line."""
    line = _SPECIAL.sub(r"\\\1", one_line(value).replace("&", "&amp;"))
    return _LINKED.sub(lambda match: f"&#{ord(match[0])};", line)


def paragraph(value: str) -> str:
    """Any text as a paragraph or a list item, never as another block."""
    return _AT_START.sub(r"\1\\\2", inline(value))


def fenced(value: str) -> str:
    """Any text as a block of code that it cannot end."""
    text = sanitise(value)
    longest = max((len(ticks) for ticks in _TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _block(block: blocks.Block) -> list[str]:
    if isinstance(block, blocks.Paragraph):
        return [paragraph(block.text)]
    if isinstance(block, blocks.Items):
        return ["\n".join(_item(item) for item in block.items)]
    if isinstance(block, blocks.Table):
        return _table(block)
    if isinstance(block, blocks.Bars):
        return _table(blocks.Table((block.caption, "number"), tuple((bar.label, bar.text) for bar in block.bars)))
    if isinstance(block, blocks.Samples):
        return [part for sample in block.samples for part in _sample(sample)]
    if isinstance(block, blocks.SideBySide):
        parts = [fenced(block.instruction), *([paragraph(block.note)] if block.note else [])]
        return [*parts, *(part for title, answer in block.answers for part in (f"{inline(title)}:", fenced(answer)))]
    if isinstance(block, blocks.Fold):
        return [f"### {inline(block.title)}", *(part for inner in block.blocks for part in _block(inner))]
    return [*(part for plot in block.plots for part in _plot(plot)), paragraph(block.caption)]


def _item(item: blocks.ListItem) -> str:
    level = {"plain": "", "good": "Good: ", "warning": "Warning: "}[item.level]
    command = "\n\n" + "\n".join(f"  {line}" for line in fenced(item.command).split("\n")) if item.command else ""
    return f"- {level}{inline(item.text) if level else paragraph(item.text)}{command}"


def _table(table: blocks.Table) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    marks = ["---" if place < table.left else "---:" for place in range(len(table.columns))]
    lines = [line(map(inline, table.columns)), line(marks), *(line(map(inline, row)) for row in table.rows)]
    return ["\n".join(lines), paragraph(table.caption)] if table.caption else ["\n".join(lines)]


def _plot(plot: blocks.Plot) -> list[str]:
    title = f"**{inline(plot.title)}**"
    if isinstance(plot, blocks.HistogramBlock):
        return [title, fenced("\n".join(blocks.text_histogram(plot)))]
    if isinstance(plot, blocks.Curves):
        return [title, *_curves(plot)]
    return [f"{title} is only in report.html."]


def _curves(plot: blocks.Curves) -> list[str]:
    """The points as a table; of a long curve only eleven of them."""
    places = sorted({point.x for _, points in plot.series for point in points})
    if len(places) > 12:
        places = [places[i * (len(places) - 1) // 10] for i in range(11)]
    known = [(label, {point.x: point for point in points}) for label, points in plot.series]
    rows = []
    for x in places:
        cells = []
        for _, points in known:
            point = points.get(x)
            cell = "-" if point is None else f"{point.y:.3f}"
            if point is not None and point.low is not None and point.high is not None:
                cell += f" ({point.low:.3f} to {point.high:.3f})"
            cells.append(cell)
        rows.append((plot.ticks.get(int(x), f"{x:g}"), *cells))
    first = "round" if plot.ticks else "step"
    return _table(blocks.Table((first, *(label for label, _ in known)), tuple(rows)))


def _sample(sample: blocks.Sample) -> list[str]:
    parts = [f"### {inline(sample.title)}", paragraph(", ".join(sample.marks))]
    for name, value in (("Instruction", sample.instruction), ("Input", sample.input), ("Answer", sample.output)):
        if value:
            parts += [f"{name}:", fenced(value)]
    return parts


FOLDER = "report"


@dataclass(frozen=True, slots=True)
class Written:
    html: Path
    markdown: Path
    notes: tuple[str, ...]
    """What could not be read, and whether pictures are missing."""


def write(run: str | Path, out: str | Path | None = None) -> Written:
    """Write the report of `run` into the folder `out`, by default ``report`` in the run.

    Raises `errors.UsageError` if `run` is no run or `out` cannot be written, and `errors.DiskError`.
    """
    gathered = gather(run)
    folder = Path(out) if out is not None else gathered.path / FOLDER
    report = document(gathered)
    drawable = plots.available()
    drawings = plots.drawn(report.plots) if drawable else {}
    texts = {"report.html": html_page(report, drawings), "report.md": markdown(report)}
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomic(folder / name, text.encode("utf-8"))
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror}. The run has not changed.", "Give another --out FOLDER."
        ) from None
    missing = f"The report has no pictures, since matplotlib is not installed: {install_extra('plots')}."
    notes = gathered.notes if drawable else (*gathered.notes, missing)
    return Written(folder / "report.html", folder / "report.md", notes)
