"""One call of the benchmark: prepares the models, runs the parts one after the other, yields rows as they come."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import hardware, plan
from benchmarks.measure import Comparison, Row, from_wire
from benchmarks.plan import Job, Options
from minisheep.errors import MinisheepError, TimeUpError
from minisheep.machine import cpu
from minisheep.machine.worker import WorkerProcess
from minisheep.models.registry import find_model
from minisheep.run.events import Event, Found, Note

WORKER = "benchmarks.run:do"


@dataclass(frozen=True, slots=True)
class Failure:
    """A part that could not be measured; the others go on."""

    part: str
    message: str


def run(verb: str, options: Options, on_progress: Callable[[str], None]) -> Iterator[Row | Failure]:
    """Everything that `verb` measures. `on_progress` gets plain lines.

    Raises `errors.MinisheepError` where the model that the user named is not available.
    """
    began = time.monotonic()
    machine, versions = hardware.this_machine(), hardware.versions()
    warning = hardware.busy(hardware.load(), cpu.cores())
    if warning:
        on_progress(warning)
    with tempfile.TemporaryDirectory(prefix="minisheep-bench-") as name:
        # Models are fetched before the clock of --quick starts, since a first download may take long.
        folders: dict[str, Path | MinisheepError] = {}
        jobs = plan.jobs(verb, options)
        for number, model in enumerate(dict.fromkeys(job.model for job in jobs)):
            folders[model] = _prepared(Path(name) / str(number), model, options, on_progress)
        ends = float("inf")
        if options.quick:
            ends = max(began, time.monotonic() - 8.0) + plan.QUICK_SECONDS
        for job in jobs:
            folder = folders[job.model]
            if isinstance(folder, MinisheepError):
                if job.model == options.model:
                    raise folder
                yield Failure(f"{job.part}, {job.model}", str(folder))
                continue
            on_progress(f"measuring: {job.part}{f', {job.model}' if job.model else ''}")
            for result in _measure(replace(job, folder=str(folder)), ends, on_progress):
                if isinstance(result, Comparison):
                    note = "; ".join(part for part in (result.note, warning) if part)
                    yield Row(replace(result, quick=options.quick, note=note), machine, versions)
                else:
                    yield result


def _prepared(folder: Path, model: str, options: Options, on_progress: Callable[[str], None]) -> Path | MinisheepError:
    """The folder of a model's jobs, with its ``model.json``; or the error that says why it is missing."""
    folder.mkdir()
    if not model:
        return folder
    try:
        find_model(model)
        if model == plan.SECOND_MODEL != options.model:
            _check_cached(model)
        prepare(Job("prepare", model, {}, 1, folder=str(folder), threads=options.threads), on_progress)
    except MinisheepError as error:
        return error
    return folder


def prepare(job: Job, on_progress: Callable[[str], None]) -> None:
    """Have a worker make the model ready as a run does, into the job's folder.

    Raises `errors.MinisheepError` where it is not available.
    """
    with WorkerProcess(WORKER) as worker:
        worker.do(
            job.to_job(),
            f"Preparing {job.model}",
            lambda event: on_progress(event.text) if isinstance(event, Note) else None,
        )


def _check_cached(model: str) -> None:
    """The second model is used only if it is cached already. Raises `errors.MinisheepError`."""
    from minisheep.models.fetch import fetch_gguf

    try:
        fetch_gguf(find_model(model), lambda text: None, offline=True)
    except MinisheepError:
        raise MinisheepError(f"{model} is not in the cache.", f"`minisheep pull {model}` fetches it.") from None


def _measure(job: Job, ends: float, on_progress: Callable[[str], None]) -> list[Comparison | Failure]:
    left = ends - time.monotonic()
    if left <= 0:
        return [Failure(job.part, "--quick had no time left for it")]
    found: list[Comparison | Failure] = []

    def listen(event: Event) -> None:
        if isinstance(event, Found):
            found.append(from_wire(event.facts))
        elif isinstance(event, Note):
            on_progress(event.text)

    try:
        with WorkerProcess(WORKER) as worker:
            worker.do(job.to_job(), f"Measuring '{job.part}'", listen, seconds=left)
    except TimeUpError:
        found.append(Failure(job.part, "not finished within the time of --quick"))
    except MinisheepError as error:
        found.append(Failure(job.part, str(error)))
    return found
