"""Memory of the inference worker after many records, against the same after few; each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import material
from benchmarks.commands import own_peak_memory
from benchmarks.desk import Desk
from benchmarks.measure import Comparison, Target
from benchmarks.turns import compare_values
from minisheep import api, phases
from minisheep.machine.worker import WorkerProcess
from minisheep.run.folder import RunFolder, replace_records
from minisheep.workspace import Workspace

ANSWER_TOKENS = 2
"""Short answers: memory follows from the number of records and from the slots, and time is short."""
CONTEXT = 512


def measure(desk: Desk) -> Iterator[Comparison]:
    few, many = desk.job.sizes["few"], desk.job.sizes["many"]
    after = {count: _in_a_process(desk, count) for count in (few, many)}
    yield compare_values(
        "memory of the inference worker", [after[many] / 1e6], [after[few] / 1e6],
        peer_name=f"the same after {few:,} records", unit="MB",
        sizes=f"{many:,} answers of {ANSWER_TOKENS} tokens, {desk.model.format}", target=Target(1.1, at_most=True),
    )  # fmt: skip


def _in_a_process(desk: Desk, count: int) -> int:
    job = replace(desk.job, part="answers", sizes={"answers": count})
    with WorkerProcess("benchmarks.run:do") as worker:
        return int(worker.do(job.to_job(), f"Answering {count} instructions")["bytes"])


def answer(desk: Desk) -> int:
    """Answer that many instructions as a worker does, records on disk; the highest resident memory in bytes."""
    count = desk.job.sizes["answers"]
    settings = desk.settings(answer_max_tokens=ANSWER_TOKENS, per_round=count, context=CONTEXT)
    folder = RunFolder(desk.folder / f"answers-{count}")
    folder.create()
    api.write_settings(folder, settings)
    desk.model.prepared.write(folder.model)
    short = [seed for seed in desk.seeds if not seed.input]
    replace_records(folder.make_round(1).instructions, material.instructions(short, count))
    work = Workspace(folder.path)
    try:
        phases.do(work, 1, "respond", lambda event: None, lambda: False)
        return own_peak_memory()
    finally:
        work.close()
