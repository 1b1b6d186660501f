"""What a run's numbers mean, in words: is a round better, did the data collapse, can the judge be trusted. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from minisheep.report.blocks import Block, Item, Items, Paragraph, Section
from minisheep.report.gather import Gathered, Round
from minisheep.stages.alarms import alarms
from minisheep.stages.exam import failed_warning
from minisheep.stages.judge_health import LEAST_PAIRS, findings

MOST_WARNINGS = 30
"""Other warnings of the run that are repeated here."""


def section(run: Gathered) -> Section:
    return Section("findings", "Findings", tuple(_blocks(run)))


def _blocks(run: Gathered) -> Iterator[Block]:
    items = [*_gains(run), *_collapse(run), *(item for r in run.rounds for item in _judge(r))]
    told = {item.text for item in items}
    others = [text for text in run.warnings if not any(text in said or said in text for said in told)]
    items += [Item(text, "warning") for text in others[:MOST_WARNINGS]]
    if len(others) > MOST_WARNINGS:
        items.append(Item(f"{len(others) - MOST_WARNINGS} more warnings are in events.jsonl."))
    yield Items(tuple(items)) if items else Paragraph("Nothing has been measured yet.")
    if run.notes:
        yield Paragraph("What could not be read:")
        yield Items(tuple(Item(note, "warning") for note in run.notes))


def _gains(run: Gathered) -> Iterator[Item]:
    for r in run.measured:
        decision = (r.metrics or {}).get("decision", {})
        if decision.get("text"):
            levels = {"gain": "good", "none": "plain"}
            yield Item(str(decision["text"]), levels.get(decision.get("outcome"), "warning"))  # type: ignore[arg-type]
        elif r.number and "decision" not in (r.metrics or {}):
            yield Item(f"Round {r.number} was measured by a version that compared no rounds; its numbers are below.")


def _collapse(run: Gathered) -> Iterator[Item]:
    found = {r.number: r.diversity for r in run.rounds if r.diversity is not None}
    # Each round beside the first, as the run itself looked at them; what several rounds show is said of each.
    numbers = sorted(found)
    raised = [
        Item(a.text, "warning") for n in numbers[1:] for a in alarms({numbers[0]: found[numbers[0]], n: found[n]})
    ]
    yield from raised
    if len(numbers) > 1 and not raised:
        last = numbers[-1]
        yield Item(
            f"No sign of collapse: beside round {numbers[0]}, the data of"
            f" {'round 2' if numbers == [1, 2] else f'rounds {numbers[1]} to {last}'} is as varied, beyond what chance"
            " explains.",
            "good",
        )
    elif len(numbers) == 1:
        yield Item("Collapse shows between rounds, and the variety of one round alone was measured.")
    elif run.rounds:
        yield Item("The variety of the data was not measured, so nothing is said about collapse.")


def _judge(r: Round) -> Iterator[Item]:
    if r.exam is not None:
        text = f"Round {r.number}: {r.exam.why}"
        yield Item(text, "good") if r.exam.passed else Item(f"Round {r.number}: {failed_warning(r.exam)}", "warning")
    if r.health is None:
        return
    found = findings(r.health)
    for text in found:
        yield Item(f"The judge of round {r.number}, {text}", "warning")
    if not found and r.health["scored"] >= LEAST_PAIRS:
        yield Item(f"The judge of round {r.number}, {r.health['judge']}, shows none of the signs of a bad one.", "good")
    elif not found:
        yield Item(f"Round {r.number}: too few pairs were judged ({r.health['scored']}) to say how fit the judge is.")
