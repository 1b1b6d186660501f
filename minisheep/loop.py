"""READ FIRST: what a round is, what comes next, and when the run is over.

    round 0     measure the base model
    round r     exam       the judge is examined on seed tasks before it may judge
                generate   the model of round r-1 writes instructions, five seed tasks in context
                respond    it answers them
                judge      a program checks constraints, if there are any; it judges its own pairs
                filter     rules, then scores; what is kept becomes training data
                train      a LoRA adapter, by default always from the base, on this round's data (the paper's one_base)
                evaluate   measure base + adapter on held-out tasks; the next round starts from it

A run is over after its last round, or when `patience` measured rounds were no better than the best. The loop decides
and keeps the manifest; the work is done by a host, which runs one job at a time (usually in a worker process) and
returns when its results are on disk. A phase that the manifest does not call done is done again, and finds its own
earlier records. So resuming needs no code of its own: it is the same loop over the same folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from minisheep.config import Settings
from minisheep.run import integrity
from minisheep.run.events import Emit, Event, Note, PhaseFinished, RunFinished
from minisheep.run.folder import RunFolder

Done = Mapping[str, Mapping[str, float]]
"""The manifest's phases: what is done, and what it counted."""


@dataclass(frozen=True, slots=True)
class Phase:
    round: int
    name: str

    @property
    def key(self) -> str:
        """Its name in the manifest."""
        return f"round-{self.round}/{self.name}"


PREPARE = Phase(0, "prepare")
"""Fetch and check the model files. Not in the manifest: it is quick when nothing is missing, so it opens every run."""


class Host(Protocol):
    """Runs one phase of a run folder to its end. Raises what the phase raises."""

    def run(self, folder: RunFolder, phase: Phase, emit: Emit) -> None: ...

    def close(self) -> None: ...


def phases(settings: Settings) -> list[Phase]:
    """All phases of a run of full length, in order."""
    return [Phase(0, "evaluate")] + [
        Phase(number, name) for number in range(1, settings.rounds + 1) for name in _round(settings, number)
    ]


def _round(settings: Settings, number: int) -> list[str]:
    needed = {
        "exam": settings.judges and settings.exam_tasks > 0,
        "generate": True,
        "respond": True,
        "judge": settings.judges or settings.filter != "score" or settings.constraints > 0,
        "filter": True,
        "train": True,
        "evaluate": number % settings.eval_every == 0 or number == settings.rounds,
    }
    return [name for name, is_needed in needed.items() if is_needed]


@dataclass(frozen=True, slots=True)
class Standing:
    """How the measured rounds compare, read from the manifest."""

    best: int | None
    """The round to use, 0 for the base model; None before anything was measured."""
    without_gain: int
    """Rounds that were measured since the best."""
    measured: int
    """The newest measured round."""

    def ends(self, settings: Settings) -> bool:
        """Whether the run ends here, before its last round."""
        return 0 < settings.patience <= self.without_gain


def standing(done: Done) -> Standing:
    """Each evaluation counts ``best`` and ``without_gain``; the newest one counts."""
    measured = [int(key.split("/")[0].removeprefix("round-")) for key in done if key.endswith("/evaluate")]
    if not measured:
        return Standing(None, 0, 0)
    counts = done[Phase(max(measured), "evaluate").key]
    return Standing(int(counts.get("best", 0)), int(counts.get("without_gain", 0)), max(measured))


def next_phase(settings: Settings, done: Done) -> Phase | None:
    """The first phase that is not done; None when the run is over."""
    phase = next((phase for phase in phases(settings) if phase.key not in done), None)
    now = standing(done)
    # A round that was begun is finished: a run ends early only before a new round.
    begun = phase is not None and any(key.startswith(f"round-{phase.round}/") for key in done)
    return None if phase is None or (not begun and phase.round > now.measured and now.ends(settings)) else phase


def run(folder: RunFolder, settings: Settings, host: Host, emit: Emit, until: Phase | None = None) -> None:
    """Do what is left of a run, or what is left up to and including `until`.

    Raises what a phase raises; everything acknowledged is then on disk and the same call goes on from there.
    """
    begun = time.monotonic()
    manifest = folder.read_manifest()
    done: dict[str, dict[str, float]] = manifest["phases"]
    files: dict[str, Any] = manifest.setdefault("files", {})
    prepared = False
    damaged = integrity.damage(folder, manifest)
    if damaged and until is not None and until.key == damaged[0].key:
        _do_again(folder, until, host, emit, manifest)
        return
    while True:
        # What is made next rests on what was made before: a damaged file is never built upon.
        integrity.check(folder, manifest)
        phase = next_phase(settings, done)
        if phase is None:
            break
        if until is not None and until.key in done:
            return
        if not prepared:
            host.run(folder, PREPARE, emit)
            prepared = True
        counts = _do(folder, phase, host, emit)
        done[phase.key] = counts
        files[phase.key] = integrity.marks(folder.round(phase.round), phase.name)
        folder.write_manifest(manifest)
    if prepared:
        now = standing(done)
        rounds = max(int(key.split("/")[0].removeprefix("round-")) for key in done)
        emit(RunFinished(str(folder.path), rounds, time.monotonic() - begun, now.best, rounds < settings.rounds))


def _do(folder: RunFolder, phase: Phase, host: Host, emit: Emit) -> dict[str, float]:
    """Have a phase done; returns what it counted."""
    counts: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, PhaseFinished) and (event.round, event.phase) == (phase.round, phase.name):
            counts.update(event.counts, seconds=event.seconds)
        emit(event)

    host.run(folder, phase, listen)
    return counts


def _do_again(folder: RunFolder, phase: Phase, host: Host, emit: Emit, manifest: dict[str, Any]) -> None:
    """Do a phase again whose files were damaged. What rests on it stands if it comes out the same, and is set aside if
    not. The manifest is written last, so whatever cuts this short, the damage is still seen."""
    done, files = manifest["phases"], manifest["files"]
    integrity.make_room(folder.round(phase.round), phase.name)
    host.run(folder, PREPARE, emit)
    counts = _do(folder, phase, host, emit)
    now = integrity.marks(folder.round(phase.round), phase.name)
    if integrity.same(now, files[phase.key], phase.name):
        emit(Note(f"Round {phase.round}, {phase.name}, came out as before: all that rests on it stands."))
    else:
        resting = integrity.later(done, phase.key)
        place = integrity.set_aside(folder, resting)
        for key in resting:
            del done[key]
            files.pop(key, None)
        if place is not None:
            text = f"came out otherwise than before. What rested on it was moved to {place} and is made anew."
            emit(Note(f"Round {phase.round}, {phase.name}, {text}", "warning"))
    done[phase.key], files[phase.key] = counts, now
    folder.write_manifest(manifest)
