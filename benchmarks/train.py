"""Training: minisheep's trainer against transformers' `Trainer` with plain padding."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

from benchmarks.bench_setup import BenchSetup
from benchmarks.measure import Comparison, Target
from benchmarks.turns import alternate, compare_rates
from minisheep.plan.calibration import Turn, after_first_step, examples
from minisheep.run.events import Event, TrainStep
from minisheep.stages.train import train_job
from minisheep.trainers.base import TrainJob
from minisheep.trainers.choose_trainer import make_trainer
from minisheep.trainers.lora_model import this_machine
from minisheep.trainers.peft import tokenise

TARGETS = {"smollm2-135m": 1.3, "gemma-3-270m": 2.0}
PEER_NAME = "transformers Trainer + PEFT, padded to the longest"


def measure(setup: BenchSetup) -> Iterator[Comparison]:
    """Tokens a second, padding not counted, over all steps but the first. Loading the model is outside."""
    from benchmarks.peers_trainer import train_padded

    sizes = setup.job.sizes
    job = _job(setup)
    data = tokenise(job.gguf, job.examples, job.settings.max_length)
    precision = this_machine(job.settings.load_in)
    turns = alternate(
        lambda turn: _train(job),
        lambda turn: train_padded(job, data.pairs, precision, setup.threads),
        setup.job.repeats,
    )
    lengths = sorted(len(pair.ids) for pair in data.pairs)
    name = setup.model.prepared.name
    yield compare_rates(
        f"training, {name}", turns, peer_name=PEER_NAME, unit="tokens/s",
        sizes=f"{len(lengths)} examples of {lengths[0]} to {lengths[-1]} tokens (median {lengths[len(lengths) // 2]}),"
        f" steps of {sizes['batch']} in micro-batches of {sizes['micro']}, {precision.load_in}",
        target=Target(TARGETS[name]) if name in TARGETS else None,
    )  # fmt: skip


def _job(setup: BenchSetup) -> TrainJob:
    sizes = setup.job.sizes
    settings = setup.settings(
        epochs=sizes["epochs"], batch_size=sizes["batch"], micro_batch_size=sizes["micro"],
        max_length=sizes["max_length"], validation=0.0, checkpoint_seconds=1e9, lora_dropout=0.05,
    )  # fmt: skip
    model = setup.model.prepared
    return train_job(
        settings, model.template, 1, examples(setup.seeds, sizes["examples"]),
        gguf=model.gguf, weights=model.weights, output=setup.folder / "adapter", scratch=setup.folder / "scratch",
    )  # fmt: skip


def _train(job: TrainJob) -> Turn:
    """Our own trainer, timed by its step events."""
    steps: list[tuple[float, float]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, TrainStep):
            steps.append((time.perf_counter(), event.tokens_per_second))

    shutil.rmtree(job.output, ignore_errors=True)
    shutil.rmtree(job.scratch, ignore_errors=True)
    job.scratch.mkdir(parents=True)
    make_trainer("peft").train(job, on_event, lambda: False)
    return after_first_step(steps)
