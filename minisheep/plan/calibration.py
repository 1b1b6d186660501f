"""A short try of a plan's model on this machine, so that times are measured and not estimated."""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from minisheep import config
from minisheep.config import Settings
from minisheep.engines.base import GenerateRequest, LoglikRequest, Sampling
from minisheep.errors import DownloadError, UsageError
from minisheep.machine.gpu import Peak
from minisheep.machine.worker import WorkerProcess
from minisheep.plan import duration
from minisheep.plan.duration import NEW, Calibration
from minisheep.plan.fit import Plan
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import user_text
from minisheep.rules.seed_tasks import SeedTask, load_seeds
from minisheep.rules.templates import Segment
from minisheep.run.events import Emit, Event, TrainStep
from minisheep.run.files import disk_errors, read_json, write_json
from minisheep.run.records import Example

# The parts of a try, one child process each, as the workers of a run are. Pure.
ASK, TRAIN = "ask", "train"
EXAMPLES = 64
"""Examples that training has at most: a few steps tell its speed."""
STEPS = 3
"""Steps of training; the first is not timed, since kernels are made and memory is taken then."""
PAIRS = 32
"""Texts whose likelihood is asked, for the speed of reading."""


WORKER = "minisheep.plan.calibration:measure"
PART_SECONDS = 900.0
"""What takes longer hangs: the sizes are seconds to minutes on a GPU of 2018."""


def measured(worker: str, job: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """What a `worker` (its handler) of its own measured, and the most VRAM that the GPU held meanwhile beyond what it
    held before.

    Raises `errors.MinisheepError`: what the job raised, or that its process died or hung.
    """
    with Peak() as peak, WorkerProcess(worker) as process:
        facts = process.do(job, f"Measuring '{job['phase']}'", seconds=PART_SECONDS)
    return facts, peak.bytes


def calibrate(plan: Plan, gguf: Path | None, on_progress: Callable[[str], None]) -> Calibration:
    """Try the model of `plan` with its settings, as the workers of a run would use it, and keep what was found.

    `gguf` is its file, None where it is not here. Nothing is fetched: without training weights at hand, training stays
    an estimate. Raises `errors.MinisheepError` for what does not work.
    """
    if gguf is None:
        raise UsageError(
            f"{plan.model.name} is not here, so it cannot be tried.", f"minisheep pull {plan.settings.model}"
        )
    with tempfile.TemporaryDirectory(prefix="minisheep-plan-") as folder:
        write_json(Path(folder) / "settings.json", plan.settings.model_dump())
        job = {"slots": plan.slots, "folder": folder}
        on_progress(f"Trying {plan.model.name} with {plan.slots} sequences at once.")
        asked, asked_bytes = measured(WORKER, {"phase": ASK, **job})
        on_progress("Trying a few steps of training.")
        trained, trained_bytes = _train(job, on_progress)
    found = Calibration(
        machine=plan.machine.title,
        slots=asked["slots"],
        kv_type=plan.cache,
        drawn=asked["drawn"],
        read=asked["read"],
        trained=trained.get("trained", 0.0),
        trainer=trained.get("trainer", ""),
        inference_bytes=asked_bytes,
        training_bytes=trained_bytes,
        date=date.today().isoformat(),
    )
    path = duration.place(gguf)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dataclasses.asdict(found))
    return found


def _train(job: dict[str, Any], on_progress: Callable[[str], None]) -> tuple[dict[str, Any], int | None]:
    try:
        return measured(WORKER, {"phase": TRAIN, **job})
    except DownloadError as error:
        on_progress(f"Training was not tried: {error.message}")
        return {}, None


# The worker's part of a try, which fetches nothing; its work and its clock, which the bench has too.
TURNS = 2
TOGETHER = (1, 1, 2, 1, 4, 1, 2, 7)
"""How many seed tasks make one training example, in turn: most are short and a few are long, as answers are."""
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side did when its turn came: an amount of work (tokens, pairs ...) in seconds."""

    amount: float
    seconds: float

    @property
    def rate(self) -> float:
        """Work a second."""
        return self.amount / max(self.seconds, 1e-9)


def measure(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """``{"phase": ASK or TRAIN, "slots": number, "folder": with settings.json}``."""
    # Before the hub's client is imported, which reads it then.
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder = Path(job["folder"])
    settings = config.make(read_json(folder / "settings.json"))
    return ask(settings, job["slots"]) if job["phase"] == ASK else train(settings, folder)


def ask(settings: Settings, slots: int) -> dict[str, Any]:
    """Tokens a second drawn and read, by the engine that a run would have."""
    from minisheep.prepare import for_inference
    from minisheep.workspace import open_engine

    model = for_inference(settings, ignore, trainable=True)
    engine = open_engine(settings.model_copy(update={"slots": slots}), model.inference_gguf)
    seeds = load_seeds()
    try:

        def draw(number: int) -> float:
            requests = decode_requests(seeds, engine.info.slots, NEW, number)
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
    from minisheep.models.registry import find_model
    from minisheep.prepare import for_inference, training_weights
    from minisheep.stages.train import train_job
    from minisheep.trainers.choose_trainer import choose_trainer, make_trainer

    model = for_inference(settings, ignore, trainable=True)
    entry = find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
    weights, _ = training_weights(entry, model.gguf, model.gguf_sha256, ignore, offline=True)
    trainer = choose_trainer(settings.trainer, settings.load_in, model.architecture).trainer
    # Whole batches, so that the steps are those of a round.
    batch = min(settings.batch_size, EXAMPLES // STEPS)
    short = settings.model_copy(update={"epochs": 1, "validation": 0.0, "batch_size": batch, "max_examples": EXAMPLES})
    job = train_job(
        short, model.template, 1, examples(load_seeds(), STEPS * batch),
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


def decode_requests(seeds: Sequence[SeedTask], count: int, tokens: int, turn: int) -> list[GenerateRequest]:
    """Short plain prompts with a long way to go; each turn has its own, so that no side can keep a prompt's KV."""
    requests = []
    for number in range(count):
        seed = seeds[(turn * count + number) % len(seeds)]
        text = (
            f"Notes, part {turn * count + number + 1}. A long letter that begins with the words: {seed.instruction}\n"
        )
        identity = derive_seed("bench", "decode", turn, number)
        requests.append(GenerateRequest(str(number), (Segment(text),), Sampling(max_tokens=tokens), seed=identity))
    return requests


def examples(seeds: Sequence[SeedTask], count: int) -> list[Example]:
    """Training examples of mixed length: one to seven seed tasks in one, see `TOGETHER`."""
    found = []
    position = 0
    for number in range(count):
        some = [seeds[(position + i) % len(seeds)] for i in range(TOGETHER[number % len(TOGETHER)])]
        position += len(some)
        if len(some) == 1:
            asked, answered = user_text(some[0].instruction, some[0].input), some[0].output
        else:
            asked = "\n".join(f"{i}. {user_text(s.instruction, s.input)}" for i, s in enumerate(some, 1))
            answered = "\n".join(f"{i}. {s.output}" for i, s in enumerate(some, 1))
        found.append(
            Example(
                instruction=asked,
                input="",
                output=answered,
                messages=[{"role": "user", "content": asked}, {"role": "assistant", "content": answered}],
                score=1.0,
                quality=None,
                following=None,
                cut="",
                parents=("bench", "bench", str(number)),
            )
        )
    return found


def timed(work: Callable[[], float], clock: Clock = time.perf_counter) -> Turn:
    """Do `work`, which returns its amount, and time it."""
    began = clock()
    amount = work()
    return Turn(amount, clock() - began)


def after_first_step(steps: list[tuple[float, float]]) -> Turn:
    """Tokens and seconds from the end of the first step to that of the last.

    `steps` holds when each was told and its own tokens a second, which times its duration gives its tokens.
    """
    seconds = [later[0] - earlier[0] for earlier, later in itertools.pairwise(steps)]
    tokens = sum(duration * step[1] for duration, step in zip(seconds, steps[1:], strict=True))
    return Turn(tokens, sum(seconds))
