"""What a phase tells while it works. No files, no model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from minisheep import faults
from minisheep.engines.base import Engine, EngineInfo
from minisheep.errors import Stopped
from minisheep.events import Emit, EngineReady, Glimpse, Paused, PhaseFinished, PhaseStarted, Progress
from minisheep.records import Verdict
from minisheep.stages.evaluate import score_edges

PROGRESS_SECONDS = 0.2
"""Progress is told at most this often."""
GLIMPSE_SECONDS = 1.0
"""And what is going on, this often."""
PAUSE_SECONDS = 0.25
"""How soon a lifted pause is noticed."""
SHOWN = 1500
"""Characters of an instruction or answer that are shown."""


@dataclass(slots=True)
class Newest:
    """What a person watching would like to see of the newest record."""

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
            found = np.histogram([score for _, score in scored], self.edges)[0].tolist()
            self.counts = [a + b for a, b in zip(self.counts, found, strict=True)] if self.counts else found


class Report:
    """What a phase tells while it works: progress, the newest texts, and at its end what it counted.

    `paused` is asked after each record: while it says yes, nothing more is begun. `engine` gives the engine in use.
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
        self._told = 0.0
        self._seen, self._evaluated = self._begun, 0

    def start(self, total: int = 0, done: int = 0, unit: str = "records") -> None:
        self.emit(PhaseStarted(self.round, self.phase, total, done, unit))
        self.wait_while_paused()

    def show(self, instruction: str, answer: str = "", verdict: Verdict | None = None) -> None:
        """The newest texts, which the next glimpse shows; cheap, so call it with every record."""
        newest = self.newest
        newest.instruction, newest.answer, newest.verdict = instruction, answer, verdict
        if verdict is not None:
            newest.count([verdict])

    def step(self, done: int, total: int = 0, detail: str = "") -> None:
        """Call after each acknowledged record. Raises `errors.Stopped` when the user asked to stop."""
        faults.point(self.phase)
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS or done == total:
            self._told = now
            self.emit(Progress(self.round, self.phase, done, total, detail))
        if now - self._seen >= GLIMPSE_SECONDS:
            self.emit(self._glimpse(now))
        self.wait_while_paused()
        if self.should_stop():
            raise Stopped(f"Stopped in round {self.round}, {self.phase}, after {done} of {total}; all of it is safe.")

    def wait_while_paused(self) -> None:
        """Return when there is no pause, or when the user asked to stop. Paused time is not counted as work."""
        if not self._paused():
            return
        begun = time.monotonic()
        self.emit(Paused(self.round, self.phase, True))
        while self._paused() and not self.should_stop():
            time.sleep(PAUSE_SECONDS)
        self.emit(Paused(self.round, self.phase, False))
        waited = time.monotonic() - begun
        self._begun += waited
        self._seen += waited

    def finish(self) -> None:
        self.emit(PhaseFinished(self.round, self.phase, round(time.monotonic() - self._begun, 3), self.counts))

    def ready(self, info: EngineInfo) -> None:
        slots = f", {info.slots} slots of {info.context} tokens" if info.slots > 1 else ""
        self.emit(EngineReady(info.backend, info.description + slots))

    def _glimpse(self, now: float) -> Glimpse:
        engine, newest, verdict = self._engine(), self.newest, self.newest.verdict
        speed, running, slots = 0.0, 0, 0
        if engine is not None:
            # An engine that was just loaded has its count from the phase before, so the first speed is not known.
            speed = (engine.evaluated - self._evaluated) / (now - self._seen) if self._evaluated else 0.0
            self._evaluated, running, slots = engine.evaluated, engine.running, engine.info.slots
        self._seen = now
        return Glimpse(
            self.round,
            self.phase,
            tokens_per_second=round(speed, 1),
            running=running,
            slots=slots,
            instruction=newest.instruction[:SHOWN],
            answer=newest.answer[:SHOWN],
            score=verdict.score if verdict else None,
            quality=verdict.quality if verdict else None,
            following=verdict.following if verdict else None,
            judge=verdict.judge if verdict else "",
            edges=newest.edges,
            histogram=newest.counts,
        )
