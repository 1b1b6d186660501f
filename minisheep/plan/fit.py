"""A plan for given settings on a machine, and the search for settings with which a run fits.

The search starts with the given settings and changes only those that leave the method alone: the number format of the
KV cache, a context that still holds the longest prompt and answer, and the examples of a forward pass in training.
Pure but for `this_processor`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from minisheep import phase_times
from minisheep.config import Settings
from minisheep.engines import budget
from minisheep.machine import cpu, system
from minisheep.machine.gpu import BFLOAT16, Gpu
from minisheep.models.shape import Shape
from minisheep.plan import duration, memory_parts
from minisheep.plan.gpu_models import GpuModel, find_gpu_model, gpu_model_of
from minisheep.plan.memory_parts import Inference, Part, TrainingMemory, Weights
from minisheep.plan.room import Model
from minisheep.trainers.base import settle

DESKTOP = 350 * 2**20
"""A desktop's and the driver's share of a GPU."""


@dataclass(frozen=True, slots=True)
class PlannedMachine:
    """A GPU or a processor. `memory` is the limit of each phase in bytes; None where it is unknown."""

    title: str
    memory: int | None
    gpu: GpuModel | None
    bfloat16: bool
    """Whether the hardware multiplies bfloat16."""
    threads: int = 0
    amx: bool = False
    """Whether llama.cpp will use the processor's AMX."""

    @property
    def is_gpu(self) -> bool:
        return self.gpu is not None


def with_gpu(gpu: GpuModel) -> PlannedMachine:
    return PlannedMachine(gpu.title, gpu.usable - DESKTOP, gpu, gpu.bfloat16)


def this_processor(threads: int) -> PlannedMachine:
    """This machine without a GPU and with its free RAM; `threads` 0 means all usable cores."""
    text = cpu.cpuinfo()
    threads = threads or cpu.cores()
    title = f"{cpu.name(text) or 'this processor'}, {threads} threads"
    bfloat16 = cpu.multiplies_bfloat16(cpu.flags(text))
    return PlannedMachine(title, system.free_ram(), None, bfloat16, threads, cpu.will_be_usable())


def machine_for(name: str | None, threads: int, here: Gpu | None) -> tuple[PlannedMachine, str]:
    """The machine to plan for, and a note about the choice.

    `name` is the GPU that the user named, `here` the one that a run would use. Raises `errors.UsageError` for an
    unknown GPU.
    """
    if name is not None:
        return with_gpu(find_gpu_model(name)), ""
    if here is None:
        return this_processor(threads), ""
    if here.capability is None:
        return this_processor(threads), f"{here.name} has no CUDA, so a run uses the processor."
    model, like = gpu_model_of(here.name, here.total, bfloat16=here.capability >= BFLOAT16)
    if not like:
        return with_gpu(model), f"{here.name} is here; it was not measured."
    return with_gpu(model), (
        f"{here.name} is here, but not in the table of GPUs: memory is its own, times are those of an {like}."
        " --gpu names another."
    )


TOKEN_BYTES = 4.5
"""Of English text."""
INSTRUCTION_BYTES = 600
"""Records of one instruction: its draft, itself, and its share of the dropped ones."""
ANSWER_BYTES = 300
"""Records of one answer beside its text: ids and verdict."""
KEPT_BYTES = 500
"""Record of one kept example beside the answer's text."""
MEASURED_BYTES = 20_000
"""Metrics and exams of a round."""
MEASURED_ANSWER_BYTES = 500


def model_parts(file: int, parameters: int, *, weights: bool, copy: float) -> list[Part]:
    """The files of a model: its GGUF, its training weights in bfloat16 unless the user has them, and the copy for
    inference of `copy` bytes a weight, 0 where the file itself is used."""
    parts = [Part("GGUF", file)]
    if weights:
        parts.append(Part("training weights", 2 * parameters))
    if copy:
        parts.append(Part("copy for inference", int(copy * parameters)))
    return parts


def round_bytes(settings: Settings, shape: Shape) -> int:
    """What one round adds on disk: the adapter twice (safetensors and GGUF, float32) and its records."""
    answers = sum(settings.answers_drawn)
    text = TOKEN_BYTES * min(phase_times.ANSWER, phase_times.CUT * settings.answer_max_tokens)
    records = settings.per_round * INSTRUCTION_BYTES + answers * (ANSWER_BYTES + text)
    records += phase_times.kept_examples(settings) * (KEPT_BYTES + text)
    measured = MEASURED_BYTES + MEASURED_ANSWER_BYTES * (settings.eval_answers + settings.eval_verifiable)
    return adapter_bytes(settings, shape) + int(records) + measured


def adapter_bytes(settings: Settings, shape: Shape) -> int:
    return 2 * 4 * shape.lora_weights(settings.lora_rank)


def checkpoint_bytes(settings: Settings, shape: Shape) -> int:
    """While training: weights, best weights and two moments in float32, a new one beside the old."""
    return 2 * 16 * shape.lora_weights(settings.lora_rank)


PROMPT_ROOM, ICL_ROOM, SHOWN_ROOM = 640, 384, 192
"""Tokens that the longest prompt may take beside an answer: an instruction and input of 150 words each, and the judge's
words; more where the judge is shown examples, and for each solved task that a base model is shown before it answers."""
FASTER = 1.1
"""Other settings are recommended only if a round is faster by this factor."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run with `settings` takes on a machine. Sizes are bytes, times are seconds."""

    settings: Settings
    model: Model
    machine: PlannedMachine
    slots: int
    cache: str
    inference: list[Part]
    training: list[Part]
    load_in: str
    files: list[Part]
    round_bytes: int
    checkpoint_bytes: int
    ram: int
    """Peak RAM; with a GPU, that of its workers."""
    phases: list[tuple[str, float]] | None
    """Phases of one round; None where the machine's speed is unknown."""
    base_seconds: float = 0.0
    """Measuring the base model, once."""
    history: tuple[str, ...] = ()
    """Phases whose time follows from what they took on this machine before."""

    @property
    def calibration(self) -> duration.Calibration | None:
        """The measurement on this machine that corrects the times."""
        return self.model.calibration_on(self.machine.title)

    @property
    def fits_inference(self) -> bool:
        return self.machine.memory is None or memory_parts.total(self.inference) <= self.machine.memory

    @property
    def fits_training(self) -> bool:
        return self.machine.memory is None or memory_parts.total(self.training) <= self.machine.memory

    @property
    def fits(self) -> bool:
        return self.fits_inference and self.fits_training

    @property
    def disk(self) -> int:
        return memory_parts.total(self.files) + self.settings.rounds * self.round_bytes + self.checkpoint_bytes

    @property
    def round_seconds(self) -> float | None:
        return None if self.phases is None else sum(seconds for _, seconds in self.phases)

    @property
    def drawing_share(self) -> float:
        """The part of the writing time in which the GPU waits for its next tokens to be drawn; 0 without one."""
        if self.machine.gpu is None:
            return 0.0
        cache = budget.cache_type(self.settings.kv_type, offload=True, bfloat16=self.machine.bfloat16)
        token_bytes = memory_parts.token_bytes(self.model.shape, cache)
        speed = duration.GpuSpeed(self.machine.gpu, self.model.shape, self.model.weights, token_bytes, self.slots)
        return speed.drawing_share(self.settings.context / 2)

    @property
    def run_seconds(self) -> float | None:
        """Duration of the whole run, if it does not end early."""
        if self.phases is None or (seconds := self.round_seconds) is None:
            return None
        rounds = range(1, self.settings.rounds + 1)
        longer = sum(phase_times.pooled(self.settings, number) - 1 for number in rounds) * dict(self.phases)["train"]
        return self.base_seconds + self.settings.rounds * seconds + longer


def make_plan(
    settings: Settings, model: Model, machine: PlannedMachine, works: list[phase_times.PhaseTokens] | None = None
) -> Plan:
    """The plan for exactly these settings, fitting or not. `works` saves computing their work again."""
    cache = budget.cache_type(settings.kv_type, offload=machine.is_gpu, bfloat16=machine.bfloat16)
    embeds = "density" in settings.filter
    copy = _copy(model, machine)
    mapped = replace(model.weights, tensors=int(copy * model.parameters)) if copy else model.weights
    slots = _slots(settings, model.shape, mapped, machine, cache)
    inference = memory_parts.inference_parts(
        model.shape, mapped, Inference(slots, settings.context, cache, embeds, settings.lora_rank), gpu=machine.is_gpu
    )
    load_in, float32 = settle(
        settings.load_in, cuda=machine.is_gpu, fast_bf16=machine.bfloat16, architecture=model.architecture
    )
    # A pair goes through the model as two examples, and is never divided.
    micro = settings.micro_batch_size if settings.loss == "sft" else max(2, settings.micro_batch_size)
    how = TrainingMemory(load_in, machine.is_gpu, float32, settings.lora_rank, micro, settings.max_length)
    training = memory_parts.training_parts(model.shape, model.architecture, how)
    speed = _speed(model, machine, memory_parts.token_bytes(model.shape, cache), slots)
    works = phase_times.round_work(settings) if works is None else works
    return Plan(
        settings, model, machine, slots, cache.name, inference, training, load_in,
        files=model_parts(model.weights.file, model.parameters, weights=not model.own_weights, copy=copy),
        round_bytes=round_bytes(settings, model.shape),
        checkpoint_bytes=checkpoint_bytes(settings, model.shape),
        ram=_ram(model, machine, slots, inference, training),
        phases=None if speed is None else duration.round_seconds(works, speed),
        base_seconds=0.0 if speed is None else speed.seconds(phase_times.evaluation(settings)) + speed.load_seconds(),
    )  # fmt: skip


def with_history(plan: Plan) -> Plan:
    """A plan for this machine with the times that phases of its model took here before, carried over to its settings.

    The plan as it is where a phase is neither estimated nor was done here before."""
    known = phase_times.known_times(plan.settings, plan.model.history)
    estimated = dict(plan.phases or ())
    phases = []
    for work in phase_times.round_work(plan.settings):
        if work.phase not in known and work.phase not in estimated:
            return plan
        found = known.get(work.phase)
        phases.append((work.phase, estimated[work.phase] if found is None else found.work + found.loading))
    base = dict(phases)["evaluate"] if "evaluate" in known else plan.base_seconds
    return replace(plan, phases=phases, base_seconds=base, history=tuple(name for name, _ in phases if name in known))


def recommend(settings: Settings, model: Model, machine: PlannedMachine) -> Plan | None:
    """The recommended plan: the given settings if they fit and no others are much faster, else the fastest (or first)
    that fit; None where none fit."""
    works = phase_times.round_work(settings)
    plans = (make_plan(changed, model, machine, works) for changed in _candidates(settings))
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        return None
    best = min(fitting, key=lambda plan: plan.round_seconds or 0.0)
    first = fitting[0]
    if first.round_seconds is not None and best.round_seconds is not None:
        return best if first.round_seconds > FASTER * best.round_seconds else first
    return first


def changes(given: Settings, recommended: Settings) -> dict[str, Any]:
    """The settings in which `recommended` differs from what was given."""
    new = recommended.model_dump()
    return {name: new[name] for name, value in given.model_dump().items() if new[name] != value}


def least_context(settings: Settings) -> int:
    """The context that holds the longest prompt with the longest answer."""
    longest = max(settings.generate_max_tokens, settings.answer_max_tokens)
    room = PROMPT_ROOM + (ICL_ROOM if settings.judge_prompt == "icl" else 0) + SHOWN_ROOM * settings.answer_shots
    return -(-(longest + room) // budget.PAD) * budget.PAD


def _candidates(settings: Settings) -> Iterator[Settings]:
    """Settings to try, the given ones first. A format of the KV cache that the user chose is kept."""
    caches = [settings.kv_type] + (["q8_0"] if settings.kv_type == "auto" else [])
    contexts = sorted({settings.context, min(settings.context, least_context(settings))}, reverse=True)
    micro = [settings.micro_batch_size]
    while micro[-1] > 1:
        micro.append(micro[-1] // 2)
    for size in micro:
        for context in contexts:
            for cache in caches:
                yield settings.model_copy(update={"kv_type": cache, "context": context, "micro_batch_size": size})


def _slots(settings: Settings, shape: Shape, weights: Weights, machine: PlannedMachine, cache: budget.CacheType) -> int:
    """As the engine decides: by the memory that is free beside the weights."""
    if settings.slots:
        return settings.slots
    slots = budget.wanted_slots(offload=machine.is_gpu, threads=machine.threads, amx=machine.amx)
    free = machine.memory
    if free is not None:
        free -= memory_parts.CUDA_CONTEXT + weights.on_gpu if machine.is_gpu else weights.tensors
    sequence = memory_parts.sequence_bytes(shape, settings.context, cache)
    return budget.fitting_slots(
        slots, shape, settings.context, cache,
        sequence_bytes=sequence, free_bytes=free, offload=machine.is_gpu, rank=settings.lora_rank,
    )  # fmt: skip


def _speed(model: Model, machine: PlannedMachine, token_bytes: int, slots: int) -> duration.Speed | None:
    calibration = model.calibration_on(machine.title)
    # Without other rates of a processor, the calibration is the estimate.
    rate = max(model.rates.values(), default=calibration.drawn if calibration else 0.0)
    if machine.gpu is None and not rate:
        return None

    def estimate(slots: int) -> duration.Speed:
        if machine.gpu is not None:
            return duration.GpuSpeed(machine.gpu, model.shape, model.weights, token_bytes, slots)
        return duration.ProcessorSpeed(model.shape, model.weights, rate)

    return duration.calibrated(calibration, estimate, slots) if calibration is not None else estimate(slots)


def _copy(model: Model, machine: PlannedMachine) -> float:
    """Bytes a weight of the inference copy, made where a CPU has no fast kernel for much of the file; 0 without one."""
    if machine.is_gpu or model.fast_on_cpu:
        return 0.0
    best = max(model.rates, key=lambda name: model.rates[name], default="q8_0")
    return 2.0 if best == "bf16" else 34 / 32


def _ram(model: Model, machine: PlannedMachine, slots: int, inference: list[Part], training: list[Part]) -> int:
    if not machine.is_gpu:
        return max(memory_parts.total(inference), memory_parts.total(training))
    asking = memory_parts.INFERENCE_LIBRARIES + model.weights.embedding + memory_parts.host_bytes(model.shape, slots)
    # During loading, one matrix of the training weights at a time is in RAM.
    return max(asking, memory_parts.CUDA_LIBRARIES + 2 * model.shape.head_weights)
