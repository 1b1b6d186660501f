"""Memory of the inference worker after many records and after few, each in its own process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import material
from benchmarks.bench_setup import BenchSetup
from benchmarks.commands import own_peak_memory
from benchmarks.measure import Comparison, Target
from benchmarks.turns import compare_values
from minisheep import opening, phases
from minisheep.machine.worker import WorkerProcess
from minisheep.run.folder import RunFolder, replace_records
from minisheep.workspace import Workspace

ANSWER_TOKENS = 2
"""Answers are short: memory depends on the number of records and slots, and this saves time."""
CONTEXT = 512


def measure(setup: BenchSetup) -> Iterator[Comparison]:
    few, many = setup.job.sizes["few"], setup.job.sizes["many"]
    after = {count: _in_a_process(setup, count) for count in (few, many)}
    yield compare_values(
        "memory of the inference worker", [after[many] / 1e6], [after[few] / 1e6],
        peer_name=f"the same after {few:,} records", unit="MB",
        sizes=f"{many:,} answers of {ANSWER_TOKENS} tokens, {setup.model.format}", target=Target(1.1, at_most=True),
    )  # fmt: skip


def _in_a_process(setup: BenchSetup, count: int) -> int:
    job = replace(setup.job, part="answers", sizes={"answers": count})
    with WorkerProcess("benchmarks.run:do") as worker:
        return int(worker.do(job.to_job(), f"Answering {count} instructions")["bytes"])


def answer(setup: BenchSetup) -> int:
    """Answer `sizes["answers"]` instructions as a worker does, with records on disk; returns peak resident bytes."""
    count = setup.job.sizes["answers"]
    settings = setup.settings(answer_max_tokens=ANSWER_TOKENS, per_round=count, context=CONTEXT)
    folder = RunFolder(setup.folder / f"answers-{count}")
    folder.create()
    opening.write_settings(folder, settings)
    setup.model.prepared.write(folder.model)
    short = [seed for seed in setup.seeds if not seed.input]
    replace_records(folder.make_round(1).instructions, material.instructions(short, count))
    work = Workspace(folder.path)
    try:
        phases.do(work, 1, "respond", lambda event: None, lambda: False)
        return own_peak_memory()
    finally:
        work.close()
