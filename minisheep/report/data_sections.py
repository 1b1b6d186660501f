"""Sections about a run's data: the funnel, variety and the judge's health, and where the numbers come from. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from minisheep import config
from minisheep.presets import PRESET_NOTES
from minisheep.report.blocks import Bar, Bars, Block, Paragraph, Table
from minisheep.report.gather import Gathered, ReportRound
from minisheep.terminal.record_browser import MEANINGS


def funnel_blocks(run: Gathered) -> Iterator[Block]:
    if not run.rounds:
        yield Paragraph("No round has started yet.")
        return
    for r in run.rounds:
        bars = tuple(_bars(r))
        if bars:
            yield Bars(f"Round {r.number}", bars)
    if not any(r.instructions for r in run.rounds):
        yield Paragraph("Nothing has been written yet.")
        return
    order = list(MEANINGS)
    rules = sorted(
        {rule for r in run.rounds for rule in r.dropped},
        key=lambda rule: (order.index(rule) if rule in MEANINGS else len(order), rule),
    )
    if not rules:
        yield Paragraph("Nothing was dropped.")
        return
    yield Table(
        ("rule", "drops what", *(f"round {r.number}" for r in run.rounds)),
        tuple((rule, MEANINGS.get(rule, ""), *(_share(r, rule) for r in run.rounds)) for rule in rules),
        "Percentages are of all tasks read from drafts (rules of generate) or of all answers (rules of filter).",
        left=2,
    )


def _bars(r: ReportRound) -> Iterator[Bar]:
    before: int | None = None
    for name, count in r.stages:
        if count is None:
            continue
        # A draft holds several tasks, so the step from drafts to tasks is no loss.
        lost = f" (-{before - count})" if before is not None and before > count and name != "tasks in them" else ""
        yield Bar(name, count, f"{count:,}{lost}")
        before = count


def _share(r: ReportRound, rule: str) -> str:
    count = r.dropped.get(rule, 0)
    total = dict(r.stages)["tasks in them"] or 0 if rule.startswith("generate.") else len(r.responses)
    return "-" if not count else f"{count:,} ({count / total:.1%})" if total else f"{count:,}"


SIGNS = (
    ("judge", "judge"),
    ("judged", "pairs judged"),
    ("scored", "with a score"),
    ("saturation", "share with the top score"),
    ("spread", "standard deviation of scores"),
    ("invalid", "share without a score"),
    ("length", "rank correlation of score and answer length"),
    ("agreement", "agreement with itself when asked in other words"),
    ("agreement_pairs", "pairs asked twice"),
)


def health_blocks(run: Gathered) -> Iterator[Block]:
    diversity = {r.title: r.diversity for r in run.rounds if r.diversity is not None}
    if diversity:
        rows = [
            (name, *(_estimate(measured, path) for measured in diversity.values()))
            for name, path in _variety_rows(diversity)
        ]
        yield Table(
            ("variety", *diversity),
            tuple(row for row in rows if any(cell != "-" for cell in row[1:])),
            "Parentheses hold standard errors, where there are enough drafts for one. Rounds of different size can be"
            " compared. Fewer distinct pairs, more concentration or more phrases seen before, from round to round, are"
            " signs of collapse.",
        )
    else:
        yield Paragraph("The variety of the data was not measured: there is no diversity.json.")
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
            "How well each judge tells right answers to seed tasks from the same answers spoiled on purpose: the AUC"
            " over all of them, then for each kind of damage. 0.5 is guessing, 1 is perfect.",
            left=2,
        )
    else:
        yield Paragraph("No judge took an exam.")
    health = {r.title: r.health for r in run.rounds if r.health is not None}
    if health:
        yield Table(
            ("judge's health", *health),
            tuple((title, *(_number(signs[name]) for signs in health.values())) for name, title in SIGNS),
            "A judge ranks little that gives most answers the top score or nearly all the same one, scores by length (a"
            " correlation far from 0) or disagrees with itself (far below 1). Even if nothing of this shows, its scores"
            " may be wrong: only the exam tells.",
        )
    else:
        yield Paragraph("There is no judge.json: no judge was asked, or its health was not measured.")


def _variety_rows(diversity: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The title of each row, and the path of its value in diversity.json."""
    sizes = sorted({size for measured in diversity.values() for size in measured["instructions"]["distinct"]}, key=int)
    yield "instructions", ("instructions", "count")
    for size in sizes:
        yield f"distinct word pairs, share in {size} words", ("instructions", "distinct", size)
    yield "near-duplicates dropped", ("instructions", "near_duplicates")
    yield "concentration of openings (0: all differ)", ("instructions", "openings", "crowding")
    yield "most common opening", ("instructions", "openings", "commonest")
    yield "concentration of topics (0: all differ)", ("instructions", "topics", "crowding")
    yield "topics of the seed tasks that occur", ("instructions", "topics", "hit")
    yield "mean ROUGE-L with the most similar earlier one", ("instructions", "similarity", "mean")
    yield "kept answers", ("answers", "count")
    for size in sizes:
        yield f"answers: distinct word pairs, share in {size} words", ("answers", "distinct", size)
    yield "typical number of words in a kept answer", ("answers", "words")
    yield "duplicates among kept answers", ("answers", "duplicates")
    yield "phrases already in answers of earlier rounds", ("answers", "seen_before")
    yield "answers that end by themselves", ("answers", "ended")


def _estimate(value: Any, path: tuple[str, ...]) -> str:
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping):
        return _number(value)
    error = value.get("error")
    return _number(value.get("value")) + (f" ({error:.2g})" if isinstance(error, int | float) else "")


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


PATHS = frozenset({"gguf", "inference_gguf", "weights"})
"""Entries of model.json that are paths. The report shows the file names alone, so it can be passed on."""


def provenance_blocks(run: Gathered) -> Iterator[Block]:
    if run.settings:
        note = PRESET_NOTES.get(run.preset, "of another version")
        said = f"{run.preset} ({note})" if run.preset else "not recorded (an earlier version made this run)"
        yield Paragraph(f"Preset: {said}.")
        settings = []
        for name in config.names():
            value, default = getattr(run.settings, name), config.Settings.model_fields[name].default
            settings.append((name, config.group_of(name), _value(value), "" if value == default else _value(default)))
        yield Table(("setting", "group", "value", "default, if different"), tuple(settings), left=4)
    else:
        yield Paragraph("The settings could not be read.")
    if run.model:
        versions = run.model.get("versions")
        rows = tuple(
            (name, _model_entry(name, value)) for name, value in sorted(run.model.items()) if name != "versions"
        )
        yield Table(("model", ""), rows, left=2)
        if isinstance(versions, dict):
            rows = tuple((str(name), str(value)) for name, value in sorted(versions.items()))
            yield Table(("version of", ""), rows, left=2)
    else:
        yield Paragraph("The model's files and versions are not known: there is no model.json.")
    hashes = [(f"digest of {name}", value) for name, value in sorted(run.inputs.items())]
    hashes += [(f"round-{r.number}/{name}", value) for r in run.rounds for name, value in r.hashes.items()]
    if hashes:
        yield Table(("file", "SHA-256 or digest"), tuple(hashes), left=2)
    if run.engines:
        yield Table(("engine",), tuple((engine,) for engine in run.engines))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"


def _model_entry(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part!r}" for key, part in sorted(value.items()))
    return PurePath(str(value)).name if name in PATHS else str(value)
