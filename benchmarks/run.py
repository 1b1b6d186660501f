"""The worker's side: one part is measured, and its figures are told as they come."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from benchmarks.desk import Desk
from benchmarks.measure import to_wire
from benchmarks.plan import Job
from minisheep.run.events import Emit, Found

PARTS: dict[str, tuple[str, str]] = {
    "engine": ("engine", "measure"),
    "judge": ("judge", "measure"),
    "novelty": ("novelty", "measure"),
    "train": ("train", "measure"),
    "data": ("data_phase", "measure"),
    "turnaround": ("turnaround", "measure"),
    "growth": ("growth", "measure"),
    "help": ("process", "measure_help"),
    "parent": ("process", "measure_parent"),
    "records": ("process", "measure_records"),
}
"""Module and function of each part; imported only in the process that runs it."""


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
    """One part, a `plan.Job`. Raises `errors.MinisheepError` for what a user can act on."""
    desk = Desk(Job.from_job(job))
    part = desk.job.part
    if part == "prepare":
        from minisheep.prepare import prepare

        # Fetched, checked and converted as a run does it.
        prepare(desk.settings(), desk.model_file, emit)
    elif part == "answers":
        from benchmarks.growth import answer

        return {"bytes": answer(desk)}
    else:
        module, function = PARTS[part]
        for row in getattr(importlib.import_module(f"benchmarks.{module}"), function)(desk):
            emit(Found("row", to_wire(row)))
    return None
