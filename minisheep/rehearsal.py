"""Before a run's first phase, on a GPU: a full batch is decoded and one training step done, as the run will do them.

What is wrong with a card shows when its memory is full and its kernels are compiled, hours into a run. So the worker's
side (`do`) loads the GGUF with the run's own slots, context and an adapter, and, in another process, the base through
the run's own trainer at the longest example. The parent (`host`) runs both parts, goes on with fewer slots or another
trainer where one fails as they may, measures the peaks, and keeps the result beside the run (`conclude`). Nothing here
needs a GPU: on a processor the same parts run, without peaks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minisheep.config import Settings
from minisheep.engines import budget
from minisheep.engines.base import GenerateRequest, Sampling, StreamingEngine
from minisheep.errors import CorruptRunError, TrainerFailedError
from minisheep.formats.gguf_header import read_header
from minisheep.formats.lora_gguf import blank_adapter
from minisheep.formats.model_facts import shape_of
from minisheep.machine import system
from minisheep.machine.gpu import BFLOAT16, Gpu, find_gpu
from minisheep.plan import memory_parts
from minisheep.rules.templates import Prompt, Segment
from minisheep.run.events import Emit, Event, Note
from minisheep.run.files import read_json, write_json
from minisheep.run.folder import RunFolder
from minisheep.stages.train import train_settings
from minisheep.trainers.base import TrainExample, TrainJob, settle
from minisheep.trainers.choose_trainer import make_trainer, needs_gpu

if TYPE_CHECKING:
    from minisheep.workspace import Workspace

WRITING, TRAINING = "rehearse writing", "rehearse training"
"""The parts, as phases of a worker's job."""
FILE = "rehearsal.json"
BATCH_TOKENS = 2048
"""Prompt tokens of the batch that is decoded: what llama.cpp computes at once at most."""
NEW_TOKENS = 8
FEW_SLOTS = 16
BEYOND = 1.1
"""A peak above the plan's by this factor is worth a warning: the plan's next word would be wrong, too."""
DECIDING = (
    *("model", "gguf", "weights", "slots", "context", "kv_type", "gpu_layers", "trainer", "load_in", "lora_rank"),
    *("max_length", "micro_batch_size", "loss"),
)
"""The settings on which memory and kernels depend."""
PACKAGES = ("llama-cpp-python", "torch", "transformers", "peft", "bitsandbytes", "unsloth", "unsloth_zoo", "triton")


@dataclass(frozen=True, slots=True)
class PartResult:
    facts: Mapping[str, Any]
    """What `do` returned."""
    peak: int | None
    """Peak growth of the GPU's memory, in bytes; None where no driver tells."""


def key(settings: Settings, gpu: Gpu | None) -> dict[str, Any]:
    """What a rehearsal holds for: another card, version or setting needs another."""
    card = None if gpu is None else {"name": gpu.name, "bytes": gpu.total}
    return {
        "gpu": card,
        "versions": system.versions(PACKAGES),
        "settings": {name: getattr(settings, name) for name in DECIDING},
    }


def is_due(folder: RunFolder, settings: Settings, gpu: Gpu | None) -> bool:
    """Whether a run must be rehearsed before it begins or goes on."""
    if gpu is None or not settings.rehearsal or settings.engine != "llamacpp":
        return False
    return _stored(folder).get("key") != key(settings, gpu)


def slot_share(folder: RunFolder) -> float:
    """The share of the slots with which a rehearsed run works."""
    share = _stored(folder).get("slot_share", 1.0)
    return float(share) if isinstance(share, (int, float)) and 0 < share <= 1 else 1.0


def conclude(
    folder: RunFolder, settings: Settings, gpu: Gpu | None, writing: PartResult, training: PartResult, share: float
) -> Note:
    """Keep the result in the run folder; returns what is to be said of it."""
    parts = {name: {**part.facts, "peak_bytes": part.peak} for name, part in
             (("writing", writing), ("training", training))}  # fmt: skip
    write_json(folder.path / FILE, {"key": key(settings, gpu), "slot_share": share, **parts})
    return verdict(writing, training, kv_type=settings.kv_type)


def verdict(writing: PartResult, training: PartResult, *, kv_type: str = "") -> Note:
    """The peaks beside the plan's figures, in one line. Pure."""
    texts, beyond = [], False
    for what, part in (
        (f"writing with {writing.facts['slots']} slots of {writing.facts['context']} tokens", writing),
        (f"a training step through {training.facts['trainer']} at {training.facts['tokens']} tokens", training),
    ):
        planned = int(part.facts["planned_bytes"])
        if part.peak is None:
            texts.append(f"{what} works")
            continue
        beyond = beyond or part.peak > BEYOND * planned
        texts.append(f"{what} took {part.peak / 2**30:.1f} GiB, {planned / 2**30:.1f} were planned")
    end = ". More than was planned: close other programs, or lower --slots or --micro-batch-size" if beyond else ""
    if kv_type == "auto" and writing.facts["slots"] < FEW_SLOTS:
        end += ". --kv-type q8_0 has room for about twice the slots: `minisheep plan` says what that saves"
    return Note(f"Rehearsed: {'; '.join(texts)}{end}.", "warning" if beyond else "info")


def _stored(folder: RunFolder) -> dict[str, Any]:
    """The last rehearsal's result; empty where there is none that can be read, so that there is another."""
    try:
        found = read_json(folder.path / FILE) if (folder.path / FILE).exists() else {}
    except CorruptRunError:
        return {}
    return found if isinstance(found, dict) else {}


# The worker's side


def do(work: Workspace, part: str, emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """Do one part; returns its facts, JSON-ready. Raises what a phase raises, too."""
    return _write(work, emit) if part == WRITING else _train(work, emit, should_stop)


def _write(work: Workspace, emit: Emit) -> dict[str, Any]:
    """Decode a batch with every slot in use and an adapter on top, as a later round does."""
    emit(Note("A full batch is tried on the GPU before the run begins; --no-rehearsal leaves that out."))
    from minisheep.open_engines import open_engine

    adapter = work.folder.scratch / "rehearsal-adapter.gguf"
    blank_adapter(work.model.gguf, adapter, work.settings.lora_rank)
    engine = open_engine(work.settings, work.model.inference_gguf, work.slot_share)
    try:
        engine.set_adapter(adapter)
        every, sampling = engine.info.slots, Sampling(max_tokens=NEW_TOKENS)
        requests = [GenerateRequest(str(i), _filler(engine, i, every), sampling, seed=i) for i in range(every)]
        tokens = sum(completion.tokens for completion in engine.generate(requests))
        info = engine.info  # with fewer slots than before, where memory ran out
    finally:
        engine.close()
        adapter.unlink(missing_ok=True)
    header = read_header(work.model.gguf)
    cache = budget.cache_type(work.settings.kv_type, offload=True, bfloat16=True)
    how = memory_parts.Inference(info.slots, info.context, cache, rank=work.settings.lora_rank)
    parts = memory_parts.inference_parts(shape_of(header), memory_parts.weights_in(header, ""), how, gpu=True)
    planned = memory_parts.total(parts)
    return {"slots": info.slots, "context": info.context, "tokens": tokens, "planned_bytes": planned}


def _filler(engine: StreamingEngine, number: int, slots: int) -> Prompt:
    """A prompt that fills its share of a batch, or of its slot if that is less; each begins otherwise."""
    words = max(16, BATCH_TOKENS // slots)
    while True:
        prompt: Prompt = (Segment(f"{number}. " + "A sheep counts other sheep. " * (words // 6 + 1)),)
        if words == 1 or engine.count(prompt) <= engine.info.context - NEW_TOKENS - 1:
            return prompt
        words = max(1, words // 2)


def _train(work: Workspace, emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """One optimizer step on a micro-batch of examples of the greatest length."""
    settings = work.settings
    micro = min(settings.micro_batch_size, settings.batch_size)
    short = settings.model_copy(
        update={"epochs": 1, "validation": 0.0, "batch_size": micro, "micro_batch_size": micro, "max_examples": micro}
    )
    name = work.model.trainer or settings.trainer
    emit(Note(f"One training step is tried at {settings.max_length} tokens, through {name.capitalize()}."))
    # Beside the later trainings' folders, so that code that is compiled now is found then.
    scratch, output = work.folder.scratch / "rehearsal", work.folder.scratch / "rehearsal-adapter"
    for old in (scratch, output):
        shutil.rmtree(old, ignore_errors=True)
    scratch.mkdir(parents=True)
    long = "A sheep counts other sheep. " * settings.max_length
    answer = work.template.completion(long)
    worse = None if settings.loss == "sft" else answer
    examples = tuple(TrainExample(work.template.prompt(f"Number {i}."), answer, worse) for i in range(micro))
    model = work.model
    job = TrainJob(
        1, examples, model.gguf, model.weights, output, scratch, train_settings(short, 1, settings.loss),
        needs_gpu=needs_gpu(settings.trainer),
    )  # fmt: skip

    def only_warnings(event: Event) -> None:
        if isinstance(event, Note) and event.level == "warning":
            emit(event)

    try:
        result = make_trainer(name).train(job, only_warnings, should_stop)
    except TrainerFailedError as error:
        raise work.give_up_trainer(error) from error
    finally:
        for made in (scratch, output):
            shutil.rmtree(made, ignore_errors=True)
    gpu = find_gpu()
    fast = gpu is None or gpu.capability is None or gpu.capability >= BFLOAT16
    _, float32 = settle(settings.load_in, cuda=True, fast_bf16=fast, architecture=model.architecture)
    # A pair goes through the model as two examples, and is never divided.
    passes = max(result.micro_batch_size or micro, 1 if worse is None else 2)
    how = memory_parts.TrainingMemory(result.load_in, True, float32, settings.lora_rank, passes, settings.max_length)
    planned = memory_parts.total(
        memory_parts.training_parts(shape_of(read_header(model.gguf)), model.architecture, how)
    )
    return {
        "trainer": name, "load_in": result.load_in, "micro_batch_size": result.micro_batch_size,
        "tokens": settings.max_length, "loss": result.last_loss, "planned_bytes": planned,
    }  # fmt: skip
