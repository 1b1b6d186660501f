"""The worker's side: measures one part and sends its figures as they come."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from benchmarks.bench_setup import BenchSetup
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
"""Module and function of each part; imported only by the process that runs it."""


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
    """One part, a `Job` as `to_job` writes it. Raises `errors.MinisheepError` for what a user can act on."""
    setup = BenchSetup(Job.from_job(job))
    part = setup.job.part
    if part == "prepare":
        from minisheep.prepare import prepare

        # Fetches, checks and converts the model as a run does.
        prepare(setup.settings(), setup.model_file, emit)
    elif part == "answers":
        from benchmarks.growth import answer

        return {"bytes": answer(setup)}
    else:
        module, function = PARTS[part]
        for row in getattr(importlib.import_module(f"benchmarks.{module}"), function)(setup):
            emit(Found("row", to_wire(row)))
    return None
