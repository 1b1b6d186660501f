"""The worker's part: loads the tasks, asks the model round by round, and stores one result for each task and round."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minisheep.events import Emit, Note, TaskMeasured
from minisheep.harness import network, rows, stored
from minisheep.harness.measure import Plan, measure
from minisheep.harness.spec import Spec
from minisheep.harness.subject import Subject


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    """Do the one kind of job that `Spec.to_job` makes, in a worker."""
    spec = Spec.from_job(job)
    subject = Subject(spec, emit)
    try:
        _all(spec, subject, emit, should_stop)
    finally:
        subject.close()


def _all(spec: Spec, subject: Subject, emit: Emit, should_stop: Callable[[], bool]) -> None:
    digests = {task: hashlib.sha256(Path(file).read_bytes()).hexdigest() for task, file in spec.data.items()}
    waiting = {
        name: left
        for name in spec.tasks
        if (left := _left(spec, subject, name, digests.get(name, ""), spec.rounds, emit))
    }
    if not waiting:
        return
    if network.settle(offline=spec.offline or all(name in spec.data for name in waiting)):
        local = [name for name in waiting if name not in spec.data]
        if local:
            emit(Note(f"No network is used: {', '.join(local)} must be in the cache of the hub's client."))
    # The harness and its libraries tell much; what matters is raised.
    logging.disable(logging.WARNING)
    from minisheep.harness.programs import own_metrics

    with own_metrics(allow_code=spec.allow_code):
        plans = _plans(spec, subject, waiting, digests, emit)
        for round in spec.rounds:
            for plan in plans:
                if round in plan.rounds:
                    measure(spec, subject, plan, round, emit, should_stop)


def _left(spec: Spec, subject: Subject, task: str, data: str, rounds: Sequence[int], emit: Emit) -> list[int]:
    """The rounds that a task is still to be measured on; what is stored is told."""
    left = []
    for round in rounds:
        settings = subject.identity(task, round, data)
        file = stored.path(Path(spec.out), task, round, settings)
        if not spec.again and stored.read(file, settings) is not None:
            emit(TaskMeasured(round, task, str(file), stored=True))
        else:
            left.append(round)
    return left


def _plans(
    spec: Spec, subject: Subject, waiting: Mapping[str, list[int]], digests: Mapping[str, str], emit: Emit
) -> list[Plan]:
    """Every task is loaded before the first is asked, so that a mistake shows at once."""
    from minisheep.harness import checkers, tasks

    def tell(text: str) -> None:
        emit(Note(text))

    tell("Loading lm-evaluation-harness.")
    checkers.no_downloads()
    plans = []
    for name, left in waiting.items():
        given = rows.read(Path(spec.data[name]), name) if name in spec.data else None
        data = digests.get(name, "")
        for leaf, task in tasks.load(name, spec, given, tell).items():
            decided_by = checkers.choose(task) if leaf == "ifeval" else checkers.THEIRS
            if leaf == "ifeval":
                tell(f"ifeval is decided by {decided_by}.")
            rounds = left if leaf == name else _left(spec, subject, leaf, data, spec.rounds, emit)
            plans.append(Plan(leaf, task, data, spec.data.get(name, ""), decided_by, rounds))
    return plans
