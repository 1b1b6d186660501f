"""What a worker reports while it works: small typed messages, one JSON object a line.

The parent draws them, keeps them in ``events.jsonl`` and decides nothing by them except that a job ended: the run
folder is the truth. An event never carries a whole record, only what a person watching wants to see.

Progress and glimpses matter only while they are new, so `Present` keeps the newest of each kind in
``scratch/present.json``, for screens in other processes. Nothing depends on that file: a full disk leaves it as it was,
and a reader takes no file, or half of one, as nothing to show.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from minisheep.errors import DiskError, UsageError
from minisheep.run.typed import METRICS, NotOfShapeError, check, check_fields


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The loop opened a run folder."""

    run: str
    model: str
    rounds: int
    engine: str
    trainer: str
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class EngineReady:
    """A worker loaded its model, or goes on with fewer slots; `description` names back-end, quantisation and slots."""

    backend: str
    description: str


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    round: int
    phase: str
    total: int = 0
    """How many items the phase will make; 0 where that is not known."""
    done: int = 0
    """How many were already there from before an interruption."""
    unit: str = "records"


@dataclass(frozen=True, slots=True)
class Progress:
    round: int
    phase: str
    done: int
    total: int = 0
    detail: str = ""
    """A short plain text such as ``kept 12, dropped 30``; may hold model text, so it is sanitised where shown."""
    running: int = 0
    """Sequences that are being written beside those that are done."""
    share: float = 0.0
    """Of the work that there was when the phase began, where `done` does not tell; 0 before that is known."""


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What goes on at this moment, at most once a second, for people who watch. Only the newest is kept."""

    round: int
    phase: str
    tokens_per_second: float = 0.0
    """Tokens that the engine computed, prompts included, since the last glimpse."""
    running: int = 0
    """Sequences in decoding, of `slots`."""
    slots: int = 0
    instruction: str = ""
    """The newest texts, cut short; model text, so they are sanitised where shown."""
    answer: str = ""
    score: float | None = None
    quality: float | None = None
    following: float | None = None
    judge: str = ""
    """Whose scores they are, and those of the histogram."""
    edges: list[float] = field(default_factory=list)
    histogram: list[int] = field(default_factory=list)
    """The scores so far: how many lie between two neighbouring edges."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The phase waits until the pause is lifted, or (not `paused`) goes on after it."""

    round: int
    phase: str
    paused: bool


@dataclass(frozen=True, slots=True)
class Stopping:
    """The user asked the run to stop; it ends after the record in hand."""


@dataclass(frozen=True, slots=True)
class TrainStep:
    round: int
    step: int
    total: int
    loss: float
    """Mean negative log-likelihood per supervised token, in nats."""
    learning_rate: float
    tokens_per_second: float
    validation_loss: float | None = None


@dataclass(frozen=True, slots=True)
class PhaseFinished:
    round: int
    phase: str
    seconds: float
    counts: dict[str, float]


@dataclass(frozen=True, slots=True)
class RoundMeasured:
    """The metrics of one round (0 is the base model), as written to its ``metrics.json``."""

    round: int
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TaskMeasured:
    """The score of a round (0 is the base model) on a task of the harness is in `file`, now or from before."""

    round: int
    task: str
    file: str
    stored: bool = False
    """Whether it was there already."""


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """More of an answer in a chat. Model text: sanitised where shown."""

    round: int
    text: str


@dataclass(frozen=True, slots=True)
class AnswerDone:
    """An answer in a chat is whole, or was stopped."""

    round: int
    finish: str
    """``end``, ``stop``, ``length`` or ``stopped``."""
    tokens: int
    left_out: int = 0
    """Earlier turns that no longer fit the context."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the user should know: which fall-back is in use, what was re-quantised, what looks wrong."""

    text: str
    level: str = "info"
    """``info`` or ``warning``."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended with an error: the name of its class, what happened and what to do."""

    kind: str
    message: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A result of a probe or a measurement, before its job ended."""

    what: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobDone:
    """The job ended well; its results are on disk, or they are `facts`."""

    job: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunFinished:
    run: str
    rounds: int
    """Rounds that were done."""
    seconds: float
    best: int | None = None
    """The round to use; 0 for the base model."""
    early: bool = False
    """Whether the run ended before its last round, since none of the last ones was a gain."""


Event = (
    RunStarted
    | EngineReady
    | PhaseStarted
    | Progress
    | Glimpse
    | Paused
    | Stopping
    | TrainStep
    | PhaseFinished
    | RoundMeasured
    | TaskMeasured
    | AnswerPart
    | AnswerDone
    | Note
    | Failed
    | Found
    | JobDone
    | RunFinished
)
Emit = Callable[[Event], None]


def notes(emit: Emit) -> Callable[[str], None]:
    """What takes plain lines for the user and emits each as a `Note`."""
    return lambda text: emit(Note(text))


KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


def to_dict(event: Event) -> dict[str, Any]:
    """The event as a JSON-ready dictionary whose ``event`` is its kind."""
    return {"event": type(event).__name__, **dataclasses.asdict(event)}


def from_dict(data: dict[str, Any]) -> Event:
    """The event that `to_dict` wrote.

    Raises ValueError if `data` is no event: an unknown kind, or fields that do not belong to it.
    """
    fields = dict(data)
    kind = KINDS.get(str(fields.pop("event", "")))
    if kind is None:
        raise ValueError(f"not an event: {data!r}")
    try:
        check_fields(kind, fields)
        event: Event = kind(**fields)
        if isinstance(event, RoundMeasured):
            check(event.metrics, METRICS)
    except (TypeError, NotOfShapeError) as error:
        raise ValueError(f"not an event: {str(data)[:200]} ({error})") from error
    return event


LATEST = 1e11
"""No clock shows a later time, in seconds since the epoch."""
Timed = tuple[float, Event]
"""An event and its time, in seconds since the epoch."""


class Present:
    """Writes ``scratch/present.json``; one a run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: dict[str, dict[str, Any]] = {}

    def __call__(self, event: Progress | Glimpse) -> None:
        self._newest[type(event).__name__] = {"time": round(time.time(), 3), **to_dict(event)}
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        # Not synced: after a crash nothing goes on.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(list(self._newest.values())), encoding="utf-8")
            os.replace(temporary, self._path)


def read(path: Path) -> list[Timed]:
    """The newest event of each kind, oldest first."""
    try:
        return sorted((timed(line) for line in json.loads(path.read_bytes())), key=lambda event: event[0])
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def timed(line: Any) -> Timed:
    """An event and its time from a line of ``events.jsonl``. Raises ValueError or TypeError if it is none."""
    fields = dict(line)
    seconds = float(fields.pop("time", 0.0))
    if not 0 <= seconds < LATEST:
        raise ValueError(f"not a time: {seconds}")
    return seconds, from_dict(fields)


class EventTail:
    """The events of a file that may still grow. Only whole lines are taken; one that is no event is passed over."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """offset: of the byte to begin with, that of a line."""
        self._path = path
        self._offset = offset
        self.lines = 0
        """Whole lines that were read, events or not."""

    def new(self) -> Iterator[tuple[int, Timed]]:
        """What came since the last call, each event with the number of its line, from 0 at the first that was read."""
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            if os.fstat(file.fileno()).st_size < self._offset:
                # Another run was made in the same place.
                self._offset = self.lines = 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self.lines += 1
                try:
                    event = timed(json.loads(line))
                except (ValueError, TypeError, RecursionError):
                    continue
                yield self.lines - 1, event


_seen: dict[str, int] = {}


def point(phase: str) -> None:
    """A phase calls this after each record on disk. Causes a fault on demand, so that tests can show what happens then.

    ``MINISHEEP_FAULT=abort:respond:3`` aborts the process (as a failed assertion in native code would) at the third
    record of the phase; ``full:respond:3`` raises the error of a full disk there. ``kill`` ends a worker without a
    word, ``kill-parent`` the process that started it, ``kill-both`` the two.
    """
    fault = os.environ.get("MINISHEEP_FAULT")
    if not fault:
        return
    if not re.fullmatch(r"[a-z-]+:[a-z -]+:[0-9]+", fault):
        raise UsageError(f"MINISHEEP_FAULT is {fault!r}, and this variable is for tests.", "Unset it.")
    kind, name, count = fault.split(":")
    if name != phase:
        return
    _seen[name] = _seen.get(name, 0) + 1
    if _seen[name] == int(count):
        if kind == "abort":
            os.abort()
        if kind.startswith("kill"):
            # Only a worker leads a session of its own: a phase that runs in its caller's process ends nobody.
            if kind != "kill" and os.getsid(0) == os.getpid():
                os.kill(os.getppid(), signal.SIGKILL)
            if kind != "kill-parent":
                os.kill(os.getpid(), signal.SIGKILL)
            return
        raise DiskError(f"Injected fault: {os.strerror(errno.ENOSPC)}.", "Give the same command again.")
