"""Records to read: kept and dropped ones, drawn by chance, the same ones every time. Numbers do not replace this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from minisheep.records import Example, Record, Rejection, derive_seed
from minisheep.report.blocks import Block, Paragraph, Sample, Samples, Section
from minisheep.report.gather import Gathered

MOST = 20
LONGEST = 6000
"""Characters of a field that are shown."""

R = TypeVar("R", bound=Record)
Numbered = list[tuple[int, R]]


def sections(run: Gathered) -> tuple[Section, Section]:
    kept = drawn([(r.number, example) for r in run.rounds for example in r.kept])
    dropped = drawn([(r.number, rejection) for r in run.rounds for rejection in r.rejected])
    return (
        Section("kept", "Kept records to read", tuple(_blocks("kept", [_kept(*item) for item in kept]))),
        Section("dropped", "Dropped records to read", tuple(_blocks("dropped", [_dropped(*item) for item in dropped]))),
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


def _blocks(what: str, samples: list[Sample]) -> Iterator[Block]:
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
