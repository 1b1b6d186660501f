"""How varied the data is, and how fit the judge: the numbers behind the findings, across rounds. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minisheep.report.blocks import Block, Paragraph, Section, Table
from minisheep.report.gather import Gathered

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


def section(run: Gathered) -> Section:
    return Section("watch", "Variety of the data, health of the judge", tuple(_blocks(run)))


def _blocks(run: Gathered) -> Iterator[Block]:
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
