"""Time from a round's last training step to the first result with the new adapter, in the loop itself."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench_setup import BenchSetup
from benchmarks.commands import Event, flags, run
from benchmarks.measure import Comparison, Target
from benchmarks.turns import compare_values
from minisheep.errors import MinisheepError
from minisheep.plan.calibration import examples
from minisheep.run.folder import RunFolder, replace_records


class Watch:
    """Gets a run's events; `seconds` is set when the round's evaluation has its first result."""

    def __init__(self) -> None:
        self._trained = 0.0
        self.seconds: float | None = None

    def __call__(self, event: Event) -> bool:
        if event["event"] == "TrainStep":
            self._trained = event["time"]
        elif event["event"] == "Progress" and event["phase"] == "evaluate" and self._trained:
            self.seconds = event["time"] - self._trained
        return self.seconds is not None


def measure(setup: BenchSetup) -> Iterator[Comparison]:
    """Saving and converting the adapter, changing workers, hot-loading, and one prefill. No peer does this."""
    count = setup.job.sizes["examples"]
    seconds = [_once(setup, turn, count) for turn in range(setup.job.repeats)]
    yield compare_values(
        "last training step to first result of the new adapter", seconds, [], peer_name="", unit="s",
        sizes=f"one round of the loop, {count} examples, {setup.model.prepared.name}",
        target=Target(3.0, of="ours", at_most=True),
    )  # fmt: skip


def _once(setup: BenchSetup, turn: int, count: int) -> float:
    """A run whose data phase is replaced by our own examples: only training and what follows is real."""
    folder = RunFolder(setup.folder / f"turnaround-{turn}")
    settings = {
        "rounds": 1, "per_round": count, "eval_tasks": 1, "eval_answers": 1, "eval_max_tokens": 1, "eval_verifiable": 0,
        "epochs": 1,
        "max_length": 128, "validation": 0.0, "slots": setup.job.slots, "threads": setup.threads,
    }  # fmt: skip
    run(
        [
            "evaluate",
            "--run",
            str(folder.path),
            "--preset",
            "imitation",
            "--model",
            setup.job.model,
            *flags(**settings),
        ],
        setup.folder,
    )
    manifest = folder.read_manifest()
    manifest["phases"] |= {f"round-1/{phase}": {} for phase in ("generate", "respond", "judge", "filter")}
    replace_records(folder.make_round(1).kept, examples(setup.seeds, count))
    folder.write_manifest(manifest)
    watch = Watch()
    run(["align", "--run", str(folder.path)], setup.folder, watch)
    if watch.seconds is None:
        raise MinisheepError("The run ended before it used its adapter, so turn-around was not measured.")
    return watch.seconds
