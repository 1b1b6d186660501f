"""What a run says of itself for the cards: numbers from its files, each in words. Reads, never writes.

A run may be of an earlier version or unfinished: what its files do not hold is left out and never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minisheep.compare import table
from minisheep.errors import CorruptRunError, UsageError
from minisheep.export.choose import Choice
from minisheep.records import Example
from minisheep.run.comparison import compare
from minisheep.ui.sanitise import one_line

SOURCES = (
    "The instructions and the answers were written by the model itself, from five seed tasks at a time, and judged by"
    " the model itself. No person read them."
)


@dataclass(frozen=True, slots=True)
class RoundData:
    """One round's data: how much was made and kept, and why the rest was dropped."""

    number: int
    instructions: int
    kept: list[Example]
    dropped: dict[str, int]
    """By rule."""
    judge: str


def rounds(choice: Choice) -> list[RoundData]:
    """The data of the rounds up to the exported one. Raises `errors.CorruptRunError`."""
    found = []
    for one in choice.run.rounds:
        if one.number > choice.round or not one.folder.kept.exists():
            continue
        data = _object(one.metrics.get("data"))
        dropped = {str(k): int(v) for k, v in _object(data.get("dropped_by_rule")).items()}
        judge = str(_object(data.get("scores")).get("judge") or choice.run.settings.judge)
        found.append(RoundData(one.number, int(data.get("instructions") or 0), one.kept, dropped, judge))
    return found


def trained_on(choice: Choice) -> tuple[int, ...]:
    """The rounds whose data the exported adapter has seen, by the run's strategy."""
    if choice.run.settings.strategy in ("one-base", "direct"):
        return (choice.round,)
    return tuple(range(1, choice.round + 1))


def measures(choice: Choice) -> list[tuple[str, str, str]]:
    """Each measure of base and exported round, as ``30% [14, 48]``; empty where they were not both measured."""
    try:
        rows = {row.measured.round: row for row in compare([str(choice.run.path)]).rows}
    except (UsageError, CorruptRunError):
        return []
    if 0 not in rows or choice.round not in rows:
        return []
    base, ours = rows[0], rows[choice.round]
    found = []
    for metric in table.metrics_of([base, ours]):
        cells = [table.cell(metric, row.measured.values.get(metric.name)) for row in (base, ours)]
        found.append((one_line(" ".join(part for part in metric.title if part)), cells[0], cells[1]))
    return found


def training(choice: Choice) -> dict[str, str]:
    """How the adapter was trained, by the settings and the round's training.json."""
    settings = choice.run.settings
    told = choice.run.round(choice.round).training
    found = {
        "method": "I-SHEEP (arXiv 2408.08072), strategy " + settings.strategy,
        "adapter": f"LoRA, rank {settings.lora_rank}, alpha {settings.lora_alpha:g}, all linear layers",
        "learning rate": f"{settings.learning_rate:g}, cosine, {settings.warmup_steps} steps of warm-up",
        "epochs": f"{settings.epochs}, {settings.batch_size} examples a step",
        "base precision": str(told.get("load_in") or settings.load_in),
        "seed": str(settings.seed),
    }
    for name in ("examples", "steps", "tokens"):
        if isinstance(told.get(name), int):
            found[name] = f"{told[name]:,}"
    return found


def _object(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}
