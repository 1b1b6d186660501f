"""A short try of a plan's model on this machine, so that times are measured and not estimated."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from minisheep.errors import DownloadError, UsageError
from minisheep.machine.files import disk_errors, write_json
from minisheep.machine.gpu import Peak
from minisheep.machine.worker import WorkerProcess
from minisheep.plan import tried
from minisheep.plan.fit import Plan
from minisheep.plan.jobs import ASK, TRAIN
from minisheep.plan.tried import Tried

WORKER = "minisheep.plan.trying:measure"
PART_SECONDS = 900.0
"""What takes longer hangs: the sizes are seconds to minutes on a GPU of 2018."""


def measured(worker: str, job: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """What a `worker` (its handler) of its own measured, and the most VRAM that the GPU held meanwhile beyond what it
    held before.

    Raises `errors.MinisheepError`: what the job raised, or that its process died or hung.
    """
    with Peak() as peak, WorkerProcess(worker) as process:
        facts = process.do(job, f"Measuring '{job['phase']}'", seconds=PART_SECONDS)
    return facts, peak.bytes


def calibrate(plan: Plan, gguf: Path | None, tell: Callable[[str], None]) -> Tried:
    """Try the model of `plan` with its settings, as the workers of a run would use it, and keep what was found.

    `gguf` is its file, None where it is not here. Nothing is fetched: without training weights at hand, training stays
    an estimate. Raises `errors.MinisheepError` for what does not work.
    """
    if gguf is None:
        raise UsageError(
            f"{plan.model.name} is not here, so it cannot be tried.", f"minisheep pull {plan.settings.model}"
        )
    with tempfile.TemporaryDirectory(prefix="minisheep-plan-") as folder:
        write_json(Path(folder) / "settings.json", plan.settings.model_dump())
        job = {"slots": plan.slots, "folder": folder}
        tell(f"Trying {plan.model.name} with {plan.slots} sequences at once.")
        asked, asked_bytes = measured(WORKER, {"phase": ASK, **job})
        tell("Trying a few steps of training.")
        trained, trained_bytes = _train(job, tell)
    found = Tried(
        machine=plan.machine.title,
        slots=asked["slots"],
        kv_type=plan.cache,
        drawn=asked["drawn"],
        read=asked["read"],
        trained=trained.get("trained", 0.0),
        trainer=trained.get("trainer", ""),
        inference_bytes=asked_bytes,
        training_bytes=trained_bytes,
        date=date.today().isoformat(),
    )
    path = tried.place(gguf)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dataclasses.asdict(found))
    return found


def _train(job: dict[str, Any], tell: Callable[[str], None]) -> tuple[dict[str, Any], int | None]:
    try:
        return measured(WORKER, {"phase": TRAIN, **job})
    except DownloadError as error:
        tell(f"Training was not tried: {error.message}")
        return {}, None
