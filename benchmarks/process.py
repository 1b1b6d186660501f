"""What the command itself costs: start-up, memory of the parent, time a record in large runs. No model is needed."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench_setup import BenchSetup
from benchmarks.commands import MINISHEEP, Event, flags, peak_memory_of, run, seconds_of, watched
from benchmarks.measure import Comparison, Target
from benchmarks.turns import alternate, compare_values
from minisheep.plan.calibration import Turn, timed

FAKE = {
    "engine": "fake", "trainer": "fake", "rounds": 1, "novelty": 1.0, "eval_tasks": 2, "eval_answers": 1,
    "eval_verifiable": 0,
}  # fmt: skip
"""A run without models. Every instruction counts as new, since word lists repeat; it is compared all the same."""
RECORDS_EACH = 5
"""About how many records one instruction becomes: its draft's share, itself, answer, verdict, kept or dropped."""


def measure_help(setup: BenchSetup) -> Iterator[Comparison]:
    """Seconds of ``minisheep --help``."""

    def side(command: list[str]) -> Turn:
        def work() -> float:
            seconds_of(command)
            return 1.0

        return timed(work)

    peer = [sys.executable, "-c", "import click, rich"]
    ours = [*MINISHEEP, "--help"]
    for command in (ours, peer):
        seconds_of(command)
    turns = alternate(lambda turn: side(ours), lambda turn: side(peer), setup.job.sizes["runs"])
    yield compare_values(
        "minisheep --help", [t.seconds for t in turns.ours], [t.seconds for t in turns.peer],
        peer_name='python -c "import click, rich"', unit="s", sizes=f"{len(turns.ours)} starts each",
        target=Target(1.5, at_most=True),
    )  # fmt: skip


def measure_parent(setup: BenchSetup) -> Iterator[Comparison]:
    """Highest resident memory of the parent process of a whole run."""
    per_round = setup.job.sizes["per_round"]
    arguments = ["align", "--run", "parent", "--preset", "imitation", *flags(per_round=per_round, **FAKE)]
    highest = 0
    with watched(arguments, setup.folder) as (process, events):
        for _ in events:
            highest = max(highest, peak_memory_of(process.pid) or 0)
    yield compare_values(
        "memory of the parent", [highest / 1e6], [], peer_name="", unit="MB",
        sizes=f"one round of {per_round} instructions, fake engine", target=Target(80.0, of="ours", at_most=True),
    )  # fmt: skip


def measure_records(setup: BenchSetup) -> Iterator[Comparison]:
    """Microseconds a record in a large and in a small run, both interrupted in the middle and continued.

    The time of a run without records (two processes and their start) is subtracted from both.
    """
    sizes, repeats = setup.job.sizes, setup.job.repeats
    nothing = statistics.median(_interrupted_run(setup.folder, f"none-{n}", 2)[1] for n in range(repeats))

    def each(name: str, target: int) -> tuple[int, float]:
        records, seconds = _interrupted_run(setup.folder, name, max(2, target // RECORDS_EACH))
        return records, max(seconds - nothing, 1e-6) / records * 1e6

    # Small runs are short and noisy, so there are several. The large one takes minutes: once is enough.
    few = [each(f"few-{n}", sizes["few"]) for n in range(repeats)]
    many = each("many", sizes["many"])
    yield compare_values(
        "time a record", [many[1]], [cost for _, cost in few],
        peer_name=f"the same with {few[0][0]:,} records", unit="microseconds",
        sizes=f"{many[0]:,} records, fake engine, one interruption and continuation included",
        target=Target(1.3, at_most=True),
        note=f"{nothing:.1f} s of start-up and end subtracted from both",
    )  # fmt: skip


def _interrupted_run(folder: Path, name: str, per_round: int) -> tuple[int, float]:
    """Records on disk and seconds of a run that is stopped while it answers and then continued."""
    arguments = ["align", "--run", f"records-{name}", "--preset", "imitation", *flags(per_round=per_round, **FAKE)]

    def half_answered(event: Event) -> bool:
        return bool(event["event"] == "Progress" and event["phase"] == "respond" and event["done"] >= per_round // 2)

    began = time.perf_counter()
    run(arguments, folder, half_answered)
    run(arguments, folder)
    seconds = time.perf_counter() - began
    return sum(_lines(path) for path in (folder / f"records-{name}").glob("round-1/*.jsonl")), seconds


def _lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)
