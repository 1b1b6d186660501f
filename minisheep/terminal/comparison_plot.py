"""A comparison as a figure: a panel for each metric across rounds, a line for each run, readable without colours."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minisheep.comparison import Comparison, Measured, RunResult
from minisheep.errors import UsageError
from minisheep.machine.installing import install_extra
from minisheep.rules.plain_text import one_line
from minisheep.run.files import write_atomic
from minisheep.run.metric_catalogue import CATALOGUE, Estimate, Metric, harness_metric
from minisheep.terminal.comparison_table import setting_words

FORMATS = (".png", ".svg", ".pdf")
DRAWN = (
    "instruction_strict", "instruction_loose", "instruction_own", "constraints_trained", "constraints_unseen",
    "verifiable_copied", "verifiable_ended", "nll_change", "ended", "keep_rate", "exam_auc",
)  # fmt: skip
"""Panels, where there is anything to draw; harness results follow."""
NAMES = {
    "prompt_strict": "prompts with all constraints kept, strict",
    "instruction_strict": "constraints kept, strict",
    "prompt_loose": "prompts with all constraints kept, loose",
    "instruction_loose": "constraints kept, loose",
    "prompt_own": "prompts with all constraints kept, own words",
    "instruction_own": "constraints kept, own words",
    "constraints_trained": "constraints of trained kinds kept, own words",
    "constraints_unseen": "constraints of unseen kinds kept, own words",
    "verifiable_ended": "verifiable answers that end by themselves",
    "verifiable_copied": "verifiable answers that repeat the prompt",
    "nll_change": "held-out NLL per token, minus base",
    "ended": "held-out answers that end by themselves",
    "keep_rate": "share of pairs kept",
    "exam_auc": "AUC of the judge's exam",
}
MARKERS, STROKES = "osD^vPX*", ("-", "--", "-.", ":")
LEAST_SPAN = 0.1
"""Least range of an axis of shares, so that a difference of one pair does not look like a rise."""
LETTER = 0.075
"""Inches that a letter of the legend takes."""
GREYS = ("0.0", "0.45", "0.25", "0.6")


def check_plot(path: str) -> None:
    """Raises `errors.UsageError` for a file that could not be drawn, before anything is read."""
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path} is no figure's name.", f"Give a name that ends in {', '.join(FORMATS)}.")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {target.parent}.", "Make it, or give another.")
    if target.is_dir():
        raise UsageError(f"--plot {path} is a folder.", "Give the name of a file in it.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib. It is not installed here.", f"Type `{install_extra('plots')}`."
        ) from None


def plot(comparison: Comparison, path: str) -> None:
    """Draws the figure into `path` (its ending says the format), whole or not at all.

    Raises `errors.UsageError` where nothing was measured that could be drawn, and `errors.DiskError`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = [metric for metric in _metrics(comparison) if any(_points(r, metric.name) for r in comparison.results)]
    if not panels:
        raise UsageError("No run has a number that a figure shows, so nothing is drawn.", "Leave --plot out.")
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    longest = max(len(label(comparison, result)) for result in comparison.results)
    size = max(4.2 * across, LETTER * longest), 3.1 * down + 0.4 + 0.2 * len(comparison.results)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis, metric in zip(axes, panels, strict=False):
        _panel(axis, metric, comparison.results)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    _legend(figure, comparison)
    out = io.BytesIO()
    ending = Path(path).suffix.lower().removeprefix(".")
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "minisheep"}):
        # A folder's name may hold letters that the font lacks; a box in their place is enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # Without a date the same runs give the same file.
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending, {})
        figure.savefig(out, format=ending, dpi=150, metadata=undated)
    write_atomic(Path(path), out.getvalue())


def label(comparison: Comparison, result: RunResult) -> str:
    """``A: judge pmi, seed 2``, or the folder where the settings are the same."""
    settings = [f"{name} {setting_words(result.settings[name])}" for name in comparison.differing]
    return f"{result.key}: {', '.join(settings) if settings else one_line(result.path, 60)}"


def _metrics(comparison: Comparison) -> list[Metric]:
    known = {metric.name: metric for metric in CATALOGUE}
    present = {name for result in comparison.results for measured in result.measured for name in measured.values}
    return [known[name] for name in DRAWN] + [harness_metric(name) for name in sorted(present - set(known))]


def _points(result: RunResult, name: str) -> list[tuple[int, Estimate]]:
    """Round and value, in order. The base's change to itself is 0 and closes the line to the left."""

    def value(measured: Measured) -> Estimate | None:
        estimate = measured.values.get(name)
        return estimate if isinstance(estimate, Estimate) else None

    points = [(measured.round, estimate) for measured in result.measured if (estimate := value(measured)) is not None]
    if name == "nll_change" and points and result.measured[0].round == 0:
        return [(0, Estimate(0.0)), *points]
    return points


def _panel(axis: Any, metric: Metric, results: Sequence[RunResult]) -> None:
    from matplotlib.ticker import MaxNLocator

    rounds = sorted({measured.round for result in results for measured in result.measured})
    for place, result in enumerate(results):
        points = _points(result, metric.name)
        if not points:
            continue
        # Side by side, so that error bars at the same round do not hide each other.
        shift = (place - (len(results) - 1) / 2) * min(0.08, 0.5 / len(results))
        axis.errorbar(
            [number + shift for number, _ in points],
            [estimate.value for _, estimate in points],
            yerr=_bars(estimate for _, estimate in points),
            capsize=2.5, linewidth=1.3, markersize=4.5, **_style(place),
        )  # fmt: skip
    if metric.name == "nll_change":
        axis.axhline(0.0, color="0.7", linewidth=0.8, zorder=0)
    axis.set_title(NAMES.get(metric.name) or one_line(metric.name, 44), fontsize=10, parse_math=False)
    axis.set_xticks(rounds, ["base" if number == 0 else str(number) for number in rounds])
    axis.set_xlabel("round", fontsize=9)
    axis.set_xlim(rounds[0] - 0.3, rounds[-1] + 0.3)
    if metric.form == "share" or metric.name == "exam_auc":
        low, high = axis.get_ylim()
        wider = max(0.0, LEAST_SPAN - (high - low)) / 2
        axis.set_ylim(max(low - wider, -0.03), min(high + wider, 1.03))
    if metric.form == "share":
        axis.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
        axis.yaxis.set_major_formatter(lambda value, _place: f"{round(100 * value, 1):g}%")
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _bars(estimates: Any) -> list[list[float]]:
    """2 x n lengths below and above: the interval, or 1.96 standard errors."""
    below, above = [], []
    for value in estimates:
        reach = 1.96 * (value.error or 0.0)
        below.append(max(0.0, value.value - value.low) if value.low is not None else reach)
        above.append(max(0.0, value.high - value.value) if value.high is not None else reach)
    return [below, above]


def _style(place: int) -> dict[str, Any]:
    """Marker, stroke and shade of a run, which together differ in a grey print too."""
    return {
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": STROKES[place % len(STROKES)],
        "color": GREYS[place % len(GREYS)],
        "markerfacecolor": "white" if place % 2 else GREYS[place % len(GREYS)],
    }


def _legend(figure: Any, comparison: Comparison) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linewidth=1.3, markersize=4.5, **_style(p)) for p in range(len(comparison.results))]
    labels = [label(comparison, result) for result in comparison.results]
    legend = figure.legend(handles, labels, loc="outside lower left", fontsize=8, frameon=False, ncols=1)
    for text in legend.get_texts():
        text.set_parse_math(False)
