"""What the screen knows of a run. Plain values of checked types, so that drawing need not doubt them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from minisheep.screen.machine import Machine

ROUND = ("exam", "generate", "respond", "judge", "filter", "train", "evaluate")
"""The stages of a round, in order."""

Key = tuple[int, str]
"""Round and name of a stage; round 0 is the base model."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of one round. Times are seconds since the epoch."""

    begun: float
    unit: str = ""
    total: int = 0
    """0 where it is not known."""
    done: int = 0
    first: int = 0
    """What was there already when it was begun."""
    at: float = 0.0
    """When `done` was true."""
    paused: float = 0.0
    """Seconds of pause since it was begun."""
    took: float | None = None
    """Seconds, once it is done."""

    def rate(self) -> float | None:
        """Records a second; None before anything can be said."""
        seconds = self.took if self.took is not None else self.at - self.begun - self.paused
        made = self.done - self.first
        return made / seconds if made > 0 and seconds >= 1 else None

    def left(self, now: float) -> float | None:
        """Seconds until it is done, if it goes on as until now."""
        rate = self.rate()
        if rate is None or not self.total or self.took is not None:
            return None
        return max(0.0, (self.total - self.done) / rate - max(0.0, now - self.at))


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
class Newest:
    """The newest texts, and how they were judged."""

    where: Key
    instruction: str
    answer: str = ""
    scores: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """A warning or another line, when and where it was said, and how often."""

    at: float
    where: Key | None
    text: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class State:
    """A run as its events tell it; `fold.fold` makes the next one."""

    plan: tuple[Key, ...] = ()
    """All stages of a run of full length."""
    run: str = ""
    model: str = ""
    engine: str = ""
    """Back-end, threads and quantisation, as the worker tells them."""
    rounds: int = 0
    begun: float = 0.0
    """When the present start of the run was."""
    now: Key | None = None
    """The stage that is being worked on."""
    stages: Mapping[Key, Stage] = field(default_factory=dict)
    paused_at: float | None = None
    tokens_per_second: float = 0.0
    running: int = 0
    slots: int = 0
    newest: Newest | None = None
    histogram: Histogram | None = None
    losses: Losses = field(default_factory=Losses)
    measured: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """By round the cells of `ui.words.metric_rows`, by the name of their row."""
    best: int | None = None
    """The round to use, as the newest evaluation decided."""
    warnings: tuple[Said, ...] = ()
    """All of them, oldest first: a warning stays."""
    said: tuple[Said, ...] = ()
    """The newest other lines."""
    ended: str = ""
    """How the run ended, in words; empty while it goes on."""
    outcome: str = ""
    """``finished``, ``stopped`` or ``failed``; empty while it goes on."""

    @property
    def round(self) -> int:
        """The round that is being worked on, or was last."""
        return self.now[0] if self.now else max((round for round, _ in self.stages), default=0)


@dataclass(frozen=True, slots=True)
class Look:
    """What the screen knows beside the events."""

    machine: Machine = field(default_factory=Machine)
    help: bool = False
    """Whether the explanation is shown in place of the run."""
    pausing: bool = False
    """Whether a pause is asked for, be it in force or not."""
    alive: bool = True
    """Whether a process works on the run."""
    told: str = ""
    """What a key led to, for a moment."""
