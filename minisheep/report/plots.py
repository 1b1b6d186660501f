"""Figures as SVG inside the page: no outside names, and the same bytes every time.

The report imports matplotlib (the extra `plots`) only here. Figures are drawn in placeholder colours that become CSS
variables of the page, so one figure fits light, dark and paper. Markers and strokes distinguish series as well.
"""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from minisheep.report.blocks import Curves, HistogramBlock, Plot, Scatter
from minisheep.rules.plain_text import one_line

INK, FAINT = "#010101", "#020202"
SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305")
VARIABLES = {INK: "currentColor", FAINT: "var(--faint)"} | {
    mark: f"var(--series-{place})" for place, mark in enumerate(SERIES, 1)
}
MARKERS, STROKES = "osD^v", ("-", "--", "-.", ":", (0, (5, 1)))
SIZE = (3.7, 2.7)
"""Inches."""
MAP_SIZE = (5.6, 4.4)
STYLE: Any = {
    "svg.hashsalt": "minisheep",
    # Text stays text: smaller, searchable, and in the page's font.
    "svg.fonttype": "none",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 9.5,
    "axes.unicode_minus": True,
    "legend.frameon": False,
    "text.parse_math": False,
}
_LONG = re.compile(r"-?[0-9]+\.[0-9]{3,}")
_FORBIDDEN = re.compile("[\ufffe\uffff]")
_DRAWN = frozenset({"d", "x", "y", "points"})


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def drawn(plots: Sequence[Plot]) -> dict[str, str]:
    """The SVG of each figure by its name. Needs matplotlib."""
    return {plot.name: svg(plot) for plot in plots}


def svg(plot: Plot) -> str:
    """The figure as an ``<svg>`` element. Needs matplotlib."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with warnings.catch_warnings(), rc_context(STYLE):
        # The browser's font draws letters that matplotlib's lacks; only their width is a guess.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # Labels as wide as the figure are drawn anyway, on top of each other.
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        figure = Figure(figsize=MAP_SIZE if isinstance(plot, Scatter) else SIZE, layout="constrained")
        axis = figure.subplots()
        if isinstance(plot, HistogramBlock):
            _histogram(axis, plot)
        elif isinstance(plot, Curves):
            _curves(axis, plot)
        else:
            _scatter(axis, plot)
        axis.set_title(_label(plot.title), loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        if sum(bool(label) for label in axis.get_legend_handles_labels()[1]) > 1:
            figure.legend(loc="outside lower left", ncols=3, fontsize=8, handlelength=2.4, columnspacing=1.2)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return inline(out.getvalue(), plot.name)


def inline(data: bytes, name: str) -> str:
    """matplotlib's file as an element of a page: unique ids, CSS colours, no metadata, no style sheet."""
    # matplotlib has just made this file.
    root = ElementTree.fromstring(data)  # noqa: S314
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({key: _attribute(key, value, name) for key, value in attributes.items()})
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("aria-hidden", "true")
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    value = value.replace("url(#", f"url(#{name}-")
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key in _DRAWN:
        return _LONG.sub(lambda number: f"{float(number[0]):.2f}", value)
    for mark, variable in VARIABLES.items():
        value = value.replace(mark, variable)
    return value


def _label(text: str, width: int = 0) -> str:
    """Safe to show, and without two more characters that XML forbids."""
    return one_line(_FORBIDDEN.sub("\ufffd", text), width)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _histogram(axis: Any, plot: HistogramBlock) -> None:
    for place, (label, counts) in enumerate(plot.series):
        total = sum(counts) or 1
        shares = [count / total for count in counts]
        look = _look(place)
        axis.stairs(shares, plot.edges, label=_label(label, 24), linewidth=1.4, **look)
        if place == 0:
            axis.stairs(shares, plot.edges, color=look["color"], fill=True, alpha=0.18)
    axis.set_xlabel(_label(plot.axis))
    axis.set_ylim(bottom=0)
    _percent(axis)
    _grid(axis)


def _curves(axis: Any, plot: Curves) -> None:
    from matplotlib.ticker import MaxNLocator

    if plot.zero:
        axis.axhline(0.0, color=INK, linewidth=0.7, alpha=0.6)
    for place, (label, points) in enumerate(plot.series):
        look = _look(place)
        marked: dict[str, Any] = {"marker": MARKERS[place % len(MARKERS)]} if len(points) <= 40 else {}
        axis.errorbar(
            [p.x for p in points], [p.y for p in points],
            yerr=None if all(p.low is None for p in points) else [
                [0.0 if p.low is None else max(0.0, p.y - p.low) for p in points],
                [0.0 if p.high is None else max(0.0, p.high - p.y) for p in points],
            ],
            label=_label(label, 24), capsize=3, linewidth=1.4, markersize=4, **look, **marked,
        )  # fmt: skip
    if plot.ticks:
        axis.set_xticks(list(plot.ticks), [_label(text, 12) for text in plot.ticks.values()])
        axis.set_xlim(min(plot.ticks) - 0.3, max(plot.ticks) + 0.3)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("step")
    axis.set_ylabel("" if plot.share else _label(plot.axis))
    if plot.share:
        _percent(axis)
    _grid(axis)


def _scatter(axis: Any, plot: Scatter) -> None:
    for place, (label, points) in enumerate(plot.groups):
        # The lowest group is hollow and large, so that points on it do not hide it.
        look = {"markersize": 6.5, "fillstyle": "none", "markeredgewidth": 0.8} if place == 0 else {"markersize": 3.6}
        axis.plot(
            [x for x, _ in points], [y for _, y in points], linestyle="none", label=_label(label, 24),
            marker=MARKERS[place % len(MARKERS)], color=_look(place)["color"], alpha=0.85, **look,
        )  # fmt: skip
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _look(place: int) -> dict[str, Any]:
    return {"color": SERIES[place % len(SERIES)], "linestyle": STROKES[place % len(STROKES)]}


def _percent(axis: Any) -> None:
    axis.yaxis.set_major_formatter(lambda value, _place: f"{100 * value:.3g}%")


def _grid(axis: Any) -> None:
    axis.grid(axis="y", color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
