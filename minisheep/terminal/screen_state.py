"""What the screen knows of a run: its state, how events change it, and the reader of the run's events.

State holds plain values of checked types, so that drawing need not check them. `fold` is pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minisheep.machine.system import MachineLoad
from minisheep.rules.plain_text import one_line
from minisheep.run import events, run_state
from minisheep.run.events import Event, Timed
from minisheep.run.folder import RunFolder
from minisheep.run.time_left import Course, Key, Outlook, Stage, finite, follow, key_of
from minisheep.run.verdict import curve
from minisheep.terminal import words

ROUND = ("exam", "generate", "respond", "judge", "filter", "train", "evaluate")
"""The stages of a round, in order."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss curve of one training: (step, nats per token), steps ascending."""

    round: int = 0
    total: int = 0
    training: tuple[tuple[int, float], ...] = ()
    validation: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """Judge scores of a round: how many lie between two neighbouring edges."""

    round: int
    judge: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NewestTexts:
    """The newest texts, and how they were judged."""

    where: Key
    instruction: str
    answer: str = ""
    scores: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class LogLine:
    """A warning or another line: when, in which stage, and how often."""

    at: float
    where: Key | None
    text: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class State:
    """A run according to its events; `fold` makes the next state."""

    outlook: Outlook = field(default_factory=Outlook)
    """What is known beside the events."""
    run: str = ""
    model: str = ""
    engine: str = ""
    """Back-end, threads and quantisation, as the worker tells them."""
    rounds: int = 0
    begun: float = 0.0
    """When the present start of the run was."""
    course: Course = field(default_factory=Course)
    """The stages so far."""
    stopping: bool = False
    """Whether the user asked it to stop."""
    tokens_per_second: float = 0.0
    running: int = 0
    slots: int = 0
    newest: tuple[NewestTexts, ...] = ()
    """The newest texts and some before them, the newest first."""
    histogram: Histogram | None = None
    losses: Losses = field(default_factory=Losses)
    measured: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """By round the cells of `terminal.words.metric_rows`, by the name of their row."""
    draws: Mapping[str, Mapping[int, tuple[int, int]]] = field(default_factory=dict)
    """By kind of constraint and round, how many answers were drawn and how many of them kept it."""
    best: int | None = None
    """The round to use, as the newest evaluation decided."""
    warnings: tuple[LogLine, ...] = ()
    """All of them, oldest first: a warning stays."""
    lines: tuple[LogLine, ...] = ()
    """The newest other lines."""
    ended: str = ""
    """How the run ended, in words; empty while it goes on."""
    outcome: str = ""
    """``finished``, ``finished early``, ``stopped`` or ``failed`` (see `run.run_state`); empty while it goes on."""

    @property
    def plan(self) -> tuple[Key, ...]:
        return self.outlook.plan

    @property
    def now(self) -> Key | None:
        """The stage that is being worked on."""
        return self.course.now

    @property
    def stages(self) -> Mapping[Key, Stage]:
        return self.course.stages

    @property
    def paused_at(self) -> float | None:
        return self.course.paused_at

    @property
    def round(self) -> int:
        """The round that is being worked on, or was last."""
        return self.now[0] if self.now else max((round for round, _ in self.stages), default=0)


@dataclass(frozen=True, slots=True)
class Look:
    """What the screen knows beside the events."""

    machine: MachineLoad = field(default_factory=MachineLoad)
    help: bool = False
    """Whether the explanation is shown in place of the run."""
    pausing: bool = False
    """Whether a pause is asked for, in force or not."""
    alive: bool = True
    """Whether a process works on the run."""
    message: str = ""
    """The effect of a key, shown for a moment."""


# An event may come from another version of minisheep or from a damaged line, so any field may hold anything: each value
# is checked for its type, and an event that makes no sense leaves the state as it is.
LINES = 30
"""Lines that are kept beside the warnings."""
WARNINGS = 200
SAMPLES = 6


def fold(state: State, event: Event, at: float) -> State:
    """The state after `event`, which happened at `at` (seconds since the epoch)."""
    step = _STEPS.get(type(event))
    try:
        state = replace(state, course=follow(state.course, event, at))
        return step(state, event, at) if step is not None else state
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError):
        return state


def _run_started(state: State, event: events.RunStarted, at: float) -> State:
    return replace(
        state, run=str(event.run), model=str(event.model), rounds=int(event.rounds), begun=at, stopping=False,
        ended="", outcome="", tokens_per_second=0.0, running=0,
    )  # fmt: skip


def _engine_ready(state: State, event: events.EngineReady, at: float) -> State:
    return replace(state, engine=str(event.description))


def _phase_started(state: State, event: events.PhaseStarted, at: float) -> State:
    return replace(state, tokens_per_second=0.0, running=0)


def _glimpse(state: State, event: events.Glimpse, at: float) -> State:
    key = key_of(event)
    updated = state
    if event.instruction:
        named = (("score", event.score), ("quality", event.quality), ("following", event.following))
        scores = tuple((name, float(value)) for name, value in named if value is not None and math.isfinite(value))
        texts = NewestTexts(key, str(event.instruction), str(event.answer), scores)
        before = [old for old in updated.newest if (old.instruction, old.answer) != (texts.instruction, texts.answer)]
        updated = replace(updated, newest=(texts, *before)[:SAMPLES])
    if event.histogram and len(event.edges) == len(event.histogram) + 1:
        updated = replace(updated, histogram=_histogram(key[0], event.judge, event.edges, event.histogram))
    # A glimpse may be left over from before the phase was begun again.
    if state.now != key or at < state.stages[key].begun:
        return updated
    return replace(
        updated,
        tokens_per_second=finite(event.tokens_per_second),
        running=int(event.running),
        slots=int(event.slots),
    )


def _paused(state: State, event: events.Paused, at: float) -> State:
    return replace(state, tokens_per_second=0.0) if event.paused else state


def _stopping(state: State, event: events.Stopping, at: float) -> State:
    return _add_line(replace(state, stopping=True), at, state.now, words.line(event))


def _train_step(state: State, event: events.TrainStep, at: float) -> State:
    key, step = (int(event.round), "train"), int(event.step)
    before = state.losses if state.losses.round == key[0] else Losses(key[0])
    # A training that goes on from a checkpoint does some steps again.
    training, validation = _before(before.training, step), _before(before.validation, step)
    if math.isfinite(event.loss):
        training += ((step, float(event.loss)),)
    if event.validation_loss is not None and math.isfinite(event.validation_loss):
        validation += ((step, float(event.validation_loss)),)
    losses = Losses(key[0], int(event.total), training, validation)
    return replace(state, losses=losses, tokens_per_second=finite(event.tokens_per_second))


def _before(points: tuple[tuple[int, float], ...], step: int) -> tuple[tuple[int, float], ...]:
    """The points before a step; quickly where all are, as nearly always."""
    return points if not points or points[-1][0] < step else tuple(point for point in points if point[0] < step)


def _phase_finished(state: State, event: events.PhaseFinished, at: float) -> State:
    logged = _add_line(state, at, key_of(event), words.line(event))
    return replace(logged, tokens_per_second=0.0, running=0)


def _round_measured(state: State, event: events.RoundMeasured, at: float) -> State:
    number, metrics = int(event.round), event.metrics
    _, rows = words.metric_rows([metrics])
    measured = {**state.measured, number: {name.strip(): one_line(cells[0], 40) for name, cells in rows}}
    updated = replace(state, measured=dict(sorted(measured.items())))
    best = metrics.get("decision", {}).get("best")
    if isinstance(best, int):
        updated = replace(updated, best=best)
    for kind, by_round in curve([metrics]).items():
        name = one_line(kind, 60)
        updated = replace(updated, draws={**updated.draws, name: {**updated.draws.get(name, {}), **by_round}})
    scores = metrics.get("data", {}).get("scores")
    if scores:
        drawn = scores["histogram"]
        updated = replace(updated, histogram=_histogram(number, scores["judge"], drawn["edges"], drawn["counts"]))
    return updated


def _note(state: State, event: events.Note, at: float) -> State:
    if event.level != "warning":
        return _add_line(state, at, state.now, str(event.text))
    same = [w for w in state.warnings if w.text == event.text]
    others = tuple(w for w in state.warnings if w.text != event.text)
    times = same[0].times + 1 if same else 1
    return replace(state, warnings=(*others, LogLine(at, state.now, str(event.text), times))[-WARNINGS:])


def _failed(state: State, event: events.Failed, at: float) -> State:
    outcome = run_state.STOPPED if event.kind == "Stopped" else run_state.FAILED
    return replace(state, ended=words.line(event), outcome=outcome)


def _run_finished(state: State, event: events.RunFinished, at: float) -> State:
    best = event.best if isinstance(event.best, int) else state.best
    outcome = run_state.EARLY if event.early is True else run_state.FINISHED
    return replace(state, ended=words.finished(event), outcome=outcome, best=best)


def _add_line(state: State, at: float, where: Key | None, text: str) -> State:
    return replace(state, lines=(*state.lines, LogLine(at, where, text))[-LINES:])


def _histogram(round: int, judge: Any, edges: Any, counts: Any) -> Histogram:
    return Histogram(round, str(judge), tuple(map(finite, edges)), tuple(map(int, counts)))


_STEPS: dict[type, Callable[[State, Any, float], State]] = {
    events.RunStarted: _run_started,
    events.EngineReady: _engine_ready,
    events.PhaseStarted: _phase_started,
    events.Glimpse: _glimpse,
    events.Paused: _paused,
    events.Stopping: _stopping,
    events.TrainStep: _train_step,
    events.PhaseFinished: _phase_finished,
    events.RoundMeasured: _round_measured,
    events.Note: _note,
    events.Failed: _failed,
    events.RunFinished: _run_finished,
}


class Follow:
    """Reads ``events.jsonl`` from its start and then what is added, and the present file when it changes.

    Only whole lines are taken; a line that is no event is passed over. Nothing is written.
    """

    def __init__(self, folder: RunFolder, *, newest: bool = False) -> None:
        """newest: begin with the newest start of the run."""
        self._folder = folder
        self._tail = events.EventTail(folder.events, _newest_start(folder.events) if newest else 0)
        self._stamp = 0
        self._seen: dict[str, float] = {}

    def new(self) -> list[Timed]:
        """The events since the last call, in order."""
        return [*(event for _line, event in self._tail.new()), *self._now()]

    def _now(self) -> Iterator[Timed]:
        path: Path = self._folder.present
        try:
            stamp = path.stat().st_mtime_ns
        except OSError:
            return
        if stamp == self._stamp:
            return
        self._stamp = stamp
        for at, event in events.read(path):
            kind = type(event).__name__
            if at > self._seen.get(kind, 0.0):
                self._seen[kind] = at
                yield at, event


def _newest_start(path: Path) -> int:
    """Where the newest start of a run begins in its events; 0 where none is told."""
    try:
        log = path.read_bytes()
    except OSError:
        return 0
    # Quotes within a text are escaped, so this stands nowhere else.
    return log.rfind(b"\n", 0, max(0, log.rfind(b'"event":"RunStarted"'))) + 1
