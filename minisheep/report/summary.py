"""The top of a report: what was run, how far it is, and the few numbers that a reader wants first. Pure."""

from __future__ import annotations

from minisheep.report.gather import Gathered
from minisheep.ui import words


def title(run: Gathered) -> str:
    return f"minisheep: {run.settings.model if run.settings else run.path.resolve().name}"


def lead(run: Gathered) -> str:
    """How far the run is, and which model to use."""
    return f"{_state(run)} {_best(run)}".strip()


def facts(run: Gathered) -> tuple[tuple[str, str], ...]:
    best = run.best
    filtered = [r for r in run.rounds if r.kept]
    found = [
        ("run", run.path.resolve().name),
        ("rounds", f"{len(_done(run))} of {run.settings.rounds}" if run.settings else str(len(run.rounds))),
        ("best", "not decided" if best is None else "base model" if best == 0 else f"round {best}"),
        ("pairs kept", " + ".join(str(len(r.kept)) for r in filtered) or "none yet"),
    ]
    if judges := dict.fromkeys(r.verdicts[0].judge for r in run.rounds if r.verdicts):
        found.append(("judge", ", ".join(judges)))
    if run.settings:
        found.append(("strategy", run.settings.strategy))
    if run.seconds:
        found.append(("time", words.duration(run.seconds)))
    return tuple(found)


def _done(run: Gathered) -> list[int]:
    """Rounds that were trained."""
    return [r.number for r in run.rounds if f"round-{r.number}/train" in run.phases]


def _state(run: Gathered) -> str:
    if run.settings is None or not run.state_known:
        return "How far the run is cannot be told, since its settings or its manifest could not be read."
    after, settings = run.next_phase, run.settings
    if after is not None:
        stopped = f" It stopped: {run.failure}" if run.failure else ""
        return f"The run is not finished: {words.where(after.round, after.name)} comes next.{stopped}"
    rounds = len(_done(run))
    if rounds < settings.rounds:
        return f"The run ended after {rounds} of {settings.rounds} rounds, since the last ones brought no gain."
    return f"The run is finished: {rounds} round(s)."


def _best(run: Gathered) -> str:
    if run.best is None:
        return "No round was compared with another, so none is called the best."
    if run.best == 0:
        return "The model to use is the base: no round was better beyond chance." if run.rounds else ""
    return f"The model to use is that of round {run.best}."
