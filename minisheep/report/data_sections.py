"""The data funnel: how much each round wrote, what was dropped, by which rule, and what that rule means. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from minisheep import config
from minisheep.config import Settings
from minisheep.report.blocks import Bar, Bars, Block, Paragraph, Section, Table
from minisheep.report.gather import Gathered, ReportRound
from minisheep.rules.heuristics import INSTRUCTION_RULES, RESPONSE_RULES

MEANINGS = {
    **{f"generate.{name}": what for name, _, what in INSTRUCTION_RULES},
    **{f"filter.{name}": what for name, _, what in RESPONSE_RULES},
    "generate.too_similar": "is too near to a seed task or an earlier instruction (ROUGE-L)",
    "generate.no_task": "is a draft in which no task could be read",
    "filter.no_score": "has a judgement that holds no grade",
    "filter.not_best": "is not the best judged answer to its instruction",
    "filter.low_score": "is scored too low to be kept",
    "filter.high_perplexity": "is too unlikely for the model itself",
    "filter.crowded": "is in a cluster from which another was drawn",
    "filter.not_lowest": "is in a cluster where another is of lower perplexity",
}
"""What is dropped by a rule: it ..."""


def funnel_section(run: Gathered) -> Section:
    return Section("funnel", "Data funnel", tuple(_funnel_blocks(run)))


def _funnel_blocks(run: Gathered) -> Iterator[Block]:
    if not run.rounds:
        yield Paragraph("No round has been begun.")
        return
    for r in run.rounds:
        bars = tuple(_bars(r))
        if bars:
            yield Bars(f"Round {r.number}", bars)
    if not any(r.instructions for r in run.rounds):
        yield Paragraph("Nothing has been written yet.")
        return
    found = {r.number: r.dropped for r in run.rounds}
    rules = sorted({rule for drops in found.values() for rule in drops}, key=lambda rule: (_place(rule), rule))
    if not rules:
        yield Paragraph("Nothing was dropped.")
        return
    yield Table(
        ("dropped by", "what it drops", *(f"round {r.number}" for r in run.rounds)),
        tuple(
            (rule, MEANINGS.get(rule, ""), *(_share(found[r.number].get(rule, 0), _of(r, rule)) for r in run.rounds))
            for rule in rules
        ),
        "Shares are of the tasks that were read (generate) or of the answers (filter).",
        left=2,
    )


def _bars(r: ReportRound) -> Iterator[Bar]:
    before: int | None = None
    for name, count in r.stages:
        if count is None:
            continue
        # A draft holds several tasks, so that the first step is no loss.
        lost = f" (-{before - count})" if before is not None and before > count and name != "tasks in them" else ""
        yield Bar(name, count, f"{count:,}{lost}")
        before = count


def _of(r: ReportRound, rule: str) -> int:
    return dict(r.stages)["tasks in them"] or 0 if rule.startswith("generate.") else len(r.responses)


def _share(count: int, of: int) -> str:
    return "-" if not count else f"{count:,} ({count / of:.1%})" if of else f"{count:,}"


def _place(rule: str) -> int:
    """In the order in which the rules are asked; those that are not known stand last."""
    return list(MEANINGS).index(rule) if rule in MEANINGS else len(MEANINGS)


# How varied the data is, and how fit the judge: the numbers behind the findings, across rounds. Pure.
SIGNS = (
    ("judge", "judge"),
    ("judged", "pairs judged"),
    ("scored", "with a score"),
    ("saturation", "share at the top grade"),
    ("spread", "standard deviation of scores"),
    ("invalid", "says no grade"),
    ("length", "rank correlation with length"),
    ("agreement", "agrees with itself, asked in other words"),
    ("agreement_pairs", "pairs asked again"),
)


def health_section(run: Gathered) -> Section:
    return Section("watch", "Variety of the data, health of the judge", tuple(_health_blocks(run)))


def _health_blocks(run: Gathered) -> Iterator[Block]:
    varied = {r.title: r.diversity for r in run.rounds if r.diversity is not None}
    if varied:
        rows = [_row(name, path, varied) for name, path in _measures(varied)]
        yield Table(
            ("variety", *varied),
            tuple(row for row in rows if any(cell != "-" for cell in row[1:])),
            "Standard errors in parentheses, where there are drafts enough for one. Numbers of rounds of different size"
            " can be compared.",
        )
    else:
        yield Paragraph("There is no diversity.json: the variety of the data was not measured.")
    exams = {r.title: r.exam for r in run.rounds if r.exam is not None}
    if exams:
        kinds = sorted({kind for exam in exams.values() for kind in exam.spoiled})
        yield Table(
            ("exam", "judge", "AUC (standard error)", *kinds, "passed"),
            tuple(
                (
                    title,
                    name + (" (chosen)" if name == exam.chosen else ""),
                    f"{mark.auc:.2f} ({mark.se:.2f})",
                    *(f"{mark.kinds[kind]:.2f}" if kind in mark.kinds else "-" for kind in kinds),
                    "yes" if mark.passes else "no",
                )
                for title, exam in exams.items()
                for name, mark in exam.judges.items()
            ),
            "Right answers of seed tasks against the same spoiled: AUC over all, and for each kind; 0.5 is a coin.",
            left=2,
        )
    else:
        yield Paragraph("No judge sat an exam.")
    health = {r.title: r.health for r in run.rounds if r.health is not None}
    if health:
        yield Table(
            ("judge's health", *health),
            tuple((title, *(_number(found[name]) for found in health.values())) for name, title in SIGNS),
        )
    else:
        yield Paragraph("There is no judge.json: the judge's health was not measured, or no judge was asked.")


def _measures(varied: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    sizes = sorted({size for found in varied.values() for size in found["instructions"]["distinct"]}, key=int)
    yield "instructions", ("instructions", "count")
    for size in sizes:
        yield f"different pairs of words in {size}", ("instructions", "distinct", size)
    yield "near-duplicates dropped", ("instructions", "near_duplicates")
    yield "one opening's weight (0 all different)", ("instructions", "openings", "crowding")
    yield "commonest opening", ("instructions", "openings", "commonest")
    yield "one topic's weight", ("instructions", "topics", "crowding")
    yield "topics of the seeds that are hit", ("instructions", "topics", "hit")
    yield "ROUGE-L with the nearest earlier one, mean", ("instructions", "similarity", "mean")
    yield "kept answers", ("answers", "count")
    for size in sizes:
        yield f"answers: different pairs of words in {size}", ("answers", "distinct", size)
    yield "words in a kept answer, typically", ("answers", "words")
    yield "copies among kept answers", ("answers", "duplicates")
    yield "phrases that earlier rounds' answers hold", ("answers", "seen_before")
    yield "answers that end by themselves", ("answers", "ended")


def _row(name: str, path: tuple[str, ...], varied: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    cells = []
    for found in varied.values():
        value: Any = found
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        cells.append(_estimate(value))
    return (name, *cells)


def _estimate(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _number(value)
    error = value.get("error")
    return _number(value.get("value")) + (f" ({error:.2g})" if isinstance(error, int | float) else "")


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# Where the numbers are from: settings, versions, hashes. What a run's outcome follows from, in full.
PATHS = frozenset({"gguf", "inference_gguf", "weights"})
"""Entries of model.json that are paths: a report that is passed on tells the file's name and not the disk."""


def provenance_section(run: Gathered) -> Section:
    return Section("origins", "Settings, versions, hashes", tuple(_provenance_blocks(run)))


def _provenance_blocks(run: Gathered) -> Iterator[Block]:
    if run.settings:
        yield _settings(run.settings)
    else:
        yield Paragraph("The settings could not be read.")
    if run.model:
        versions = run.model.get("versions")
        told = [(name, _said(name, value)) for name, value in sorted(run.model.items()) if name != "versions"]
        yield Table(("model", ""), tuple(told), left=2)
        if isinstance(versions, dict):
            rows = tuple((str(name), str(value)) for name, value in sorted(versions.items()))
            yield Table(("version of", ""), rows, left=2)
    else:
        yield Paragraph("There is no model.json: the model's files and versions are not known.")
    hashes = [(f"digest of {name}", value) for name, value in sorted(run.inputs.items())]
    hashes += [(f"round-{r.number}/{name}", value) for r in run.rounds for name, value in r.hashes.items()]
    if hashes:
        yield Table(("file", "SHA-256, or the run's own digest"), tuple(hashes), left=2)
    if run.engines:
        yield Table(("engine",), tuple((engine,) for engine in run.engines))


def _settings(settings: Settings) -> Table:
    """Every setting; the paper's value stands beside what differs from it."""
    rows = []
    for name in config.names():
        value, default = getattr(settings, name), Settings.model_fields[name].default
        rows.append((name, config.group_of(name), _value(value), "" if value == default else _value(default)))
    return Table(("setting", "group", "value", "default, where it differs"), tuple(rows), left=4)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"


def _said(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part!r}" for key, part in sorted(value.items()))
    return PurePath(str(value)).name if name in PATHS else str(value)
