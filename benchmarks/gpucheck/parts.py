"""The parts that run on a GPU, each as results: if one fails, the others go on."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import commands, session
from benchmarks.gpucheck import build
from benchmarks.gpucheck.curves import Training
from benchmarks.gpucheck.jobs import BENCHED, DECODE, DECODE_SIZES, REPEATS, SLOTS, TRAIN, TRAIN_SIZES
from benchmarks.measure import Row
from benchmarks.plan import Job, Options
from minisheep.doctor.check_result import CheckResult, fail, ok, skipped, warn
from minisheep.errors import MinisheepError, UsageError, WorkerError
from minisheep.plan.calibration import measured
from minisheep.trainers.choose_trainer import choose_trainer

WORKER = "benchmarks.gpucheck.child:measure"


class Refused(Exception):
    """This version or this machine lacks the part."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


OnProgress = Callable[[str], None]


def install(step: build.Step, log: Path, on_progress: OnProgress) -> CheckResult:
    """Do one step of the set-up; pip's output goes to `log`."""
    on_progress(f"installing: {build.command_line(step)}")
    began = time.monotonic()
    environment = {**os.environ, **step.environment}
    with open(log, "ab") as file:
        try:
            done = subprocess.run(
                step.command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=environment, timeout=step.seconds, check=False,
            )  # fmt: skip
            why = f"pip ended with code {done.returncode}"
        except subprocess.TimeoutExpired:
            done, why = None, f"not finished within {step.seconds:.0f} s"
    # This process must find the new package too.
    importlib.invalidate_caches()
    name = f"install {step.name}"
    if done is not None and done.returncode == 0:
        return ok(name, f"in {time.monotonic() - began:.0f} s", command=build.command_line(step))
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "nothing")
    return fail(name, f"{why}: {reason.strip()[:300]}", build.command_line(step))


def without_unsloth() -> Refused | None:
    """Why Unsloth cannot train here, or None."""
    try:
        choose_trainer("unsloth", "auto")
    except UsageError as error:
        return Refused(error.message, error.fix)
    return None


def bench(model: str, on_progress: OnProgress) -> Iterator[CheckResult]:
    """The benchmark verbs that use the GPU, at full size; each figure is a result."""
    for verb in BENCHED:
        try:
            for item in session.run(verb, Options(model=model), on_progress):
                if not isinstance(item, Row):
                    yield warn(f"bench {item.part}", f"not measured: {item.message}", f"python -m benchmarks {verb}")
                    continue
                found = item.comparison
                if found.ours is None:
                    yield skipped(f"bench {found.what}", found.note or "not measured")
                    continue
                peer = (
                    f"{found.ratio:.2f} times {found.peer_name}" if found.ratio else f"no figure of {found.peer_name}"
                )
                yield ok(f"bench {found.what}", f"{found.ours:,.1f} {found.unit}, {peer}", **found.to_dict())
        except MinisheepError as error:
            yield fail(f"bench {verb}", error.message, error.fix)


def decode_name(slots: int) -> str:
    return f"decode, {slots} sequence{'' if slots == 1 else 's'}"


def decode(job: Job, done: frozenset[str] = frozenset()) -> Iterator[CheckResult]:
    """Tokens a second and VRAM, at each number of sequences in `SLOTS` whose result is not `done`."""
    for slots in SLOTS:
        name = decode_name(slots)
        if name in done:
            continue
        try:
            one = replace(job, part=DECODE, slots=slots, sizes=DECODE_SIZES, repeats=REPEATS)
            facts, peak = measured(WORKER, one.to_job())
        except MinisheepError as error:
            yield fail(name, error.message, error.fix or "See 'generate' of the doctor.")
            continue
        text = f"{facts['tokens_per_second']:,.0f} tokens/s"
        text += "" if peak is None else f", {peak / 2**30:.2f} GiB of VRAM at most"
        if facts["slots"] != slots:
            yield warn(name, f"{text}, with only {facts['slots']} sequences", "Free VRAM.", peak_bytes=peak, **facts)
        else:
            yield ok(name, text, peak_bytes=peak, **facts)


def train(job: Job, trainer: str) -> Training:
    """One training by `trainer`. Raises `Refused`, and `errors.MinisheepError` for what went wrong."""
    try:
        facts, peak = measured(WORKER, replace(job, part=f"{TRAIN}{trainer}", sizes=TRAIN_SIZES).to_job())
    except UsageError as error:
        raise Refused(error.message, error.fix) from None
    if not facts["losses"] or not all(map(math.isfinite, facts["losses"])):
        raise WorkerError(f"The losses are not finite numbers: {facts['losses'][:8]}.")
    return Training(
        trainer, tuple(facts["losses"]), facts["tokens_per_second"], facts["seconds"], facts["load_in"], peak,
        facts["allocated_bytes"],
    )  # fmt: skip


def align(model: str, trainer: str, folder: Path) -> CheckResult:
    """One small round of a whole run on the GPU, by the command that a user types."""
    name, run = f"align with {trainer}", folder / f"align-{trainer}"
    arguments = ["align", *commands.flags(preset="imitation", model=model, trainer=trainer, rounds=1, run=run)]
    began, loss = time.monotonic(), None
    try:
        with commands.watched(arguments, folder) as (process, events):
            for event in events:
                loss = event["loss"] if event["event"] == "TrainStep" else loss
            code = process.wait()
    except MinisheepError as error:
        return fail(name, error.message, error.fix)
    if code != 0 or loss is None:
        return fail(name, f"it ended with code {code}", f"minisheep {' '.join(arguments)}")
    seconds = time.monotonic() - began
    return ok(name, f"one round of 30 instructions in {seconds:.0f} s, last loss {loss:.3f}", seconds=round(seconds, 1))


def prepare(job: Job, on_progress: OnProgress) -> MinisheepError | None:
    """Prepare the model as a run does, into the job's folder; returns the error, or None."""
    try:
        session.prepare(job, on_progress)
    except MinisheepError as error:
        return error
    return None
