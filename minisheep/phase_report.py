"""What a phase reports while it works: progress, the newest texts, and at its end what it counted and took."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from minisheep.config import Settings
from minisheep.engines.base import Engine, EngineInfo
from minisheep.errors import Stopped
from minisheep.open_engines import tell_engine
from minisheep.phase_times import keep_time, phase_time, times_path
from minisheep.run import events
from minisheep.run.events import (
    Emit,
    Event,
    Glimpse,
    Paused,
    PhaseFinished,
    PhaseStarted,
    Progress,
    TrainStep,
)
from minisheep.run.records import Verdict
from minisheep.run.time_left import profile_of, share_of, share_of_time
from minisheep.stages.evaluate import score_edges

PROGRESS_SECONDS = 0.2
"""Progress is reported at most this often,"""
GLIMPSE_SECONDS = 1.0
"""and a glimpse of the newest texts this often."""
PAUSE_SECONDS = 0.25
"""How soon a lifted pause is noticed."""
SHOWN = 1500
"""Characters of an instruction or answer that are shown."""


@dataclass(slots=True)
class Newest:
    """The newest record and the histogram of scores, for a person who watches."""

    instruction: str = ""
    answer: str = ""
    verdict: Verdict | None = None
    edges: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def count(self, verdicts: Iterable[Verdict]) -> None:
        """Add the scores of `verdicts`, all of one judge, to the histogram."""
        scored = [(verdict.judge, verdict.score) for verdict in verdicts if verdict.score is not None]
        if scored:
            self.edges = self.edges or list(score_edges(scored[0][0]))
            counts = np.histogram([score for _, score in scored], self.edges)[0].tolist()
            self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)] if self.counts else counts


class Report:
    """What a phase reports while it works: progress, the newest texts, and at its end what it counted.

    While `paused()` is true after a record, nothing more is begun. `engine` gives the engine in use.
    """

    def __init__(
        self,
        round: int,
        phase: str,
        emit: Emit,
        should_stop: Callable[[], bool],
        paused: Callable[[], bool] = lambda: False,
        engine: Callable[[], Engine | None] = lambda: None,
    ) -> None:
        self.round, self.phase, self.emit, self.should_stop = round, phase, emit, should_stop
        self.counts: dict[str, float] = {}
        self.newest = Newest()
        self._paused, self._engine = paused, engine
        self._begun = time.monotonic()
        self.resumed = False
        """Whether some of the phase was there before, so that its time is not that of the whole."""
        self.loading = 0.0
        """Seconds until the model was there."""
        self.trace: list[tuple[float, float]] = []
        """Work done, and after how many seconds, for each record."""
        self._first = 0
        self._turned: tuple[int, float] | None = None
        """Records and seconds before other ones than those began to come."""
        self._last_progress = 0.0
        self._last_glimpse, self._evaluated = self._begun, 0
        self._looking = threading.Lock()

    def start(self, total: int = 0, done: int = 0, unit: str = "records") -> None:
        self._first, self.resumed = done, done > 0
        self.emit(PhaseStarted(self.round, self.phase, total, done, unit))
        self.wait_while_paused()

    @property
    def worked(self) -> float:
        """Seconds since the phase was begun, without pauses."""
        return time.monotonic() - self._begun

    def show(self, instruction: str, answer: str = "", verdict: Verdict | None = None) -> None:
        """Keep the newest texts for the next glimpse; cheap, so call it with every record."""
        newest = self.newest
        newest.instruction, newest.answer, newest.verdict = instruction, answer, verdict
        if verdict is not None:
            newest.count([verdict])

    def step(self, done: int, total: int = 0, detail: str = "", work: tuple[float, float | None] | None = None) -> None:
        """Call after each acknowledged record. `work` is what was done since the phase began and what is to come, None
        before that is known, where records do not tell. Raises `errors.Stopped` when the user asked to stop."""
        events.point(self.phase)
        now = time.monotonic()
        self.trace.append((done - self._first if work is None else work[0], self.worked))
        if now - self._last_progress >= PROGRESS_SECONDS or done == total:
            self._last_progress = now
            engine = self._engine()
            running, share = engine.running if engine is not None else 0, 0.0
            if work is not None and work[1] is not None:
                share = share_of(work[0], work[1], running)
            elif self._turned is not None and done > self._turned[0]:
                before, since = self._turned
                spent = self.worked - self.loading, self.worked - since
                share = share_of_time(*spent, done - before, total - done, running)
            self.emit(Progress(self.round, self.phase, done, total, detail, running, share))
        self._look()
        self.wait_while_paused()
        if self.should_stop():
            raise Stopped(
                f"Stopped in round {self.round}, {self.phase}, after {done} of {total}; everything made so far is safe."
            )

    def _look(self, *, moved: bool = False) -> None:
        """Tell a glimpse when it is time; `moved`: only if the engine computed something since the last."""
        with self._looking:
            engine = self._engine()
            same = engine is None or engine.evaluated == self._evaluated
            if time.monotonic() - self._last_glimpse >= GLIMPSE_SECONDS and not (moved and same):
                self.emit(self._glimpse(time.monotonic()))

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Tell that the engine computes also where a batch takes long to bring its first record. If it computes
        nothing, nothing is told, so that a worker that hangs is noticed."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(GLIMPSE_SECONDS):
                self._look(moved=True)

        looker = threading.Thread(target=look, daemon=True)
        looker.start()
        try:
            yield
        finally:
            over.set()
            looker.join()

    def turn(self, done: int) -> None:
        """The records after `done` take another time than those before."""
        self._turned = done, self.worked

    def train_step(self, event: Event) -> None:
        if isinstance(event, TrainStep):
            if not self.trace:
                self.loading, self.resumed, self._first = self.worked, event.step > 1, event.step
            self.trace.append((event.step - self._first, self.worked))
        self.emit(event)
        self.wait_while_paused()

    def wait_while_paused(self) -> None:
        """Return when there is no pause, or when the user asked to stop. Paused time is not counted as work."""
        if not self._paused() or self.should_stop():
            return
        begun = time.monotonic()
        self.emit(Paused(self.round, self.phase, True))
        while self._paused() and not self.should_stop():
            time.sleep(PAUSE_SECONDS)
        self.emit(Paused(self.round, self.phase, False))
        waited = time.monotonic() - begun
        self._begun += waited
        self._last_glimpse += waited

    def finish(self) -> None:
        if self.newest.counts:
            # The last scores too.
            self.emit(self._glimpse(time.monotonic()))
        self.emit(PhaseFinished(self.round, self.phase, round(self.worked, 3), self.counts))

    def keep_time(self, settings: Settings, sha256: str) -> None:
        """Keep what the phase took for the times of other runs, if it was done without a break."""
        worked = [(made, at - self.loading) for made, at in self.trace]
        time_ = phase_time(settings, self.round, self.phase, self.worked, self.loading, profile_of(worked))
        if time_ is not None and not self.resumed:
            keep_time(times_path(settings, sha256), self.phase, time_)

    def ready(self, info: EngineInfo) -> None:
        self.loading = self.loading if self.trace else self.worked
        slots = f", {info.slots} slots of {info.context} tokens" if info.slots > 1 else ""
        tell_engine(info, self.emit, slots)

    def _glimpse(self, now: float) -> Glimpse:
        engine, newest, verdict = self._engine(), self.newest, self.newest.verdict
        speed, running, slots = 0.0, 0, 0
        if engine is not None:
            # An engine that was just loaded has its count from the phase before, so the first speed is not known.
            speed = (engine.evaluated - self._evaluated) / (now - self._last_glimpse) if self._evaluated else 0.0
            self._evaluated, running, slots = engine.evaluated, engine.running, engine.info.slots
        self._last_glimpse = now
        return Glimpse(
            self.round, self.phase, tokens_per_second=round(speed, 1), running=running, slots=slots,
            instruction=newest.instruction[:SHOWN], answer=newest.answer[:SHOWN],
            score=verdict.score if verdict else None, quality=verdict.quality if verdict else None,
            following=verdict.following if verdict else None, judge=verdict.judge if verdict else "",
            edges=newest.edges, histogram=newest.counts,
        )  # fmt: skip
