"""A histogram as rows of bars made of letters: for Markdown, and for a page without pictures. Pure."""

from __future__ import annotations

from minisheep.report.blocks import Histogram
from minisheep.ui.sanitise import one_line
from minisheep.ui.words import BARS


def strips(plot: Histogram) -> list[str]:
    """A line a series, from the lowest bin to the highest: ``round 1  0 |▁▅█▂ | 60``."""
    width = max((len(one_line(label, 24)) for label, _ in plot.series), default=0)
    lines = []
    for label, counts in plot.series:
        most = max(counts, default=0) or 1
        bars = "".join(BARS[-(-8 * count // most)] for count in counts)
        lines.append(f"{one_line(label, 24):{width}}  {plot.edges[0]:g} |{bars}| {plot.edges[-1]:g} ({sum(counts):,})")
    return lines
