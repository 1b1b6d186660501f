"""The worker's side of one measurement."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.bench_setup import BenchSetup
from benchmarks.gpucheck.jobs import DECODE, TRAIN
from benchmarks.plan import Job
from minisheep.plan.calibration import after_first_step, decode_requests, examples, timed
from minisheep.run.events import Emit, Event, TrainStep


def measure(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """One part: a `benchmarks.plan.Job`."""
    setup = BenchSetup(Job.from_job(job))
    # Unsloth writes compiled code into the current folder.
    os.chdir(setup.folder)
    return decode(setup) if setup.job.part == DECODE else train(setup, setup.job.part.removeprefix(TRAIN))


def decode(setup: BenchSetup) -> dict[str, Any]:
    """New tokens a second with `slots` sequences at once: the median of the turns, each with its own prompts."""
    from minisheep.engines.llamacpp import LlamaCppEngine

    sizes, slots = setup.job.sizes, setup.job.slots
    engine = LlamaCppEngine(setup.model.inference_gguf, slots=slots, context=sizes["context"], threads=setup.threads)
    try:

        def turn(number: int) -> float:
            count = max(slots * 2, sizes["least"])
            requests = decode_requests(setup.seeds, count, sizes["tokens"], number)
            return float(sum(completion.tokens for completion in engine.generate(requests)))

        turn(10**6)  # kernels are loaded, graphs captured
        turns = [timed(partial(turn, number)) for number in range(setup.job.repeats)]
        return {
            "tokens_per_second": statistics.median(one.rate for one in turns),
            "turns": [one.rate for one in turns],
            "slots": engine.info.slots,
            "engine": engine.info.description,
        }
    finally:
        engine.close()


def train(setup: BenchSetup, trainer: str) -> dict[str, Any]:
    """One training by the named trainer. Raises `errors.UsageError` where this version or machine lacks it."""
    from minisheep.stages.train import train_job
    from minisheep.trainers.choose_trainer import choose_trainer, make_trainer

    sizes, model = setup.job.sizes, setup.model.prepared
    choose_trainer(trainer, "auto", model.architecture)
    # Without dropout and held-out examples, the same data in the same order must give the same curve.
    settings = setup.settings(
        trainer=trainer, epochs=sizes["epochs"], batch_size=sizes["batch"], micro_batch_size=sizes["micro"],
        max_length=sizes["max_length"], lora_dropout=0.0, validation=0.0, checkpoint_seconds=1e9,
    )  # fmt: skip
    folder = setup.folder / trainer
    job = train_job(
        settings, model.template, 1, examples(setup.seeds, sizes["examples"]),
        gguf=model.gguf, weights=model.weights, output=folder / "adapter", scratch=folder / "scratch",
    )  # fmt: skip
    job.scratch.mkdir(parents=True)
    losses: list[float] = []
    steps: list[tuple[float, float]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, TrainStep):
            losses.append(event.loss)
            steps.append((time.perf_counter(), event.tokens_per_second))

    result = make_trainer(trainer).train(job, on_event, lambda: False)
    import torch

    allocated = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "losses": losses, "tokens_per_second": after_first_step(steps).rate, "seconds": result.seconds,
        "load_in": result.load_in, "allocated_bytes": int(allocated),
    }  # fmt: skip
