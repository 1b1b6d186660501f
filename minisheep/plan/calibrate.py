"""A short try of a plan's model on this machine, so that times are measured and not estimated."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from minisheep.bench.measured import measured
from minisheep.bench.plan import Job
from minisheep.errors import DownloadError, UsageError
from minisheep.machine.files import disk_errors, write_json
from minisheep.plan import tried
from minisheep.plan.fit import Plan
from minisheep.plan.jobs import ASK, TRAIN
from minisheep.plan.tried import Tried

CHILD = (sys.executable, "-m", "minisheep.plan.trying")


def calibrate(plan: Plan, gguf: Path | None, tell: Callable[[str], None], command: Sequence[str] = CHILD) -> Tried:
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
        job = Job(ASK, plan.model.name, {}, 1, slots=plan.slots, folder=folder)
        tell(f"Trying {plan.model.name} with {plan.slots} sequences at once.")
        asked, asked_bytes = measured(job, command)
        tell("Trying a few steps of training.")
        trained, trained_bytes = _train(job, tell, command)
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


def _train(job: Job, tell: Callable[[str], None], command: Sequence[str]) -> tuple[dict[str, Any], int | None]:
    try:
        return measured(dataclasses.replace(job, part=TRAIN), command)
    except DownloadError as error:
        tell(f"Training was not tried: {error.message}")
        return {}, None
