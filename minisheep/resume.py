"""What phases need to go on where they stopped, and to hold little in memory while they work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from minisheep.records import Draft, Instruction, Record, Rejection, Verdict
from minisheep.rules.prompts import user_text
from minisheep.stages.generate import Harvest
from minisheep.store import each_record

T = TypeVar("T")
R = TypeVar("R")

BATCH = 1000
"""Records that an engine is asked for at once: so many that its slots are hardly ever idle at the end of a batch, and
so few that their prompts take little memory in a round of any size."""


def in_batches(ask: Callable[[list[T]], Iterator[R]], items: list[T]) -> Iterator[R]:
    """What `ask` gives for at most `BATCH` items at a time."""
    for start in range(0, len(items), BATCH):
        yield from ask(items[start : start + BATCH])


@contextmanager
def closing(items: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """Closes an engine's iterator, so that what is still in flight is dropped."""
    try:
        yield items
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def replay(harvest: Harvest, drafts: dict[int, Draft], kept: list[Instruction], rejected: list[Rejection]) -> set[str]:
    """Take over what was decided before an interruption, so that no old pair is compared again.

    Every draft leaves a record, and in order, so all but the last that did are decided in full: they are taken out of
    `drafts`. Returns the ids of those records on disk whose draft must be read again.
    """
    parents = {record.draft for record in kept} | {record.parent for record in rejected if record.stage == "generate"}
    decided: list[Draft] = []
    while (draft := drafts.get(len(decided))) is not None and draft.id in parents:
        decided.append(draft)
    for draft in decided[:-1]:
        del drafts[draft.index]
    settled = {draft.id for draft in decided[:-1]}
    harvest.drafts += len(settled)
    harvest.kept += [record for record in kept if record.draft in settled]
    harvest.rejected += [record for record in rejected if record.parent in settled]
    for record in harvest.kept:
        harvest.novelty.add(user_text(record.instruction, record.input))
    return {r.id for r in kept if r.draft not in settled} | {r.id for r in rejected if r.parent not in settled}


def fresh(records: list[Any], on_disk: set[str]) -> list[dict[str, Any]]:
    """Those that an interrupted run has not written yet."""
    new: list[Record] = [record for record in records if record.id not in on_disk]
    return [record.to_dict() for record in new]


def verdicts_without_raw(path: Path) -> list[Verdict]:
    """The verdicts of a file without their raw numbers, which take most of their memory and decide nothing."""
    verdicts: list[Verdict] = []
    for verdict in each_record(path, Verdict):
        verdict.raw.clear()
        verdicts.append(verdict)
    return verdicts
