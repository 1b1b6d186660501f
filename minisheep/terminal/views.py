"""The three ways to watch a run: a live terminal, plain lines, JSON lines. Each takes events and draws them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from rich import progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from minisheep import api
from minisheep.rules import plain_text
from minisheep.run import events
from minisheep.run.folder import RunFolder
from minisheep.run.time_left import Course, Outlook, TimeLeft, follow, time_left
from minisheep.terminal import words

QUIET_SECONDS = 8.0
"""Plain output prints a line at least this often,"""
LONG_SECONDS = 60.0
"""or this often during a pause, and for JSON, which a program reads."""


class View(Protocol):
    def __call__(self, event: events.Event) -> None: ...

    def tick(self) -> None:
        """Called at least twice a second while a worker is busy."""

    def say(self, text: str) -> None:
        """A line that is no event."""

    def close(self) -> None: ...


class Forecast:
    """The time left of a run, from its events as they come."""

    def __init__(self) -> None:
        self._course, self._outlook = Course(), Outlook()
        self._folder: RunFolder | None = None

    def __call__(self, event: events.Event, at: float | None = None) -> None:
        """`at` is the time of the event in seconds since the epoch, if that is not now."""
        if isinstance(event, events.RunStarted):
            self._folder = RunFolder(Path(event.run))
        # Events of a damaged log may hold anything.
        with contextlib.suppress(TypeError, ValueError, AttributeError, OverflowError):
            self._course = follow(self._course, event, time.time() if at is None else at)
        if self._folder is not None and isinstance(event, events.PhaseStarted):
            # The phase before has left its time.
            self._outlook = api.outlook(self._folder)

    def left(self, at: float | None = None) -> TimeLeft:
        """As it was at `at`, in seconds since the epoch, if that is not now."""
        return time_left(self._course, self._outlook, time.time() if at is None else at)


class PlainView:
    """One line for each event, no escape codes; for logs, pipes and ``--plain``."""

    def __init__(self, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stdout
        self._clock = clock
        self._last = clock()
        self._phase_begun = clock()
        self._latest: events.Event | None = None
        self._forecast = Forecast()

    def __call__(self, event: events.Event, at: float | None = None) -> None:
        """`at` is the time of the event in seconds since the epoch, if that is not now."""
        self._forecast(event, at)
        if isinstance(event, events.PhaseStarted):
            self._phase_begun = self._clock()
        if isinstance(event, events.Progress | events.TrainStep):
            self._latest = event
            if isinstance(event, events.TrainStep) and event.validation_loss is not None:
                self.say(words.line(event))
            self.tick()
            return
        if isinstance(event, events.PhaseStarted | events.PhaseFinished | events.Paused):
            self._latest = None if isinstance(event, events.PhaseFinished) else event
        text = words.measured(event) if isinstance(event, events.RoundMeasured) else words.line(event)
        if text:
            self.say(text)

    def tick(self) -> None:
        paused = isinstance(self._latest, events.Paused) and self._latest.paused
        if self._clock() - self._last >= (LONG_SECONDS if paused else QUIET_SECONDS):
            spent = plain_text.duration(self._clock() - self._phase_begun)
            doing = f"{words.line(self._latest)}, {spent}" if self._latest else f"working, {spent}"
            left = "" if paused else self._forecast.left().in_words()
            self.say(f"{doing}; left: {left}" if left else doing)

    def say(self, text: str) -> None:
        self._last = self._clock()
        print(plain_text.sanitise(text), file=self._stream, flush=True)

    def close(self) -> None:
        pass


class JsonView(PlainView):
    """One JSON object a line, with the time, and nothing else. The newest progress is repeated after a silence."""

    def __call__(self, event: events.Event, at: float | None = None) -> None:
        """`at` is the time of the event in seconds since the epoch, if that is not now."""
        if isinstance(event, events.Progress | events.Paused):
            self._latest = event
        elif isinstance(event, events.PhaseStarted | events.PhaseFinished):
            self._latest = None
        self._last = self._clock()
        self._forecast(event, at)
        told = {}
        if isinstance(event, events.PhaseStarted | events.Progress | events.TrainStep):
            left = self._forecast.left(at)
            told = {"phase_left": _tenths(left.phase), "run_left": _tenths(left.run), "at_most": left.at_most}
        self._stream.write(
            json.dumps({"time": round(time.time() if at is None else at, 3), **events.to_dict(event), **told}) + "\n"
        )
        self._stream.flush()

    def tick(self) -> None:
        if self._clock() - self._last >= LONG_SECONDS:
            self(self._latest or events.Note("working"))

    def say(self, text: str) -> None:
        self(events.Note(text))


def _tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


class LiveView:
    """A progress bar for each phase, with counts and time left; other events scroll above it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[left]}", markup=False),
            progress.TextColumn("{task.fields[detail]}", markup=False),
            console=self.console,
            refresh_per_second=4,
            transient=True,
        )
        self._forecast = Forecast()
        self._task: progress.TaskID | None = None
        self._progress.start()

    def __call__(self, event: events.Event) -> None:
        self._forecast(event)
        if isinstance(event, events.PhaseStarted):
            self._drop_task()
            where, total = words.where(event.round, event.phase), event.total or None
            self._task = self._progress.add_task(where, total=total, completed=event.done, left="", detail="")
        elif isinstance(event, events.Progress):
            self._update(event.done, event.total, plain_text.one_line(event.detail, 40))
        elif isinstance(event, events.TrainStep):
            self._update(event.step, event.total, f"loss {event.loss:.3f}, {event.tokens_per_second:.0f} tokens/s")
        elif isinstance(event, events.RoundMeasured):
            self.say(words.measured(event), "bold")
        else:
            if isinstance(event, events.PhaseFinished):
                self._drop_task()
            text = words.line(event)
            if text:
                self.say(text, "yellow" if isinstance(event, events.Note) and event.level == "warning" else "")

    def tick(self) -> None:
        pass

    def say(self, text: str, style: str = "") -> None:
        self._progress.console.print(Text(plain_text.sanitise(text), style=style))

    def close(self) -> None:
        self._progress.stop()

    def _update(self, done: int, total: int, detail: str) -> None:
        if self._task is not None:
            left = self._forecast.left().in_words()
            left = left and f"left: {left}"
            self._progress.update(self._task, completed=done, total=total or None, left=left, detail=detail)

    def _drop_task(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


def choose_view(*, plain: bool, as_json: bool) -> View:
    """JSON if asked for; progress bars on a real terminal; plain lines everywhere else (see `draws`)."""
    if as_json:
        return JsonView()
    return LiveView() if draws(plain=plain) else PlainView()


def draws(*, plain: bool) -> bool:
    """Whether to use escape codes: on a real terminal, without ``--plain``, NO_COLOR and TERM=dumb."""
    dumb = os.environ.get("TERM") in ("dumb", "") or "NO_COLOR" in os.environ
    return not plain and not dumb and sys.stdout.isatty()


def metrics_table(metrics: list[dict[str, Any]]) -> Table:
    """The table base / round 1 / round 2 ..."""
    titles, rows = words.metric_rows(metrics)
    table = Table(title="what each round did to the model", title_style="", header_style="")
    table.add_column("measure")
    for title in titles:
        table.add_column(title, justify="right")
    for name, cells in rows:
        table.add_row(Text(name), *(Text(cell) for cell in cells))
    return table


def print_metrics(metrics: list[dict[str, Any]], *, plain: bool) -> None:
    """The table and the score histograms on stdout; without escape codes where `plain`."""
    console = Console(width=100, force_terminal=False, no_color=True) if plain else Console(highlight=False)
    console.print(metrics_table(metrics))
    for text in words.score_histogram(metrics):
        console.print(Text(text))
