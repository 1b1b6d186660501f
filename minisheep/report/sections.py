"""What the rounds did to the model: metrics with their intervals, across rounds. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from minisheep.report.blocks import Block, Charts, Curves, Items, Paragraph, Point, Sample, Samples, Section, Table
from minisheep.report.gather import Gathered, ReportRound
from minisheep.rules import plain_text
from minisheep.rules.identity import derive_seed
from minisheep.run.events import TrainStep
from minisheep.run.metric_catalogue import CATALOGUE, READINGS, Estimate, Metric, Value, harness_metric, round_values
from minisheep.run.records import Example, Record, Rejection
from minisheep.stages.evaluate import NORMAL_95
from minisheep.terminal import words
from minisheep.terminal.comparison_plot import NAMES
from minisheep.terminal.comparison_table import cell

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


def outcome_section(run: Gathered) -> Section:
    return Section("metrics", "What each round did to the model", tuple(_outcome_blocks(run)))


def _outcome_blocks(run: Gathered) -> Iterator[Block]:
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


def _values(run: Gathered, r: ReportRound) -> dict[str, Value]:
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


# How the adapters were trained: loss curves and what each training saw. Pure.
COUNTS = (
    ("steps", "steps"),
    ("examples", "examples trained on"),
    ("validation_examples", "examples held back"),
    ("truncated", "examples cut at --max-length"),
    ("left_out", "examples left out"),
    ("tokens", "supervised tokens"),
    ("first_loss", "first loss"),
    ("last_loss", "last loss"),
    ("best_step", "best step"),
    ("best_validation_loss", "lowest validation loss"),
    ("load_in", "precision of the base"),
    ("seconds", "time"),
)
MOST_POINTS = 400
"""Of a curve; a longer one is thinned evenly."""


def training_section(run: Gathered) -> Section:
    return Section("training", "Training", tuple(_training_blocks(run)))


def _training_blocks(run: Gathered) -> Iterator[Block]:
    trained = [r for r in run.rounds if r.training is not None]
    curves = tuple(curve for r in run.rounds if (curve := _loss_curve(r.number, r.steps)) is not None)
    if not trained and not curves:
        yield Paragraph("Nothing has been trained yet.")
        return
    if curves:
        yield Charts(curves, "Mean negative log-likelihood per supervised token, in nats, by optimizer step.")
    else:
        yield Paragraph("events.jsonl holds no training steps, so there are no loss curves.")
    if trained:
        yield Table(
            ("training", *(r.title for r in trained)),
            tuple(
                (title, *(_said(name, (r.training or {}).get(name)) for r in trained))
                for name, title in COUNTS
                if any((r.training or {}).get(name) is not None for r in trained)
            ),
        )


def _loss_curve(number: int, steps: tuple[TrainStep, ...]) -> Curves | None:
    loss = [Point(step.step, float(step.loss)) for step in steps]
    validation = [Point(step.step, float(v)) for step in steps if (v := step.validation_loss) is not None]
    if len(loss) < 2:
        return None
    series = [("training", _thinned(loss))] + ([("validation", _thinned(validation))] if validation else [])
    return Curves(f"loss-{number}", f"Loss, round {number}", "nats per token", tuple(series))


def _thinned(points: list[Point]) -> tuple[Point, ...]:
    if len(points) <= MOST_POINTS:
        return tuple(points)
    return tuple(points[i * (len(points) - 1) // (MOST_POINTS - 1)] for i in range(MOST_POINTS))


def _said(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    if name == "seconds":
        return plain_text.duration(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


# Records to read: kept and dropped ones, drawn by chance, the same ones every time. Numbers do not replace this.
MOST = 20
LONGEST = 6000
"""Characters of a field that are shown."""

R = TypeVar("R", bound=Record)
Numbered = list[tuple[int, R]]


def sections(run: Gathered) -> tuple[Section, Section]:
    kept = drawn([(r.number, example) for r in run.rounds for example in r.kept])
    dropped = drawn([(r.number, rejection) for r in run.rounds for rejection in r.rejected])
    return (
        Section("kept", "Kept records to read", tuple(_sample_blocks("kept", [_kept(*item) for item in kept]))),
        Section(
            "dropped",
            "Dropped records to read",
            tuple(_sample_blocks("dropped", [_dropped(*item) for item in dropped])),
        ),
    )


def drawn(items: Sequence[tuple[int, R]], most: int = MOST) -> Numbered[R]:
    """`most` of numbered records by chance, as many of each number as there are, in the order of the numbers."""
    waiting: dict[int, list[R]] = {}
    for number, record in items:
        waiting.setdefault(number, []).append(record)
    for number, records in waiting.items():
        records.sort(key=lambda record, number=number: derive_seed("report", "read", number, record.id))  # type: ignore[misc]
    found: Numbered[R] = []
    place = 0
    while len(found) < min(most, len(items)):
        found += [(number, records[place]) for number, records in waiting.items() if place < len(records)]
        place += 1
    return sorted(found[:most], key=lambda item: item[0])


def _sample_blocks(what: str, samples: list[Sample]) -> Iterator[Block]:
    if not samples:
        yield Paragraph(f"Nothing has been {what} yet.")
        return
    yield Paragraph(f"{len(samples)} {what} records, drawn by chance from all rounds; read them before any number.")
    yield Samples(tuple(samples))


def _kept(number: int, example: Example) -> Sample:
    marks = [
        f"{name} {value:.3g}"
        for name, value in (("score", example.score), ("quality", example.quality), ("following", example.following))
        if isinstance(value, int | float)
    ]
    if example.cut:
        marks.append(f"answer shortened: {example.cut}")
    return Sample(f"Round {number}", tuple(marks), *_fields(example))


def _dropped(number: int, rejection: Rejection) -> Sample:
    marks = (f"{rejection.stage}: {rejection.rule}", *([rejection.detail] if rejection.detail else []))
    return Sample(f"Round {number}", marks, *_fields(rejection))


def _fields(record: Example | Rejection) -> tuple[str, str, str]:
    return _cut(record.instruction), _cut(record.input), _cut(record.output)


def _cut(text: str) -> str:
    text = str(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n[{len(text) - LONGEST:,} more characters]"
