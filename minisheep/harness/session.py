"""The parent's part: a worker measures, and what it stored is read and paired."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from minisheep.events import Emit, Event, TaskMeasured
from minisheep.harness.spec import Spec
from minisheep.machine.worker import WorkerProcess, stoppable
from minisheep.store import Lock, disk_errors, read_json

WORKER = "minisheep.harness.desk:do"


def measure(spec: Spec, emit: Emit, tick: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """Measure what `spec` asks for, and return the stored results by task and round, in the order asked.

    Each is as `harness.measure` writes it, with its ``file`` and, where the base is among them,
    ``change``: by metric the paired difference to the base (value, low, high). Raises `errors.MinisheepError`;
    what was measured until then is stored.
    """
    out = Path(spec.out)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    files: dict[tuple[str, int], TaskMeasured] = {}

    def listen(event: Event) -> None:
        if isinstance(event, TaskMeasured):
            files[event.task, event.round] = event
        else:
            emit(event)

    lock = Lock(out)
    try:
        _work(spec, out, lock, listen, tick)
    finally:
        lock.release()
    return _paired(spec, files)


def _work(spec: Spec, out: Path, lock: Lock, emit: Emit, tick: Callable[[], None]) -> None:
    told = "Stopped. What was measured before is stored.", "Give the same command to go on."
    with WorkerProcess(WORKER, out / "worker.log", lock.handle) as worker, stoppable(*told):
        worker.do(spec.to_job(), f"Round {spec.rounds[0]}, eval", emit, tick)


def _paired(spec: Spec, files: dict[tuple[str, int], TaskMeasured]) -> list[dict[str, Any]]:
    order = {task: place for place, (task, _) in enumerate(files)}
    listed = sorted(files.values(), key=lambda event: (order[event.task], event.round))
    results = [{**read_json(Path(event.file)), "file": event.file, "stored_before": event.stored} for event in listed]
    bases = {result["task"]: result for result in results if result["round"] == 0}
    for result in results:
        base = bases.get(result["task"]) or _stored_base(result, Path(spec.out))
        result["change"] = changes(result, base) if base and result["round"] else {}
    return results


def _stored_base(result: dict[str, Any], out: Path) -> dict[str, Any] | None:
    """A base that was measured before in the same way, where only rounds were asked for."""
    from minisheep.harness import stored

    settings = {**result["settings"], "adapter": ""}
    return stored.read(stored.path(out, result["task"], 0, settings), settings)


def changes(ours: dict[str, Any], base: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By metric the paired difference of two results, with its interval, on the items that both have.

    Empty where they were not measured alike.
    """
    from minisheep.harness import scores, stored
    from minisheep.harness.intervals import change

    if not stored.comparable(ours, base):
        return {}
    found = {}
    for metric, known in ours["metrics"].items():
        first, second = (scores.pairs_of(result["by_item"], metric) for result in (ours, base))
        common = [id_ for id_ in first if id_ in second]
        if common and known["low"] is not None:
            drawn = change([first[i] for i in common], [second[i] for i in common], scores.whole(metric))
            found[metric] = {name: round(value, 6) for name, value in drawn._asdict().items()}
    return found
