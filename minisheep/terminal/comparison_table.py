"""A comparison as tables for a terminal of any width, as Markdown, and as unrounded CSV and JSON. Pure.

Where a table is wider than the terminal its columns go on in another block below, each block beginning with the same
columns that say which run and round a row is.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from minisheep.comparison import Comparison, PairedResults, RunResult, RunRow, shared
from minisheep.errors import UsageError
from minisheep.rules.plain_text import one_line
from minisheep.run.metric_catalogue import CATALOGUE, READINGS, Estimate, Metric, Value, harness_metric
from minisheep.terminal.columns import Column

SETTING_WIDTH = 28
"""A longer value (a path) is cut in tables; CSV and JSON have it whole."""


def metrics_of(rows: Sequence[RunRow]) -> list[Metric]:
    """The metrics that any row has, the catalogue's first."""
    present = {name for row in rows for name in row.measured.values}
    ours = [metric for metric in CATALOGUE if metric.name in present]
    return ours + [harness_metric(name) for name in sorted(present - {metric.name for metric in CATALOGUE})]


def sort_rows(rows: Sequence[RunRow], name: str) -> list[RunRow]:
    """The best first by one metric; rows without it last, in their order. Raises `errors.UsageError`."""
    sign = 1.0 if _named(rows, "--sort", name).better == "lower" else -1.0

    def place(row: RunRow) -> tuple[int, float, str]:
        value = row.measured.values.get(name)
        if isinstance(value, Estimate):
            return 0, sign * value.value, ""
        return (1, 0.0, "") if value is None else (0, 0.0, value)

    return sorted(rows, key=place)


def deciding(rows: Sequence[RunRow]) -> list[Metric]:
    """The few metrics by which a run decides, of those that any row has; all where it has none of them."""
    halves = any(result.settings["constraints"] for row in rows for result in row.results)
    kept = ("constraints_trained", "constraints_unseen") if halves else ("instruction_own",)
    few = [metric for metric in metrics_of(rows) if metric.name in (*kept, "nll_change", "verifiable_ended")]
    return few or metrics_of(rows)


def chosen(rows: Sequence[RunRow], names: Sequence[str]) -> list[Metric]:
    """The metrics of these names, in this order. Raises `errors.UsageError`."""
    return [_named(rows, "--only", name) for name in dict.fromkeys(names)]


def _named(rows: Sequence[RunRow], flag: str, name: str) -> Metric:
    known = {metric.name: metric for metric in metrics_of(rows)}
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise UsageError(
            f"{flag} {name}: no run has this metric{f' (nearest: {near[0]})' if near else ''}.",
            f"Give one of: {', '.join(known)}.",
        )
    return known[name]


def legend(comparison: Comparison) -> list[Column]:
    """Which letter is which run, and its settings as far as they differ."""
    results = comparison.results
    return [
        Column(("run",), [result.key for result in results], right=False),
        *setting_columns(comparison, [(result,) for result in results]),
        Column(("folder",), [one_line(result.path) for result in results], right=False),
    ]


def setting_columns(comparison: Comparison, groups: Sequence[tuple[RunResult, ...]]) -> list[Column]:
    """The settings that differ between the runs; empty cells where they differ within a group."""
    return [
        Column((name,), [setting_words(shared(group, name)) for group in groups], right=False)
        for name in comparison.differing
    ]


def index_columns(rows: Sequence[RunRow]) -> list[Column]:
    return [
        Column(("run",), [row.key for row in rows], right=False),
        Column(("round",), [_round(row) for row in rows], right=False),
    ]


def value_columns(rows: Sequence[RunRow], only: Sequence[Metric] | None = None) -> list[Column]:
    """A column for each metric in `only`, or for each that any row has."""
    return [
        Column(tuple(filter(None, metric.title)), [cell(metric, row.measured.values.get(metric.name)) for row in rows])
        for metric in only or metrics_of(rows)
    ]


def difference_columns(
    pairs: Sequence[PairedResults], only: Sequence[Metric] | None = None
) -> tuple[list[Column], list[Column]]:
    """Index and values of the table of paired differences, of the metrics in `only` or of all; a pair without any is no
    row of it, and a change to the base counts as its metric."""
    pairs = [d for d in pairs if d.values]
    shown = {metric.name.removesuffix("_change") for metric in only} if only else {*READINGS, "nll"}
    names = [name for name in (*READINGS, "nll") if name in shown and any(name in d.values for d in pairs)]
    titles = {**{name: (" ".join(title),) for name, title in READINGS.items()}, "nll": ("NLL (se)",)}
    forms = {"nll": _NLL}
    return [Column(("minus",), [_who(d) for d in pairs], right=False)], [
        Column(titles[name], [cell(forms.get(name, _POINTS), d.values.get(name)) for d in pairs]) for name in names
    ]


_POINTS = Metric("", ("", ""), "points")
_NLL = Metric("", ("", ""), "change")


def cell(metric: Metric, value: Value | None) -> str:
    """``30% [14, 48]``, ``+4.2 [-3.0, 11.5]`` (points of per cent), ``+0.012 (0.002)``; ``-`` where there is none."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return one_line(value, SETTING_WIDTH)
    form, scale, unit = {
        "share": ("{:.0f}", 100, "%"),
        "points": ("{:+.1f}", 100, ""),
        "change": ("{:+.3f}", 1, ""),
        "count": ("{:.0f}", 1, ""),
        "nats": ("{:.3f}", 1, ""),
        "number": ("{:.3f}", 1, ""),
    }[metric.form]

    def written(number: float) -> str:
        return _unsigned_zero(form.format(number * scale))

    content = written(value.value) + unit
    if value.low is not None and value.high is not None:
        content += f" [{written(value.low).lstrip('+')}, {written(value.high).lstrip('+')}]"
    elif value.error is not None:
        content += f" ({value.error:.3f})"
    return content


def markdown(columns: Sequence[Column]) -> list[str]:
    """One table, however wide."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [
        line([" ".join(part for part in column.title if part) for column in columns]),
        line(["---:" if column.right else "---" for column in columns]),
        *(line(row) for row in zip(*(column.cells for column in columns), strict=True)),
    ]


def not_comparable(pairs: Sequence[PairedResults]) -> list[str]:
    """Why a table of differences has gaps, a line each."""
    return [f"{_who(d)} cannot be compared: {'; '.join(d.not_comparable)}." for d in pairs if d.not_comparable]


def _round(row: RunRow) -> str:
    """The round that a run calls its best has a star."""
    return f"{row.measured.round or 'base'}{'*' if row.best else ''}"


def _who(pair: PairedResults) -> str:
    """``B 2 - A 1``."""
    (run, measured), (to_run, to_measured) = pair.first, pair.second
    return f"{run.key} {measured.round} - {to_run.key} {to_measured.round}"


def setting_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    words = f"{value:g}" if isinstance(value, float) else str(value)
    # The end of a path says more than its beginning.
    return one_line(words if len(words) <= SETTING_WIDTH else "..." + words[3 - SETTING_WIDTH :]) or "-"


def _unsigned_zero(number: str) -> str:
    return number.lstrip("+-") if not number.strip("+-0.") else number


def csv_text(comparison: Comparison, rows: Sequence[RunRow]) -> str:
    """A line a run and round; each metric with its bounds or its standard error in columns of their own."""
    metrics = metrics_of(rows)
    parts = {metric.name: _parts(metric.name, rows) for metric in metrics}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    titles = [name if part == "value" else f"{name}_{part}" for name, own in parts.items() for part in own]
    writer.writerow(["run", *comparison.differing, "round", *titles])
    for row in rows:
        cells: list[Any] = []
        for name, own in parts.items():
            value = row.measured.values.get(name)
            given = value.to_dict() if isinstance(value, Estimate) else {} if value is None else {"value": value}
            cells += [given.get(part, "") for part in own]
        writer.writerow(
            [
                " ".join(result.path for result in row.results),
                *(shared(row.results, name) for name in comparison.differing),
                row.measured.round,
                *cells,
            ]
        )
    return out.getvalue()


def row_json(comparison: Comparison, row: RunRow) -> dict[str, Any]:
    return {
        "row": "round",
        "runs": [result.path for result in row.results],
        "settings": {name: shared(row.results, name) for name in comparison.differing},
        "round": row.measured.round,
        "best": row.best,
        "metrics": {
            name: value.to_dict() if isinstance(value, Estimate) else value
            for name, value in row.measured.values.items()
        },
    }


def difference_json(pair: PairedResults) -> dict[str, Any]:
    (run, measured), (to_run, to_measured) = pair.first, pair.second
    return {
        "row": "difference",
        "run": run.path,
        "round": measured.round,
        "minus_run": to_run.path,
        "minus_round": to_measured.round,
        "metrics": {name: value.to_dict() for name, value in pair.values.items()},
        "not_comparable": list(pair.not_comparable),
    }


def _parts(name: str, rows: Sequence[RunRow]) -> list[str]:
    given = {
        part for row in rows if isinstance(value := row.measured.values.get(name), Estimate) for part in value.to_dict()
    }
    return [part for part in Estimate._fields if part == "value" or part in given]
