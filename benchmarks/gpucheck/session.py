"""One call of ``make gpu-check``: the order of the parts, and which are skipped where something is missing."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpucheck import build, curves, jobs, parts
from benchmarks.gpucheck.parts import OnProgress, Refused
from benchmarks.plan import DEFAULT_MODEL, Job
from minisheep.doctor import diagnosis, packages
from minisheep.doctor.check_result import CheckResult, counted, fail, ok, skipped, verdict, warn
from minisheep.doctor.checks import NO_GPU
from minisheep.doctor.machine_facts import MachineFacts
from minisheep.errors import MinisheepError

TRAINERS = ("peft", "unsloth")
DOCTOR_SECONDS = 180.0
"""Long enough for a first import of CUDA libraries from a slow disk."""
PROBE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    model: str = DEFAULT_MODEL
    install: bool = True
    """Whether missing packages may be installed into this environment."""


def run(options: Options, machine: MachineFacts, on_progress: OnProgress) -> Iterator[CheckResult]:
    """Every part in order. A part's own error becomes its result."""
    with tempfile.TemporaryDirectory(prefix="minisheep-gpu-check-") as name:
        folder = Path(name)
        job = Job("prepare", options.model, {}, 1, folder=name)
        if not machine.has_gpu:
            yield from (skipped(part, NO_GPU) for part in before_doctor())
            yield examine(options, on_progress)
            yield from (skipped(part, NO_GPU) for part in after_doctor())
            return
        yield from set_up(options, machine, folder, job, on_progress)
        yield examine(options, on_progress)
        missing = parts.prepare(job, on_progress)
        if missing is not None:
            reason = f"{options.model} is not available: {missing.message}"
            yield from (skipped(part, reason, missing.fix) for part in after_doctor())
            return
        on_progress("measuring: bench")
        yield from parts.bench(options.model, on_progress)
        on_progress("measuring: decode")
        yield from parts.decode(job)
        refusal = parts.without_unsloth()
        yield from train(job, refusal, on_progress)
        for trainer in TRAINERS:
            if trainer == "unsloth" and refusal is not None:
                yield skipped(f"align with {trainer}", refusal.reason, refusal.fix)
                continue
            on_progress(f"aligning with {trainer}")
            yield parts.align(options.model, trainer, folder)


def before_doctor() -> list[str]:
    """Names of the set-up's results."""
    return ["install llama.cpp with CUDA", "install Unsloth"]


def after_doctor() -> list[str]:
    """Names of the measured parts, for a machine that can run none of them."""
    return [
        *(f"bench {verb}" for verb in jobs.BENCHED),
        *(f"decode, {slots} sequence{'' if slots == 1 else 's'}" for slots in jobs.SLOTS),
        *(f"train with {trainer}" for trainer in TRAINERS),
        "unsloth beside peft",
        *(f"align with {trainer}" for trainer in TRAINERS),
    ]


def set_up(
    options: Options, machine: MachineFacts, folder: Path, job: Job, on_progress: OnProgress
) -> Iterator[CheckResult]:
    """Install what a GPU needs, if it is missing."""
    llama, unsloth = before_doctor()
    ends = time.monotonic() + PROBE_SECONDS
    found = diagnosis.ask({"llama.cpp": ["llama"]}, diagnosis.Probing(job.model, job.folder), ends)["llama"]
    if found.get("offload"):
        yield ok(llama, f"llama-cpp-python {found['version']} has CUDA already")
    elif not options.install:
        yield skipped(
            llama, "missing, and --no-install forbids it", build.command_line(build.llama(machine, sys.executable, {}))
        )
    else:
        yield parts.install(build.llama(machine, sys.executable, os.environ), folder / "llama.log", on_progress)
    version = packages.installed_version("unsloth")
    step = build.unsloth(packages.requirements(), sys.executable)
    if version is not None:
        yield ok(unsloth, f"Unsloth {version} is installed already")
    elif not options.install:
        yield skipped(unsloth, "missing, and --no-install forbids it", build.command_line(step))
    else:
        yield parts.install(step, folder / "unsloth.log", on_progress)


def examine(options: Options, on_progress: OnProgress) -> CheckResult:
    """``minisheep doctor``, as one result with all of its checks."""
    on_progress("minisheep doctor")
    try:
        found = list(diagnosis.diagnose(diagnosis.Options(model=options.model, seconds=DOCTOR_SECONDS), on_progress))
    except MinisheepError as error:
        return fail("doctor", error.message, error.fix)
    return summed_up(found)


def summed_up(found: list[CheckResult]) -> CheckResult:
    """The doctor's results as one: as bad as the worst of them. Pure."""
    counts = counted(found)
    figures = {"checks": [result.to_dict() for result in found]}
    wrong = [result for result in found if result.outcome in ("fail", "warn")]
    text = " ".join([verdict(found), *(f"{result.name}: {result.found}." for result in wrong)])
    if counts["fail"]:
        fix = next(result.fix for result in found if result.outcome == "fail")
        return fail("doctor", text, fix, **figures)
    return warn("doctor", text, wrong[0].fix, **figures) if wrong else ok("doctor", text, **figures)


def train(job: Job, refusal: Refused | None, on_progress: OnProgress) -> Iterator[CheckResult]:
    """Both trainers on the same data, one after the other, and the comparison."""
    done: list[curves.Training] = []
    for trainer in TRAINERS:
        name = f"train with {trainer}"
        if trainer == "unsloth" and refusal is not None:
            yield skipped(name, refusal.reason, refusal.fix)
            continue
        on_progress(f"measuring: {name}")
        try:
            training = parts.train(job, trainer)
        except Refused as error:
            yield skipped(name, error.reason, error.fix)
        except MinisheepError as error:
            yield fail(name, error.message, error.fix or "--trainer peft")
        else:
            done.append(training)
            yield curves.result_of(training)
    if len(done) == len(TRAINERS):
        yield curves.compare(*done)
    else:
        yield skipped("unsloth beside peft", "needs both trainings")
