"""What the rounds did to the model: metrics with their intervals, across rounds. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from minisheep.compare.plot import NAMES
from minisheep.compare.table import cell
from minisheep.report.blocks import Block, Charts, Curves, Items, Paragraph, Point, Section, Table
from minisheep.report.gather import Gathered, Round
from minisheep.run.metrics import CATALOGUE, READINGS, Estimate, Metric, Value, harness_metric, round_values
from minisheep.stages.decide import NORMAL_95
from minisheep.ui import words

DRAWN = (
    ("nll_change", "Held-out NLL, minus base", "nats per token"),
    ("instruction_strict", "Constraints kept, strict", "share"),
    ("instruction_own", "Constraints kept, own words", "share"),
    ("verifiable_copied", "Answers that say it back", "share"),
    ("verifiable_ended", "Answers that end", "share"),
    ("exam_auc", "The judge's exam", "AUC"),
)
WITH_INTERVALS = frozenset(
    {
        "held-out NLL per token",
        "  change to base (standard error)",
        "greedy answers that end by themselves",
        "constraints kept, strict",
        "  in its own words",
        "answers that say the instruction back",
        "pairs kept",
        "keep rate",
        "judge",
        "  AUC in its exam",
    }
)
"""Rows of the status table that the table with intervals has already."""


def section(run: Gathered) -> Section:
    return Section("metrics", "What each round did to the model", tuple(_blocks(run)))


def _blocks(run: Gathered) -> Iterator[Block]:
    if not run.measured:
        yield Paragraph("Nothing has been measured yet.")
        return
    values = {r.number: _values(run, r) for r in run.measured}
    metrics = _metrics(values)
    titles = [r.title + (" (best)" if r.number == run.best else "") for r in run.measured]
    yield Table(
        ("measure", *titles),
        tuple((_title(m), *(cell(m, values[r.number].get(m.name)) for r in run.measured)) for m in metrics),
        "In brackets 95 % bootstrap intervals, in parentheses standard errors. Changes are paired by item; points are"
        " points of per cent, NLL is in nats per token.",
    )
    rows = words.metric_rows([r.metrics or {} for r in run.measured])[1]
    others = tuple((name.strip(), *cells) for name, cells in rows if name not in WITH_INTERVALS)
    if others:
        yield Table(("and more", *titles), others)
    curves = tuple(c for name, title, axis in DRAWN if (c := _curve(run, values, name, title, axis)) is not None)
    if curves:
        yield Charts(curves, "Bars are 95 % intervals: where they overlap much, chance may be all there is.")
    for lines in run.judged:
        yield Items(lines)


def _title(metric: Metric) -> str:
    """In full, where a comparison of runs has to be brief."""
    name = metric.name.removesuffix("_change")
    if name in READINGS:
        return NAMES[name] + (", minus base" if metric.form == "points" else "")
    return " ".join(part for part in metric.title if part)


def _values(run: Gathered, r: Round) -> dict[str, Value]:
    exam = r.exam.to_dict() if r.exam else {}
    judge = run.settings.judge if run.settings else ""
    return {**round_values(r.metrics or {}, exam, judge), **run.harness.get(r.number, {})}


def _metrics(values: dict[int, dict[str, Value]]) -> list[Metric]:
    present = {name for found in values.values() for name in found}
    known = [metric for metric in CATALOGUE if metric.name in present]
    return known + [harness_metric(name) for name in sorted(present - {metric.name for metric in CATALOGUE})]


def _curve(run: Gathered, values: dict[int, dict[str, Value]], name: str, title: str, axis: str) -> Curves | None:
    points = []
    for r in run.measured:
        found = values[r.number].get(name)
        if name == "nll_change" and r.number == 0:
            points.append(Point(0, 0.0))
        elif isinstance(found, Estimate):
            reach = None if found.error is None else NORMAL_95 * found.error
            low = found.low if reach is None else found.value - reach
            high = found.high if reach is None else found.value + reach
            points.append(Point(r.number, found.value, low, high))
    if len(points) < 2:
        return None
    ticks = {r.number: str(r.number or "base") for r in run.measured}
    series = ((title, tuple(points)),)
    return Curves(name, title, axis, series, ticks, share=axis == "share", zero=name == "nll_change")
