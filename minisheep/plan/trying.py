"""The child process of a try: ``python -m minisheep.plan.trying JOB``, see `bench.answer`. It fetches nothing."""

from __future__ import annotations

import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from minisheep import config
from minisheep.bench import material
from minisheep.bench.answer import answer
from minisheep.bench.plan import Job
from minisheep.bench.turns import after_first_step, timed
from minisheep.config import Settings
from minisheep.data.texts import load_seeds
from minisheep.engines.base import LoglikRequest
from minisheep.events import Event, TrainStep
from minisheep.plan.jobs import ASK, EXAMPLES, PAIRS, STEPS
from minisheep.plan.tried import NEW
from minisheep.rules.templates import Segment
from minisheep.store import read_json

TURNS = 2


def measure(job: Job) -> dict[str, Any]:
    folder = Path(job.folder)
    settings = config.make(read_json(folder / "settings.json"))
    return ask(settings, job.slots) if job.part == ASK else train(settings, folder)


def ask(settings: Settings, slots: int) -> dict[str, Any]:
    """Tokens a second drawn and read, by the engine that a run would have."""
    from minisheep.models.prepare import for_inference
    from minisheep.workspace import open_engine

    model = for_inference(settings, ignore, trainable=True)
    engine = open_engine(settings.model_copy(update={"slots": slots}), model.inference_gguf)
    seeds = load_seeds()
    try:

        def draw(number: int) -> float:
            requests = material.decode_requests(seeds, engine.info.slots, NEW, number)
            return float(sum(completion.tokens for completion in engine.generate(requests)))

        def read(number: int) -> float:
            before = engine.evaluated
            texts = [(f"{number}. {s.instruction}\n", f"{s.input} {s.output}") for s in seeds[:PAIRS]]
            requests = [LoglikRequest(str(i), (Segment(a),), (Segment(b),)) for i, (a, b) in enumerate(texts)]
            for _ in engine.loglik(requests):
                pass
            return float(engine.evaluated - before)

        draw(TURNS)  # kernels are loaded, graphs captured
        drawn = [timed(partial(draw, number)).rate for number in range(TURNS)]
        told = [timed(partial(read, number)).rate for number in range(TURNS)]
        return {"drawn": statistics.mean(drawn), "read": statistics.mean(told), "slots": engine.info.slots}
    finally:
        engine.close()


def train(settings: Settings, folder: Path) -> dict[str, Any]:
    """Tokens a second of training, by the trainer that a run would have. Raises `errors.DownloadError` for weights that
    are not at hand."""
    from minisheep.models.prepare import for_inference, training_weights
    from minisheep.models.registry import find_model
    from minisheep.stages.train import train_job
    from minisheep.trainers.choose import choose, make_trainer

    model = for_inference(settings, ignore, trainable=True)
    entry = find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
    weights, _ = training_weights(entry, model.gguf, model.gguf_sha256, ignore, offline=True)
    trainer = choose(settings.trainer, settings.load_in, model.architecture).trainer
    # Whole batches, so that the steps are those of a round.
    batch = min(settings.batch_size, EXAMPLES // STEPS)
    short = settings.model_copy(update={"epochs": 1, "validation": 0.0, "batch_size": batch, "max_examples": EXAMPLES})
    job = train_job(
        short, model.template, 1, material.examples(load_seeds(), STEPS * batch),
        gguf=model.gguf, weights=weights, output=folder / "adapter", scratch=folder / "scratch",
    )  # fmt: skip
    job.scratch.mkdir(parents=True)
    # Unsloth writes a folder of compiled code wherever it is.
    os.chdir(folder)
    steps: list[tuple[float, float]] = []

    def hear(event: Event) -> None:
        if isinstance(event, TrainStep):
            steps.append((time.perf_counter(), event.tokens_per_second))

    make_trainer(trainer).train(job, hear, lambda: False)
    return {"trained": after_first_step(steps).rate, "trainer": trainer}


def ignore(event: Event) -> None:
    """What is told while a model is made ready is no news to a plan."""


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    answer(sys.argv[1], measure)
