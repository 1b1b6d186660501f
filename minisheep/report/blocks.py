"""The parts of a report. Sections return them; write.py alone knows how they look.

Every text here is plain text and may be a model's. write.py escapes it, and nothing before that does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from minisheep.rules.plain_text import BARS, one_line

Level = Literal["plain", "good", "warning"]


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class ListItem:
    text: str
    level: Level = "plain"
    command: str = ""
    """What to type next, if anything."""


@dataclass(frozen=True, slots=True)
class Items:
    items: tuple[ListItem, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; the first `left` columns hold words, the others numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    left: int = 1


class Bar(NamedTuple):
    label: str
    size: int
    text: str
    """Stands to the right of the bar."""


@dataclass(frozen=True, slots=True)
class Bars:
    """Counts as bars on one scale, from 0 to the largest."""

    caption: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class HistogramBlock:
    """A round's values in bins: `series` holds pairs of a label and len(edges) - 1 counts."""

    name: str
    title: str
    axis: str
    edges: tuple[float, ...]
    series: tuple[tuple[str, tuple[int, ...]], ...]


class Point(NamedTuple):
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Curves:
    """Lines over rounds or steps; points may have intervals."""

    name: str
    title: str
    axis: str
    series: tuple[tuple[str, tuple[Point, ...]], ...]
    ticks: dict[int, str] = field(default_factory=dict)
    """Labels by x; empty for an axis of numbers."""
    share: bool = False
    zero: bool = False
    """Whether a line marks 0."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """Points in a plane without axes; `groups` holds pairs of a label and points, drawn in this order."""

    name: str
    title: str
    groups: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]


Plot = HistogramBlock | Curves | Scatter


@dataclass(frozen=True, slots=True)
class Charts:
    """Figures side by side where there is room, and a caption for all of them."""

    plots: tuple[Plot, ...]
    caption: str


@dataclass(frozen=True, slots=True)
class Sample:
    title: str
    marks: tuple[str, ...]
    """Scores, rules, what was cut."""
    instruction: str
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Samples:
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """An instruction with several answers, each under its title."""

    instruction: str
    note: str
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks that a page shows when asked to; none of them is a fold or `Bars`."""

    title: str
    blocks: tuple[Paragraph | Items | Table | Charts | Samples, ...]


Block = Paragraph | Items | Table | Bars | Charts | Samples | SideBySide | Fold


@dataclass(frozen=True, slots=True)
class Section:
    anchor: str
    """Letters and hyphens, never text of a model."""
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    """Name and value of the few numbers at the top."""
    sections: tuple[Section, ...]

    @property
    def plots(self) -> tuple[Plot, ...]:
        blocks = [block for section in self.sections for block in section.blocks]
        blocks += [inner for block in blocks if isinstance(block, Fold) for inner in block.blocks]
        return tuple(plot for block in blocks if isinstance(block, Charts) for plot in block.plots)


def text_histogram(plot: HistogramBlock) -> list[str]:
    """One line for each series, for Markdown and for pages without pictures: ``round 1  0 |▁▅█▂ | 60``."""
    width = max((len(one_line(label, 24)) for label, _ in plot.series), default=0)
    lines = []
    for label, counts in plot.series:
        most = max(counts, default=0) or 1
        bars = "".join(BARS[-(-8 * count // most)] for count in counts)
        lines.append(f"{one_line(label, 24):{width}}  {plot.edges[0]:g} |{bars}| {plot.edges[-1]:g} ({sum(counts):,})")
    return lines
