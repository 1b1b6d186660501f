"""What a phase tells while it works. No files, no model."""

from __future__ import annotations

import time
from collections.abc import Callable

from minisheep import faults
from minisheep.engines.base import EngineInfo
from minisheep.errors import Stopped
from minisheep.events import Emit, EngineReady, PhaseFinished, PhaseStarted, Progress

PROGRESS_SECONDS = 0.2
"""Progress is told at most this often."""


class Report:
    """What a phase tells while it works: progress, and at its end what it counted."""

    def __init__(self, round: int, phase: str, emit: Emit, should_stop: Callable[[], bool]) -> None:
        self.round, self.phase, self.emit, self.should_stop = round, phase, emit, should_stop
        self.counts: dict[str, float] = {}
        self._begun = time.monotonic()
        self._told = 0.0

    def start(self, total: int = 0, done: int = 0, unit: str = "records") -> None:
        self.emit(PhaseStarted(self.round, self.phase, total, done, unit))

    def step(self, done: int, total: int = 0, detail: str = "") -> None:
        """Call after each acknowledged record. Raises `errors.Stopped` when the user asked to stop."""
        faults.point(self.phase)
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS or done == total:
            self._told = now
            self.emit(Progress(self.round, self.phase, done, total, detail))
        if self.should_stop():
            raise Stopped(f"Stopped in round {self.round}, {self.phase}, after {done} of {total}; all of it is safe.")

    def finish(self) -> None:
        self.emit(PhaseFinished(self.round, self.phase, round(time.monotonic() - self._begun, 3), self.counts))

    def ready(self, info: EngineInfo) -> None:
        slots = f", {info.slots} slots of {info.context} tokens" if info.slots > 1 else ""
        self.emit(EngineReady(info.backend, info.description + slots))
