"""Measures a plan's model on this machine for a short time, so that its times need not be estimated.

`calibrate` starts a child process for each part and writes the result into the cache; `measure` is the worker's side,
which downloads nothing. The benchmarks use its work and its clock too.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from minisheep import config
from minisheep.config import Settings
from minisheep.data.seed_tasks import SeedTask, load_seeds
from minisheep.engines.base import GenerateRequest, LoglikRequest, Sampling
from minisheep.errors import DownloadError, UsageError
from minisheep.machine.gpu import Peak
from minisheep.machine.worker import WorkerProcess
from minisheep.models.registry import find_model
from minisheep.plan import duration
from minisheep.plan.fit import Plan
from minisheep.prepare import for_inference, training_weights
from minisheep.rules.identity import derive_seed
from minisheep.rules.plain_text import shell
from minisheep.rules.prompts import user_text
from minisheep.rules.templates import Segment
from minisheep.run.events import Emit, Event, TrainStep
from minisheep.run.files import disk_errors, read_json, write_json
from minisheep.run.records import Example

ASK, TRAIN = "ask", "train"
EXAMPLES = 64
"""Training's most examples: a few steps show its speed."""
STEPS = 3
"""Training steps; the first is not timed, since it compiles kernels and allocates memory."""
PAIRS = 32
"""Texts whose likelihood is computed, for the speed of reading."""
WORKER = "minisheep.plan.calibration:measure"
PART_SECONDS = 900.0
"""A part that takes longer hangs: a GPU of 2018 needs seconds to minutes."""


def measured(worker: str, job: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """The result of a new `worker` (its handler), and the peak growth of VRAM while it ran.

    Raises `errors.MinisheepError`: what the job raised, or that its process died or hung.
    """
    with Peak() as peak, WorkerProcess(worker) as process:
        facts = process.do(job, f"Measuring '{job['phase']}'", seconds=PART_SECONDS)
    return facts, peak.bytes


def calibrate(plan: Plan, gguf: Path | None, on_progress: Callable[[str], None]) -> duration.Calibration:
    """Measure the model of `plan` with its settings, as a run's workers would use it, and store the result.

    `gguf` is its file, None where it is not on this machine. Nothing is downloaded: without cached training weights,
    training stays an estimate. Raises `errors.MinisheepError` for a part that fails.
    """
    if gguf is None:
        missing = f"{plan.model.name} is not on this machine, so it cannot be measured."
        raise UsageError(missing, f"Fetch it with `minisheep pull {shell(plan.settings.model)}`.")
    with tempfile.TemporaryDirectory(prefix="minisheep-plan-") as folder:
        write_json(Path(folder) / "settings.json", plan.settings.model_dump())
        job = {"slots": plan.slots, "folder": folder}
        on_progress(f"Measuring {plan.model.name} with {plan.slots} sequences at once.")
        asked, asked_bytes = measured(WORKER, {"phase": ASK, **job})
        on_progress("Measuring a few steps of training.")
        trained: dict[str, Any] = {}
        training_bytes = None
        try:
            trained, training_bytes = measured(WORKER, {"phase": TRAIN, **job})
        except DownloadError as error:
            on_progress(f"Training was not measured: {error.message}")
    calibration = duration.Calibration(
        machine=plan.machine.title,
        kv_type=plan.cache,
        **asked,
        **{"trained": 0.0, "trainer": "", **trained},
        inference_bytes=asked_bytes,
        training_bytes=training_bytes,
        date=date.today().isoformat(),
    )
    path = duration.calibration_path(gguf)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(calibration))
    return calibration


TURNS = 2
TOGETHER = (1, 1, 2, 1, 4, 1, 2, 7)
"""Seed tasks in one training example, in turn: most examples are short and a few are long, as answers are."""
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's turn: an amount of work (tokens, pairs ...) in seconds."""

    amount: float
    seconds: float

    @property
    def rate(self) -> float:
        return self.amount / max(self.seconds, 1e-9)


def measure(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """``{"phase": ASK or TRAIN, "slots": number, "folder": with settings.json}``."""
    # The hub's client reads this when it is imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder = Path(job["folder"])
    settings = config.make(read_json(folder / "settings.json"))
    return ask(settings, job["slots"]) if job["phase"] == ASK else train(settings, folder)


def ask(settings: Settings, slots: int) -> dict[str, Any]:
    """Tokens a second drawn and read, by the engine that a run would use."""
    from minisheep.open_engines import open_engine

    model = for_inference(settings, ignore, trainable=True)
    engine = open_engine(settings.model_copy(update={"slots": slots}), model.inference_gguf)
    seeds = load_seeds()
    try:

        def draw(number: int) -> float:
            requests = decode_requests(seeds, engine.info.slots, duration.NEW, number)
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
        reading = [timed(partial(read, number)).rate for number in range(TURNS)]
        return {"drawn": statistics.mean(drawn), "read": statistics.mean(reading), "slots": engine.info.slots}
    finally:
        engine.close()


def train(settings: Settings, folder: Path) -> dict[str, Any]:
    """Tokens a second of training, by the trainer that a run would use.

    Raises `errors.DownloadError` for weights that are not cached.
    """
    from minisheep.stages.train import train_job
    from minisheep.trainers.choose_trainer import choose_trainer, make_trainer

    model = for_inference(settings, ignore, trainable=True)
    entry = find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
    weights, _ = training_weights(entry, model.gguf, model.gguf_sha256, ignore, offline=True)
    trainer = choose_trainer(settings.trainer, settings.load_in, model.architecture).trainer
    # Whole batches, as in a round.
    batch = min(settings.batch_size, EXAMPLES // STEPS)
    short = settings.model_copy(update={"epochs": 1, "validation": 0.0, "batch_size": batch, "max_examples": EXAMPLES})
    job = train_job(
        short, model.template, 1, examples(load_seeds(), STEPS * batch),
        gguf=model.gguf, weights=weights, output=folder / "adapter", scratch=folder / "scratch",
    )  # fmt: skip
    job.scratch.mkdir(parents=True)
    # Unsloth writes compiled code into the current folder.
    os.chdir(folder)
    steps: list[tuple[float, float]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, TrainStep):
            steps.append((time.perf_counter(), event.tokens_per_second))

    make_trainer(trainer).train(job, on_event, lambda: False)
    return {"trained": after_first_step(steps).rate, "trainer": trainer}


def ignore(event: Event) -> None:
    """A plan shows no events of the model's preparation."""


def decode_requests(seeds: Sequence[SeedTask], count: int, tokens: int, turn: int) -> list[GenerateRequest]:
    """Short prompts for long texts; each turn has its own, so that no side can reuse a prompt's KV."""
    requests = []
    for number in range(count):
        seed = seeds[(turn * count + number) % len(seeds)]
        part = turn * count + number + 1
        text = f"Notes, part {part}. A long letter that begins with the words: {seed.instruction}\n"
        identity = derive_seed("bench", "decode", turn, number)
        requests.append(GenerateRequest(str(number), (Segment(text),), Sampling(max_tokens=tokens), seed=identity))
    return requests


def examples(seeds: Sequence[SeedTask], count: int) -> list[Example]:
    """Training examples of mixed length: one to seven seed tasks in one, see `TOGETHER`."""
    records = []
    position = 0
    for number in range(count):
        some = [seeds[(position + i) % len(seeds)] for i in range(TOGETHER[number % len(TOGETHER)])]
        position += len(some)
        if len(some) == 1:
            request, answer = user_text(some[0].instruction, some[0].input), some[0].output
        else:
            request = "\n".join(f"{i}. {user_text(s.instruction, s.input)}" for i, s in enumerate(some, 1))
            answer = "\n".join(f"{i}. {s.output}" for i, s in enumerate(some, 1))
        messages = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
        judged: dict[str, Any] = {"score": 1.0, "quality": None, "following": None, "cut": ""}
        records.append(Example(request, "", answer, messages, **judged, parents=("bench", "bench", str(number))))
    return records


def timed(work: Callable[[], float], clock: Clock = time.perf_counter) -> Turn:
    began = clock()
    amount = work()
    return Turn(amount, clock() - began)


def after_first_step(steps: list[tuple[float, float]]) -> Turn:
    """Tokens and seconds from the end of the first step to that of the last.

    `steps` has the time and the tokens a second of each; that rate times its duration gives its tokens.
    """
    seconds = [later[0] - earlier[0] for earlier, later in itertools.pairwise(steps)]
    tokens = sum(duration * step[1] for duration, step in zip(seconds, steps[1:], strict=True))
    return Turn(tokens, sum(seconds))
