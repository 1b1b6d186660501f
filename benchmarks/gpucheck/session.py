"""One call of ``make gpu-check``: the order of the parts, and which are skipped where something is missing."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gpucheck import build, curves, jobs, parts, probe
from benchmarks.gpucheck.parts import OnProgress, Refused
from benchmarks.plan import DEFAULT_MODEL, Job
from minisheep.doctor import diagnosis, packages
from minisheep.doctor.check_result import CheckResult, counted, fail, ok, skipped, verdict, warn
from minisheep.doctor.checks import NO_GPU
from minisheep.doctor.machine_facts import MachineFacts
from minisheep.errors import MinisheepError
from minisheep.machine.installing import requirements

TRAINERS = ("peft", "unsloth")
DOCTOR_SECONDS = 180.0
"""Long enough for a first import of CUDA libraries from a slow disk."""
PROBE_SECONDS = 60.0


MINUTES = {"install": 3, "doctor": 1, "train": 2, "align": 4, "7b": 9, "decode": 2, "bench": 5}
"""About how long each part takes on a current GPU with 16 cores and a fast disk (estimates; a build of llama.cpp in
place of the prebuilt one adds 4 to 30)."""
PARTS = tuple(MINUTES)
"""In order of worth, should the machine be taken away: what a run needs first, then the size that it is for, then
figures."""


@dataclass(frozen=True, slots=True)
class Options:
    model: str = DEFAULT_MODEL
    install: bool = True
    """Whether missing packages may be installed into this environment."""
    only: tuple[str, ...] = ()
    """Of `PARTS`; empty: all."""
    done: frozenset[str] = frozenset()
    """Names of results that an earlier call has already."""

    def wants(self, part: str, names: Sequence[str]) -> bool:
        """Whether a part is to be done: it is asked for, and one of its results is missing."""
        return (not self.only or part in self.only) and not set(names) <= self.done


def run(options: Options, machine: MachineFacts, on_progress: OnProgress) -> Iterator[CheckResult]:
    """Every part that is wanted, in order, each result as soon as it is known. A part's own error becomes its result;
    what an earlier call has is left out."""
    for result in _results(options, machine, on_progress):
        if result.name not in options.done:
            yield result


def _results(options: Options, machine: MachineFacts, on_progress: OnProgress) -> Iterator[CheckResult]:
    with tempfile.TemporaryDirectory(prefix="minisheep-gpu-check-") as name:
        folder = Path(name)
        job = Job("prepare", options.model, {}, 1, folder=name)
        wanted = [part for part in PARTS if options.wants(part, names_of(part))]
        if not machine.has_gpu:
            for part in wanted:
                if part == "doctor":
                    yield examine(options, on_progress)
                else:
                    yield from (skipped(result, NO_GPU) for result in names_of(part))
            return
        times = ", ".join(f"{part} {MINUTES[part]}" for part in wanted)
        on_progress(f"about {sum(MINUTES[part] for part in wanted)} minutes ({times})")
        if "install" in wanted:
            yield from set_up(options, machine, folder, job, on_progress)
        if "doctor" in wanted:
            yield examine(options, on_progress)
        measured = [part for part in wanted if part not in ("install", "doctor")]
        refusal = parts.without_unsloth() if {"train", "align", "7b"} & set(measured) else None
        missing = parts.prepare(job, on_progress) if set(measured) - {"7b"} else None
        if missing is not None:
            reason = f"{options.model} is not available: {missing.message}"
            lost = [part for part in measured if part != "7b"]  # which makes its model itself
            yield from (skipped(result, reason, missing.fix) for part in lost for result in names_of(part))
            measured = [part for part in measured if part == "7b"]
        for part in measured:
            yield from _measure(part, options, job, refusal, folder, on_progress)


def _measure(
    part: str, options: Options, job: Job, refusal: Refused | None, folder: Path, on_progress: OnProgress
) -> Iterator[CheckResult]:
    if part == "train":
        yield from train(job, refusal, on_progress)
    elif part == "align":
        for trainer in TRAINERS:
            name = f"align with {trainer}"
            if name in options.done:
                continue
            if trainer == "unsloth" and refusal is not None:
                yield skipped(name, refusal.reason, refusal.fix)
                continue
            on_progress(f"aligning with {trainer}")
            yield parts.align(options.model, trainer, folder)
    elif part == "7b":
        place = folder / "7b"
        place.mkdir()
        yield from probe.run(place, refusal, options.done, on_progress)
        shutil.rmtree(place, ignore_errors=True)
    elif part == "decode":
        on_progress("measuring: decode")
        yield from parts.decode(job, options.done)
    else:
        on_progress("measuring: bench")
        yield from parts.bench(options.model, on_progress)


def names_of(part: str) -> list[str]:
    """The names of a part's results."""
    return {
        "install": before_doctor(),
        "doctor": ["doctor"],
        "train": [*(f"train with {trainer}" for trainer in TRAINERS), "unsloth beside peft"],
        "align": [f"align with {trainer}" for trainer in TRAINERS],
        "7b": probe.names(),
        "decode": [parts.decode_name(slots) for slots in jobs.SLOTS],
        "bench": [f"bench {verb}" for verb in jobs.BENCHED],
    }[part]


def before_doctor() -> list[str]:
    """Names of the set-up's results."""
    return ["install llama.cpp with CUDA", "install Unsloth"]


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
        yield install_llama(machine, folder / "llama.log", on_progress)
    version = packages.installed_version("unsloth")
    step = build.unsloth(requirements(), sys.executable)
    if version is not None:
        yield ok(unsloth, f"Unsloth {version} is installed already")
    elif not options.install:
        yield skipped(unsloth, "missing, and --no-install forbids it", build.command_line(step))
    else:
        yield parts.install(step, folder / "unsloth.log", on_progress)


def install_llama(machine: MachineFacts, log: Path, on_progress: OnProgress) -> CheckResult:
    """The prebuilt one where there is one, else a build; one result."""
    prebuilt = build.prebuilt(machine, sys.executable)
    if prebuilt is not None:
        found = parts.install(prebuilt, log, on_progress)
        if found.outcome == "ok":
            return replace(found, name=before_doctor()[0], found=f"{found.found}, prebuilt")
        on_progress(f"no prebuilt llama.cpp: {found.found}")
    return parts.install(build.llama(machine, sys.executable, os.environ), log, on_progress)


def examine(options: Options, on_progress: OnProgress) -> CheckResult:
    """``minisheep doctor``, as one result with all of its checks."""
    on_progress("minisheep doctor")
    try:
        found = list(diagnosis.diagnose(diagnosis.Probing(options.model), DOCTOR_SECONDS, on_progress))
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
