"""Events into state: ``fold(state, event, at) -> state``. Pure.

An event may come from another version of minisheep or from a damaged line, so that any field may hold anything: what
is taken over is checked for its type, and an event that makes no sense leaves the state as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from minisheep.events import (
    EngineReady,
    Event,
    Failed,
    Glimpse,
    Note,
    Paused,
    PhaseFinished,
    PhaseStarted,
    Progress,
    RoundMeasured,
    RunFinished,
    RunStarted,
    TrainStep,
)  # fmt: skip
from minisheep.screen.state import Histogram, Key, Losses, Newest, Said, Stage, State
from minisheep.ui import words
from minisheep.ui.sanitise import one_line

SAID = 30
"""Lines that are kept beside the warnings."""
WARNINGS = 200


def fold(state: State, event: Event, at: float) -> State:
    """The state after `event`, which was said at `at` (seconds since the epoch)."""
    step = _STEPS.get(type(event))
    if step is None:
        return state
    try:
        return step(state, event, at)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError):
        return state


def _run_started(state: State, event: RunStarted, at: float) -> State:
    return replace(
        state, run=str(event.run), model=str(event.model), rounds=_whole(event.rounds), begun=at, now=None,
        paused_at=None, ended="", outcome="", tokens_per_second=0.0, running=0,
    )  # fmt: skip


def _engine_ready(state: State, event: EngineReady, at: float) -> State:
    return replace(state, engine=str(event.description))


def _phase_started(state: State, event: PhaseStarted, at: float) -> State:
    first = _whole(event.done)
    stage = Stage(at, str(event.unit), _whole(event.total), first, first, at)
    key = _key(event)
    return replace(
        state, now=key, stages={**state.stages, key: stage}, paused_at=None, tokens_per_second=0.0, running=0
    )


def _progress(state: State, event: Progress, at: float) -> State:
    return _advance(state, _key(event), _whole(event.done), _whole(event.total), at)


def _advance(state: State, key: Key, done: int, total: int, at: float) -> State:
    stage = state.stages.get(key)
    # The present file may be older than the newest line of the log.
    if stage is None or stage.took is not None or at < stage.begun:
        return state
    moved = replace(stage, done=done, total=total or stage.total, at=at)
    return replace(state, stages={**state.stages, key: moved})


def _glimpse(state: State, event: Glimpse, at: float) -> State:
    key = _key(event)
    found = state
    if event.instruction:
        named = (("score", event.score), ("quality", event.quality), ("following", event.following))
        scores = tuple((name, float(value)) for name, value in named if value is not None and math.isfinite(value))
        found = replace(found, newest=Newest(key, str(event.instruction), str(event.answer), scores))
    if event.histogram and len(event.edges) == len(event.histogram) + 1:
        found = replace(found, histogram=_histogram(key[0], event.judge, event.edges, event.histogram))
    # A glimpse may be left over from before the phase was begun again.
    if state.now != key or at < state.stages[key].begun:
        return found
    return replace(
        found,
        tokens_per_second=_number(event.tokens_per_second),
        running=_whole(event.running),
        slots=_whole(event.slots),
    )


def _paused(state: State, event: Paused, at: float) -> State:
    if event.paused:
        return replace(state, paused_at=at, tokens_per_second=0.0)
    stage = state.stages.get(_key(event))
    if state.paused_at is None or stage is None:
        return replace(state, paused_at=None)
    waited = replace(stage, paused=stage.paused + max(0.0, at - state.paused_at), at=at)
    return replace(state, paused_at=None, stages={**state.stages, _key(event): waited})


def _train_step(state: State, event: TrainStep, at: float) -> State:
    key, step = (_whole(event.round), "train"), _whole(event.step)
    before = state.losses if state.losses.round == key[0] else Losses(key[0])
    # A training that goes on from a checkpoint does some steps again.
    training = tuple(point for point in before.training if point[0] < step)
    validation = tuple(point for point in before.validation if point[0] < step)
    if math.isfinite(event.loss):
        training += ((step, float(event.loss)),)
    if event.validation_loss is not None and math.isfinite(event.validation_loss):
        validation += ((step, float(event.validation_loss)),)
    losses = Losses(key[0], _whole(event.total), training, validation)
    stage = state.stages.get(key)
    if stage is not None and not stage.total:
        # The first step's number tells what a checkpoint held.
        state = replace(state, stages={**state.stages, key: replace(stage, first=max(0, step - 1))})
    speed = _number(event.tokens_per_second)
    return _advance(replace(state, losses=losses, tokens_per_second=speed), key, step, losses.total, at)


def _phase_finished(state: State, event: PhaseFinished, at: float) -> State:
    key = _key(event)
    stage = state.stages.get(key, Stage(at))
    done = replace(stage, done=max(stage.done, stage.total), at=at, took=_number(event.seconds))
    now = None if state.now == key else state.now
    said = _said(state, at, key, words.line(event))
    return replace(said, now=now, stages={**state.stages, key: done}, tokens_per_second=0.0, running=0)


def _round_measured(state: State, event: RoundMeasured, at: float) -> State:
    number, metrics = _whole(event.round), event.metrics
    _, rows = words.metric_rows([metrics])
    measured = {**state.measured, number: {name.strip(): one_line(cells[0], 40) for name, cells in rows}}
    found = replace(state, measured=dict(sorted(measured.items())))
    best = metrics.get("decision", {}).get("best")
    if isinstance(best, int):
        found = replace(found, best=best)
    scores = metrics.get("data", {}).get("scores")
    if scores:
        drawn = scores["histogram"]
        found = replace(found, histogram=_histogram(number, scores["judge"], drawn["edges"], drawn["counts"]))
    return found


def _note(state: State, event: Note, at: float) -> State:
    if event.level != "warning":
        return _said(state, at, state.now, str(event.text))
    same = [w for w in state.warnings if w.text == event.text]
    others = tuple(w for w in state.warnings if w.text != event.text)
    times = same[0].times + 1 if same else 1
    return replace(state, warnings=(*others, Said(at, state.now, str(event.text), times))[-WARNINGS:])


def _failed(state: State, event: Failed, at: float) -> State:
    outcome = "stopped" if event.kind == "Stopped" else "failed"
    return replace(state, ended=words.line(event), outcome=outcome, now=None, paused_at=None)


def _run_finished(state: State, event: RunFinished, at: float) -> State:
    best = event.best if isinstance(event.best, int) else state.best
    return replace(state, ended=words.finished(event), outcome="finished", best=best, now=None, paused_at=None)


def _said(state: State, at: float, where: Key | None, text: str) -> State:
    return replace(state, said=(*state.said, Said(at, where, text))[-SAID:])


def _histogram(round: int, judge: Any, edges: Any, counts: Any) -> Histogram:
    return Histogram(round, str(judge), tuple(map(_number, edges)), tuple(map(_whole, counts)))


def _key(event: Any) -> Key:
    return _whole(event.round), one_line(str(event.phase), 20)


def _whole(value: Any) -> int:
    return int(value)


def _number(value: Any) -> float:
    """A finite number, 0 in place of others. Raises TypeError or ValueError for what is none."""
    found = float(value)
    return found if math.isfinite(found) else 0.0


_STEPS: dict[type, Callable[[State, Any, float], State]] = {
    RunStarted: _run_started,
    EngineReady: _engine_ready,
    PhaseStarted: _phase_started,
    Progress: _progress,
    Glimpse: _glimpse,
    Paused: _paused,
    TrainStep: _train_step,
    PhaseFinished: _phase_finished,
    RoundMeasured: _round_measured,
    Note: _note,
    Failed: _failed,
    RunFinished: _run_finished,
}
