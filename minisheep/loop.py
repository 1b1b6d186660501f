"""READ FIRST: what a round is, what comes next, and when the run is over.

    round 0     measure the base model
    round r     generate   the model of round r-1 writes instructions, five seed tasks in context
                respond    it answers them
                judge      it judges its own pairs
                filter     rules, then scores; what is kept becomes training data
                train      a LoRA adapter, always from the base, on this round's data (the paper's one_base)
                evaluate   measure base + adapter on held-out tasks; the next round starts from it

The loop decides and keeps the manifest; the work is done by a host, which runs one job at a time (usually in a worker
process) and returns when its results are on disk. A phase that the manifest does not call done is done again, and finds
its own earlier records. So resuming is nothing special: it is the same loop over the same folder.
"""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol

from minisheep.config import Settings
from minisheep.events import Emit, Event, PhaseFinished, RunFinished
from minisheep.store import RunFolder

ROUND = ("generate", "respond", "judge", "filter", "train", "evaluate")


@dataclass(frozen=True, slots=True)
class Phase:
    round: int
    name: str

    @property
    def key(self) -> str:
        """How the manifest calls it."""
        return f"round-{self.round}/{self.name}"


PREPARE = Phase(0, "prepare")
"""Fetch and check the model files. Not in the manifest: it is quick when nothing is missing, so it opens every run."""


class Host(Protocol):
    """Runs one phase of a run folder to its end. Raises what the phase raises."""

    def run(self, folder: RunFolder, phase: Phase, emit: Emit) -> None: ...

    def close(self) -> None: ...


def phases(rounds: int) -> list[Phase]:
    """All phases of a run, in order."""
    return [Phase(0, "evaluate")] + [Phase(number, name) for number in range(1, rounds + 1) for name in ROUND]


def next_phase(rounds: int, done: Container[str]) -> Phase | None:
    """The first phase that is not done; None when the run is finished."""
    return next((phase for phase in phases(rounds) if phase.key not in done), None)


def run(folder: RunFolder, settings: Settings, host: Host, emit: Emit, until: Phase | None = None) -> None:
    """Do what is left of a run, or what is left up to and including `until`.

    Raises what a phase raises; everything acknowledged is then on disk and the same call goes on from there.
    """
    begun = time.monotonic()
    manifest = folder.read_manifest()
    done: dict[str, dict[str, float]] = manifest["phases"]
    prepared = False
    while (phase := next_phase(settings.rounds, done)) is not None:
        if until is not None and until.key in done:
            return
        if not prepared:
            host.run(folder, PREPARE, emit)
            prepared = True
        counts: dict[str, float] = {}

        def listen(event: Event, phase: Phase = phase, counts: dict[str, float] = counts) -> None:
            if isinstance(event, PhaseFinished) and (event.round, event.phase) == (phase.round, phase.name):
                counts.update(event.counts, seconds=event.seconds)
            emit(event)

        host.run(folder, phase, listen)
        done[phase.key] = counts
        folder.write_manifest(manifest)
    if prepared:
        emit(RunFinished(str(folder.path), settings.rounds, time.monotonic() - begun))
