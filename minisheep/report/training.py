"""How the adapters were trained: loss curves and what each training saw. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minisheep.events import TrainStep
from minisheep.report.blocks import Block, Charts, Curves, Paragraph, Point, Section, Table
from minisheep.report.gather import Gathered
from minisheep.ui import words

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


def section(run: Gathered) -> Section:
    return Section("training", "Training", tuple(_blocks(run)))


def _blocks(run: Gathered) -> Iterator[Block]:
    trained = [r for r in run.rounds if r.training is not None]
    curves = tuple(curve for r in run.rounds if (curve := _curve(r.number, r.steps)) is not None)
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


def _curve(number: int, steps: tuple[TrainStep, ...]) -> Curves | None:
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
        return words.duration(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
