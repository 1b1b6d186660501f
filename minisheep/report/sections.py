"""Sections about the rounds: metrics with their intervals, training, and records to read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from minisheep.report.blocks import (
    Block,
    Charts,
    Curves,
    Fold,
    Items,
    Paragraph,
    Point,
    Sample,
    Samples,
    SideBySide,
    Table,
)
from minisheep.report.gather import Gathered, ReportRound
from minisheep.rules import plain_text
from minisheep.rules.constraints import kind_in_words
from minisheep.rules.data_settings import seeds_text
from minisheep.rules.identity import derive_seed
from minisheep.run import verdict
from minisheep.run.decision import NORMAL_95
from minisheep.run.events import TrainStep
from minisheep.run.metric_catalogue import CATALOGUE, Estimate, Metric, Value, harness_metric, round_values
from minisheep.run.records import Example, Record, Rejection
from minisheep.terminal import words
from minisheep.terminal.comparison_plot import NAMES
from minisheep.terminal.comparison_table import cell
from minisheep.terminal.run_summary import passed

DRAWN = (
    ("nll_change", "Held-out NLL, minus base", "nats per token"),
    ("instruction_strict", "Constraints kept, strict", "share"),
    ("instruction_own", "Constraints kept, own words", "share"),
    ("constraints_trained", "Constraints kept, trained kinds", "share"),
    ("constraints_unseen", "Constraints kept, unseen kinds", "share"),
    ("verifiable_copied", "Answers that repeat the instruction", "share"),
    ("verifiable_ended", "Answers that end by themselves", "share"),
    ("exam_auc", "The judge's exam", "AUC"),
)
WITH_INTERVALS = frozenset({
    "held-out NLL per token", "  change to base (standard error)", "greedy answers that end by themselves",
    "words in a greedy answer", "constraints kept, strict", "  in its own words", "  of trained kinds",
    "  of unseen kinds", "answers that repeat the instruction", "pairs kept", "keep rate", "judge",
    "  AUC in its exam",
})  # fmt: skip
"""Rows of the status table that the table with intervals shows already."""


FIRST = ("constraints_trained", "constraints_unseen", "instruction_own", "nll", "verifiable_ended", "verifiable_copied")
"""What decides, or must be known beside it, stands above other readings of the same."""
MEASURES = (
    ("strict", "a program finds the constraint kept in the answer as it stands", "higher"),
    (
        "loose",
        "the same, if any lenient reading of the answer keeps it: without a first or last line, or asterisks",
        "higher",
    ),
    ("own words", "as strict, but an answer that repeats its instruction keeps none; this decides", "higher"),
    (
        "prompts with all constraints",
        "instructions of which every constraint is kept, where others count each one",
        "higher",
    ),
    ("trained kinds, unseen kinds", "own words by halves; these decide in a run with --constraints", "higher"),
    ("repeat the instruction", "how much the model echoes", "lower; rising is a warning"),
    ("held-out NLL", "how unlikely the model finds right answers that it never saw, in nats a token", "lower"),
    ("NLL of ending, answers that end", "whether the model knows when to stop", "lower, higher"),
    (
        "minus base, change",
        "paired item by item, so beyond its interval (or two standard errors) it is hardly chance",
        "",
    ),
    ("distinct-1, distinct-2", "different words and pairs of words in its answers", "falling is a warning"),
    ("near-duplicate rate", "instructions that were written before", "rising is a warning"),
    (
        "keep rate, mean judge score",
        "the judge's view of its own model; every round has another judge",
        "nothing by itself",
    ),
)
"""What the rows of the long table say, and which way is better."""


def answers_blocks(run: Gathered) -> Iterator[Block]:
    """Answers before and after, where there are any: the first thing to read."""
    if run.conclusion is None or not run.examples:
        return
    yield Paragraph(
        "Read these first; they tell you more than the numbers. A fixed rule chose them, not how good they are."
    )
    titles = "base model", f"round {run.conclusion.round}"
    for e in run.examples:
        answers = _cut(e.base.rstrip()), _cut(e.round.rstrip())
        yield SideBySide(_cut(e.prompt), e.note, tuple(zip(titles, answers, strict=True)))


def outcome_blocks(run: Gathered) -> Iterator[Block]:
    if not run.measured:
        yield Paragraph("Nothing has been measured yet.")
        return
    if run.conclusion is not None:
        titles, rows = verdict.short_table(run.conclusion, [r.metrics or {} for r in run.measured])
        yield Table(titles, tuple(rows), verdict.LEGEND)
        yield Fold("What these rows mean", (Table(("row", "what it says"), tuple(verdict.meanings(rows)), left=2),))
    yield Fold("Every measure", tuple(_all_measures(run)))
    for lines in run.judged:
        yield Items(lines)


def _all_measures(run: Gathered) -> Iterator[Table | Charts]:
    values = {r.number: _values(run, r) for r in run.measured}
    metrics = _metrics(values)
    titles = [r.title + (" (best)" if r.number == run.best else "") for r in run.measured]
    yield Table(
        ("measure", *titles),
        tuple((_title(m), *(cell(m, values[r.number].get(m.name)) for r in run.measured)) for m in metrics),
        "Brackets hold 95 % bootstrap intervals, parentheses standard errors. Changes are paired by item. Points are"
        " percentage points. NLL is the negative log-likelihood in nats per token; lower is better.",
    )
    yield Table(("in a row's name", "what it says", "better is"), MEASURES, left=3)
    rows = words.metric_rows([r.metrics or {} for r in run.measured])[1]
    others = tuple((name.strip(), *cells) for name, cells in rows if name not in WITH_INTERVALS)
    if others:
        yield Table(("other measures", *titles), others)
    curves = tuple(c for name, title, axis in DRAWN if (c := _curve(run, values, name, title, axis)) is not None)
    if curves:
        yield Charts(curves, "Bars are 95 % intervals. Where they overlap a lot, chance may explain the difference.")


def curve_blocks(run: Gathered) -> Iterator[Block]:
    """Which constraints the model learned to keep, where the run trained on any."""
    metrics = [r.metrics or {} for r in run.measured] if run.conclusion else []
    found = verdict.curve(metrics)
    if not found:
        return
    totals = verdict.curve_totals(found)
    rounds = sorted(totals)
    by_name = {"all kinds": totals, **found}
    rows = tuple(
        (kind_in_words(name), *(passed(by_round.get(r)) for r in rounds)) for name, by_round in by_name.items()
    )
    points = tuple(Point(r, kept / drawn) for r, (drawn, kept) in totals.items())
    ticks = {r: str(r) for r in rounds}
    curves = Curves(
        "learning", "Draws that keep their constraint", "share", (("all kinds", points),), ticks, share=True
    )
    yield Table(
        ("constraint", *(f"round {r}" for r in rounds)),
        rows,
        "Of the answers drawn for training, how many kept their constraint, as a program decided. Later rounds ask"
        " harder of a kind that is kept, so an even share may hide a gain.",
    )
    if len(rounds) > 1:
        yield Charts((curves,), "Draws are answers to the model's own instructions, not held-out ones.")
    kinds = _held_out_kinds(run)
    if kinds:
        yield Fold("Constraints kept in verifiable instructions, by kind", (kinds,))


def _held_out_kinds(run: Gathered) -> Table | None:
    """What base and rounds kept of each kind in the instructions that they are measured on."""
    by_round = {r.title: (r.metrics or {})["model"].get("verifiable_by_kind", {}) for r in run.measured}
    names = sorted({name for kinds in by_round.values() for name in kinds})
    rows = tuple((kind_in_words(name), *(_kept_of(kinds.get(name)) for kinds in by_round.values())) for name in names)
    caption = "In the answer's own words. A few constraints a kind show a trend at most."
    return Table(("constraint", *by_round), rows, caption) if rows else None


def _kept_of(counts: Any) -> str:
    return f"{counts.get('own', counts.get('strict', 0))} of {counts['n']}" if isinstance(counts, dict) else "-"


def _title(metric: Metric) -> str:
    """In full; the comparison of runs has less room."""
    name = metric.name.removesuffix("_change")
    title = NAMES.get(metric.name) or NAMES.get(name, " ".join(part for part in metric.title if part))
    return title + (", minus base" if metric.form == "points" else "")


def _values(run: Gathered, r: ReportRound) -> dict[str, Value]:
    exam = r.exam.to_dict() if r.exam else {}
    judge = run.settings.judge if run.settings else ""
    return {**round_values(r.metrics or {}, exam, judge), **run.harness.get(r.number, {})}


def _metrics(values: dict[int, dict[str, Value]]) -> list[Metric]:
    present = {name for by_name in values.values() for name in by_name}
    known = [metric for metric in CATALOGUE if metric.name in present]
    known.sort(key=lambda metric: not metric.name.startswith(FIRST))
    return known + [harness_metric(name) for name in sorted(present - {metric.name for metric in CATALOGUE})]


def _curve(run: Gathered, values: dict[int, dict[str, Value]], name: str, title: str, axis: str) -> Curves | None:
    points = []
    for r in run.measured:
        value = values[r.number].get(name)
        if name == "nll_change" and r.number == 0:
            points.append(Point(0, 0.0))
        elif isinstance(value, Estimate):
            low, high = value.low, value.high
            if value.error is not None:
                low, high = value.value - NORMAL_95 * value.error, value.value + NORMAL_95 * value.error
            points.append(Point(r.number, value.value, low, high))
    if len(points) < 2:
        return None
    ticks = {r.number: str(r.number or "base") for r in run.measured}
    series = ((title, tuple(points)),)
    return Curves(name, title, axis, series, ticks, share=axis == "share", zero=name == "nll_change")


COUNTS = (
    ("steps", "steps"), ("examples", "examples trained on"), ("pairs", "of these with a rejected answer"),
    ("validation_examples", "examples for validation"), ("truncated", "examples cut at --max-length"),
    ("left_out", "examples left out"), ("tokens", "supervised tokens"), ("first_loss", "first loss"),
    ("last_loss", "last loss"), ("best_step", "best step"), ("best_validation_loss", "lowest validation loss"),
    ("load_in", "precision of the base"), ("seconds", "time"),
)  # fmt: skip
LOSSES = {
    "orpo": "Negative log-likelihood per token of the kept answers, in nats, plus the weighted loss of their odds.",
    "dpo": "Loss of each pair in nats: log 2 where the model prefers as its base does, lower where it prefers the kept"
    " answer more.",
}
"""What the curve of a preference loss shows."""
MOST_POINTS = 400
"""Of a curve; a longer one is thinned evenly."""


def training_blocks(run: Gathered) -> Iterator[Block]:
    trained = [r for r in run.rounds if r.training is not None]
    loss = run.settings.loss if run.settings else "sft"
    axis = "nats per token" if loss == "sft" else f"loss of {loss}"
    curves = tuple(curve for r in run.rounds if (curve := _loss_curve(r.number, r.steps, axis)) is not None)
    if run.settings and run.settings.mix_seeds:
        yield Paragraph(seeds_text(run.settings.mix_seeds))
    if not trained and not curves:
        yield Paragraph("Nothing has been trained yet.")
        return
    if curves:
        yield Charts(
            curves,
            "Mean negative log-likelihood per supervised token, in nats, at each optimizer step. Lower is better."
            if loss == "sft"
            else f"{LOSSES[loss]} A round without pairs has the likelihood alone.",
        )
    else:
        yield Paragraph("There are no loss curves: events.jsonl holds no training steps.")
    if trained:
        yield Table(
            ("training", *(r.title for r in trained)),
            tuple(
                (title, *(_count(name, (r.training or {}).get(name)) for r in trained))
                for name, title in COUNTS
                if any((r.training or {}).get(name) is not None for r in trained)
            ),
        )


def _loss_curve(number: int, steps: tuple[TrainStep, ...], axis: str) -> Curves | None:
    loss = [Point(step.step, float(step.loss)) for step in steps]
    validation = [Point(step.step, float(v)) for step in steps if (v := step.validation_loss) is not None]
    if len(loss) < 2:
        return None
    series = [("training", _thinned(loss))] + ([("validation", _thinned(validation))] if validation else [])
    return Curves(f"loss-{number}", f"Loss, round {number}", axis, tuple(series))


def _thinned(points: list[Point]) -> tuple[Point, ...]:
    if len(points) <= MOST_POINTS:
        return tuple(points)
    return tuple(points[i * (len(points) - 1) // (MOST_POINTS - 1)] for i in range(MOST_POINTS))


def _count(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    if name == "seconds":
        return plain_text.duration(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


MOST = 20
LONGEST = 6000
"""Characters shown of a field."""

R = TypeVar("R", bound=Record)
Numbered = list[tuple[int, R]]


def kept_blocks(run: Gathered) -> Iterator[Block]:
    """Records to read, since numbers do not replace reading; the same ones every time."""
    return _samples("kept", [_kept(*item) for item in drawn([(r.number, e) for r in run.rounds for e in r.kept])])


def dropped_blocks(run: Gathered) -> Iterator[Block]:
    return _samples(
        "dropped", [_dropped(*item) for item in drawn([(r.number, x) for r in run.rounds for x in r.rejected])]
    )


def drawn(items: Sequence[tuple[int, R]], most: int = MOST) -> Numbered[R]:
    """At most `most` numbered records at random, about as many of each number, in the order of the numbers."""
    waiting: dict[int, list[R]] = {}
    for number, record in items:
        waiting.setdefault(number, []).append(record)
    for number, records in waiting.items():
        records.sort(key=lambda record, number=number: derive_seed("report", "read", number, record.id))  # type: ignore[misc]
    chosen: Numbered[R] = []
    place = 0
    while len(chosen) < min(most, len(items)):
        chosen += [(number, records[place]) for number, records in waiting.items() if place < len(records)]
        place += 1
    return sorted(chosen[:most], key=lambda item: item[0])


def _samples(what: str, samples: list[Sample]) -> Iterator[Block]:
    if not samples:
        yield Paragraph(f"Nothing has been {what} yet.")
        return
    yield Paragraph(
        f"{len(samples)} {what} records, drawn at random from all rounds. Read them before you trust any number."
    )
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
