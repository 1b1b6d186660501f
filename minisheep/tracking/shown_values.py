"""What the events of a run show of it, as numbers with names. Pure: the same events give the same numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minisheep.rules.plain_text import one_line
from minisheep.run.events import Event, PhaseFinished, RoundMeasured, TrainStep
from minisheep.run.metric_catalogue import Estimate, estimate, mapping, round_values
from minisheep.run.verdict import curve, curve_totals

STEP, ROUND = "train/step", "round"
Samples = tuple[tuple[str, str, str], ...]
"""Rows of an instruction, the base's answer and the round's."""


@dataclass(frozen=True, slots=True)
class TrackedValues:
    """What one event shows."""

    axis: str
    """What `at` counts: `STEP`, optimizer steps of all trainings so far, or `ROUND`."""
    at: int
    round: int
    numbers: dict[str, float]
    """By names such as ``train/loss``; finite."""
    histogram: tuple[str, Sequence[float], Sequence[int]] | None = None
    """A name, edges of bins, and one fewer counts."""
    samples: Samples = ()
    measured: bool = False
    """Whether the round has answers to show."""


@dataclass(slots=True)
class ValueFold:
    """Takes events in order. What is said again after an interruption shows nothing again.

    judge: the judge of the settings, for rounds that name none.
    """

    judge: str
    _before: int = 0
    """Steps of the trainings before this one."""
    _step: int = 0
    _training: int = 0
    """The round that trains; 0 after a filter, since the next training begins anew."""
    _told: dict[tuple[str, int], Any] = field(default_factory=dict)

    def shown(self, event: Event) -> TrackedValues | None:
        """What an event shows, if that is new."""
        if isinstance(event, TrainStep):
            return self._train_step(event)
        if isinstance(event, PhaseFinished):
            if event.phase == "filter":
                self._training = 0
            if self._new(event.phase, event.round, event.counts):
                return TrackedValues(ROUND, event.round, event.round, _finite(_phase(event)))
        if isinstance(event, RoundMeasured) and self._new("measured", event.round, event.metrics):
            numbers = _finite(_measures(event.metrics, self.judge))
            return TrackedValues(ROUND, event.round, event.round, numbers, _histogram(event.metrics), measured=True)
        return None

    def _train_step(self, event: TrainStep) -> TrackedValues | None:
        if event.round != self._training:
            self._before, self._step, self._training = self._before + self._step, 0, event.round
        if event.step <= self._step:
            # Done again, from the checkpoint on.
            return None
        self._step = event.step
        numbers = [
            ("train/loss", event.loss),
            ("train/learning_rate", event.learning_rate),
            ("train/tokens_per_second", event.tokens_per_second),
        ]
        if event.validation_loss is not None:
            numbers.append(("train/validation_loss", event.validation_loss))
        return TrackedValues(STEP, self._before + event.step, event.round, _finite(numbers))

    def _new(self, what: str, round: int, value: Any) -> bool:
        known = self._told.get((what, round))
        self._told[what, round] = value
        return bool(known != value)


def _phase(event: PhaseFinished) -> Iterator[tuple[str, Any]]:
    yield f"seconds/{event.phase}", event.seconds
    # What an evaluation counts, the measures say.
    for name, count in event.counts.items() if event.phase != "evaluate" else ():
        yield f"counts/{event.phase}_{name}", count
        if name in ("tokens", "drafts", "judged") and count > 0 and event.seconds > 0:
            yield f"rates/{event.phase}_{name}_per_second", count / event.seconds


def _measures(metrics: Mapping[str, Any], judge: str) -> Iterator[tuple[str, Any]]:
    """The catalogue's values, what decides, drops by rule, scores, and both curves by kind of constraint."""
    data, model, decision = (mapping(metrics.get(name)) for name in ("data", "model", "decision"))
    for name, value in round_values(metrics, mapping(data.get("exam")), judge).items():
        if isinstance(value, Estimate):
            yield f"measures/{name}", value.value
    for name, found in mapping(decision.get("measures")).items():
        if (change := estimate(found)) is not None:
            ends = (("", change.value), ("_low", change.low), ("_high", change.high))
            yield from ((f"change/{name}{end}", value) for end, value in ends)
    yield from ((f"decision/{name}", decision.get(name)) for name in ("best", "without_gain"))
    yield from ((f"drops/{rule}", count) for rule, count in mapping(data.get("dropped_by_rule")).items())
    scores = mapping(data.get("scores"))
    yield from ((f"judge_scores/{name}", scores.get(name)) for name in ("mean", "sd", "saturation"))
    learned = curve([metrics])
    for name, by_round in {**learned, **({"all_kinds": curve_totals(learned)} if learned else {})}.items():
        yield from ((f"draws_that_keep/{name}", passed / drawn) for drawn, passed in by_round.values())
    for name, counts in mapping(model.get("verifiable_by_kind")).items():
        kept, of = (mapping(counts).get(part) for part in ("own", "n"))
        if isinstance(kept, int | float) and isinstance(of, int | float) and of:
            yield f"held_out_kept/{name}", kept / of


def _histogram(metrics: Mapping[str, Any]) -> tuple[str, Sequence[float], Sequence[int]] | None:
    found = mapping(mapping(mapping(metrics.get("data")).get("scores")).get("histogram"))
    edges, counts = found.get("edges"), found.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or not len(edges) == len(counts) + 1 > 1:
        return None
    return "judge_scores/histogram", edges, counts


def _finite(values: Iterator[tuple[str, Any]] | list[tuple[str, Any]]) -> dict[str, float]:
    """The numbers among values; a kind's colon is no part of a name that every service takes."""
    return {
        one_line(name, 100).replace(":", ".").replace(" ", "_"): float(value)
        for name, value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
