"""The 7B probe: a model of Qwen1.5-7B's shape is trained and decoded in the memory of smaller GPUs.

Nothing is downloaded: its weights are random (`probe_files`). Another process takes the rest of the GPU's memory
(`hold`), so that 8, 12 and 24 GB are shown on a larger one; memory is then as on the smaller one, speed is that of
this GPU. Sizes are the plan's own for that memory, trainers and engine those of a run. A shape is an argument, and
nothing here needs a GPU: on a processor the same functions run without peaks.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import string
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpucheck import probe_files
from benchmarks.gpucheck.parts import Refused
from minisheep import config
from minisheep.config import Settings
from minisheep.doctor.check_result import CheckResult, fail, ok, skipped, warn
from minisheep.doctor.checks import NO_GPU
from minisheep.errors import MinisheepError
from minisheep.formats.gguf_header import read_header
from minisheep.machine.gpu import Gpu, find_gpu
from minisheep.machine.worker import WorkerProcess
from minisheep.models.registry import load_registry
from minisheep.models.shape import Shape
from minisheep.plan import fit, memory_parts
from minisheep.plan.calibration import after_first_step, decode_requests, measured, timed
from minisheep.plan.gpu_models import find_gpu_model
from minisheep.plan.room import Model
from minisheep.rehearsal import BEYOND
from minisheep.run.events import Emit, Event, TrainStep

WORKER = "benchmarks.gpucheck.probe:measure"
MODEL = "qwen1.5-7b"
MAKE, HOLD, TRAIN, WRITE = "7B: make", "7B: hold memory", "7B: train", "7B: write"
STEPS = 3
"""Optimizer steps, of which the first is not timed."""
NEW_TOKENS = 64
ROOM = 2 * 2**30
"""Bytes of disk beside the model."""
GRAIN = 64 * 2**20
"""How near the free memory comes to what is to be left."""
FEWER = 0.9
"""Part of the planned sequences below which a plan promises too much."""
CARDS = {"8 GB": "RTX 4060 8GB", "12 GB": "RTX 3060 12GB", "24 GB": "RTX 4090 24GB"}


@dataclass(frozen=True, slots=True)
class Probe:
    """One result: training or writing (`phase`) in the memory of a card."""

    phase: str
    memory: str
    """A key of `CARDS`."""
    trainer: str = ""
    """Empty: Unsloth where it can train, else PEFT."""

    @property
    def name(self) -> str:
        verb = "trains" if self.phase == TRAIN else "writes"
        return f"7B {verb} in {self.memory}" + (f" through {self.trainer}" if self.trainer else "")


PROBES = (
    *(Probe(phase, memory) for memory in ("12 GB", "8 GB", "24 GB") for phase in (TRAIN, WRITE)),
    Probe(TRAIN, "12 GB", "peft"),
)
"""In order of worth."""


def names() -> list[str]:
    return [probe.name for probe in PROBES]


def shape_7b() -> Shape:
    shape = load_registry()[MODEL].shape
    assert shape is not None  # the registry has it, held by a test
    return shape


def run(
    folder: Path,
    refusal: Refused | None,
    done: frozenset[str],
    on_progress: Callable[[str], None],
    shape: Shape | None = None,
) -> Iterator[CheckResult]:
    """Every probe that is not `done`, each as soon as it is known; `refusal` says why Unsloth cannot train here.
    `folder`, empty and absolute, holds the model (20 GB); `shape` is Qwen1.5-7B's unless given."""
    wanted = [probe for probe in PROBES if probe.name not in done]
    gpu, shape = find_gpu(), shape or shape_7b()
    if gpu is None:  # CUDA_VISIBLE_DEVICES hides all
        yield from (skipped(probe.name, NO_GPU) for probe in wanted)
        return
    usual = "peft" if refusal else "unsloth"
    training = any(probe.phase == TRAIN for probe in wanted)
    needed = probe_files.gguf_bytes(shape) + training * probe_files.weights_bytes(shape) + ROOM
    free = shutil.disk_usage(folder).free
    if free < needed:
        reason = f"its model takes {needed / 1e9:.0f} GB of disk, and {folder.parent} has {free / 1e9:.0f} GB free"
        fix = "Set TMPDIR to a folder with more room, and repeat with --resume."
        yield from (skipped(probe.name, reason, fix) for probe in wanted)
        return
    on_progress(f"making a model of {shape.parameters(probe_files.ARCHITECTURE) / 1e9:.1f}B random weights")
    job = {"folder": str(folder), "shape": dataclasses.asdict(shape), "weights": training}
    try:
        measured(WORKER, {"phase": MAKE, **job})
    except MinisheepError as error:
        yield from (fail(probe.name, f"its model was not made: {error.message}", error.fix) for probe in wanted)
        return
    for probe in wanted:
        on_progress(f"measuring: {probe.name}")
        yield one(probe, job, gpu, probe.trainer or usual)


def one(probe: Probe, job: dict[str, Any], gpu: Gpu, trainer: str) -> CheckResult:
    """One probe with the plan's sizes for its card."""
    card = find_gpu_model(CARDS[probe.memory])
    if gpu.total < FEWER * card.usable:
        return skipped(probe.name, f"{gpu.name} has {gpu.total / 2**30:.1f} GiB, less than such a card")
    plan = planned(Path(job["folder"]), card.title)
    if plan is None:
        return skipped(probe.name, f"no settings fit an {card.title}, by the plan")
    given = {**job, "settings": plan.settings.model_dump(), "trainer": trainer, "gpu": gpu.capability is not None}
    try:
        with WorkerProcess(WORKER) as holder:
            leave = plan.machine.memory
            left = holder.do({"phase": HOLD, "leave": leave}, "Taking memory away", seconds=120.0)["free"]
            facts, peak = measured(WORKER, {"phase": probe.phase, **given})
    except MinisheepError as error:
        return fail(probe.name, f"{card.title}: {error.message}", error.fix or "Hold the plan against what fits.")
    return judged(probe, plan, facts, peak, left)


def planned(folder: Path, card: str) -> fit.Plan | None:
    """The plan that ``minisheep plan --gpu CARD`` recommends for the model in `folder`."""
    from minisheep.formats.model_facts import shape_of

    header = read_header(folder / "model.gguf")
    weights = memory_parts.weights_in(header, "Q4_0")
    model = Model("7B", header.architecture, shape_of(header), weights, True, True, True, {})
    return fit.recommend(config.make({"model": MODEL}), model, fit.with_gpu(find_gpu_model(card)))


def judged(probe: Probe, plan: fit.Plan, facts: dict[str, Any], peak: int | None, left: int | None) -> CheckResult:
    """What was measured beside the plan. Pure."""
    if probe.phase == TRAIN:
        wanted, got = plan.settings.micro_batch_size, int(facts["micro_batch_size"])
        parts, rate = plan.training, facts["trained"]
        what = f"{facts['trainer']}, {got} x {plan.settings.max_length} tokens a pass"
    else:
        wanted, got, parts, rate = plan.slots, int(facts["slots"]), plan.inference, facts["written"]
        what = f"{got} sequences of {facts['context']} tokens, KV in {plan.cache}"
    promised = memory_parts.total(parts)
    short = got < (wanted if probe.phase == TRAIN else FEWER * wanted)
    beyond = peak is not None and peak > BEYOND * promised
    memory = "no peak told" if peak is None else f"{peak / 2**30:.2f} GiB at most"
    fits = "does not fit as planned" if short or beyond else "fits"
    text = f"{fits}: {what}" + (f" ({wanted} planned)" if got != wanted else "")
    text += f", {memory}, {promised / 2**30:.2f} planned, {rate:,.0f} tokens/s of this GPU"
    if left is not None and plan.machine.memory is not None and left < plan.machine.memory - 4 * GRAIN:
        text += f"; only {left / 2**30:.2f} GiB were free"
    figures = {**facts, "peak_bytes": peak, "planned_bytes": promised, "planned": wanted, "fits": not (short or beyond)}
    if short or beyond:
        return warn(probe.name, text, "Correct minisheep/plan/memory_parts.py by these figures.", **figures)
    return ok(probe.name, text, **figures)


# The worker's side

_HELD: list[Any] = []


def measure(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """One phase: `MAKE`, `HOLD`, `TRAIN` or `WRITE`."""
    if job["phase"] == HOLD:
        return {"free": hold(job["leave"])}
    folder = Path(job["folder"])
    if job["phase"] == MAKE:
        shape = Shape(**job["shape"])
        probe_files.write_gguf(folder / "model.gguf", shape)
        if job["weights"]:
            probe_files.write_weights(folder / "weights", shape)
        return {}
    # Unsloth writes compiled code into the current folder.
    os.chdir(folder)
    settings = config.make(job["settings"])
    return write(folder, settings) if job["phase"] == WRITE else train(folder, settings, job["trainer"], job["gpu"])


def hold(leave: int) -> int | None:
    """Take all memory of the GPU but about `leave` bytes until this process ends; returns what is free then, None
    without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return None
    while (more := torch.cuda.mem_get_info()[0] - leave) > GRAIN:
        _HELD.append(torch.empty(min(more - more % 2**21, 2**32), dtype=torch.uint8, device="cuda"))
    return int(torch.cuda.mem_get_info()[0])


def train(folder: Path, settings: Settings, trainer: str, gpu: bool) -> dict[str, Any]:
    """A few steps on examples of the greatest length: the tokens of the vocabulary are bytes, so a letter is one."""
    import numpy as np

    from minisheep.rules.templates import Segment
    from minisheep.stages.train import train_settings
    from minisheep.trainers.base import TrainExample, TrainJob
    from minisheep.trainers.choose_trainer import make_trainer

    batch, draw = settings.batch_size, np.random.default_rng(1)
    short = settings.model_copy(update={"epochs": 1, "validation": 0.0, "checkpoint_seconds": 1e9})

    def letters(count: int) -> tuple[Segment, ...]:
        return (Segment("".join(draw.choice(list(string.ascii_letters), count))),)

    long = settings.max_length
    examples = tuple(TrainExample(letters(long // 4), letters(long)) for _ in range(STEPS * batch))
    output, scratch = folder / "adapter", folder / "scratch"
    for old in (output, scratch):
        shutil.rmtree(old, ignore_errors=True)
    scratch.mkdir()
    job = TrainJob(
        1, examples, folder / "model.gguf", folder / "weights", output, scratch, train_settings(short, 1), needs_gpu=gpu
    )
    steps: list[tuple[float, float]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, TrainStep):
            steps.append((time.perf_counter(), event.tokens_per_second))

    result = make_trainer(trainer).train(job, on_event, lambda: False)
    return {
        "trainer": trainer, "trained": after_first_step(steps).rate, "load_in": result.load_in,
        "micro_batch_size": result.micro_batch_size, "loss": result.last_loss,
    }  # fmt: skip


def write(folder: Path, settings: Settings) -> dict[str, Any]:
    """Tokens a second with every sequence in use and an adapter on top; the engine counts the sequences itself."""
    from minisheep.data.seed_tasks import load_seeds
    from minisheep.formats.lora_gguf import blank_adapter
    from minisheep.open_engines import open_engine

    seeds, adapter = load_seeds(), folder / "blank.gguf"
    blank_adapter(folder / "model.gguf", adapter, settings.lora_rank)
    engine = open_engine(settings, folder / "model.gguf")
    try:
        engine.set_adapter(adapter)

        def turn(number: int) -> float:
            requests = decode_requests(seeds, engine.info.slots, NEW_TOKENS, number)
            return float(sum(completion.tokens for completion in engine.generate(requests)))

        turn(1)  # kernels are loaded, graphs captured
        rate = timed(partial(turn, 0)).rate
        return {"written": rate, "slots": engine.info.slots, "context": engine.info.context}
    finally:
        engine.close()
