"""What a trainer is (one job in, events out, a PEFT folder as the result), and the decisions that need no tensors.

These say which examples are learned from, in which order, how fast and in which number format. Every choice comes from
a seed and an identity through `rules.identity.derive_seed`, never from a stream of random numbers: a killed run
continues with the same batches without a saved generator state. No torch here, so that a plan can use it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from minisheep.errors import ConfigError, CorruptRunError, ModelFileError
from minisheep.formats.lora_gguf import read_config
from minisheep.rules.identity import derive_seed
from minisheep.rules.templates import Prompt
from minisheep.run.events import Emit

START_FIX = "Move it away and train that round again, or start a new run with --strategy one-base."
"""For an adapter that a training cannot begin with."""


@dataclass(frozen=True, slots=True)
class TrainExample:
    """One pair as segments. The loss counts on `completion` only, which ends with the template's end token."""

    prompt: Prompt
    completion: Prompt
    rejected: Prompt | None = None
    """A worse completion of the same prompt, for a preference loss. An answer that was cut off has no end token."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Hyperparameters; the defaults are the paper's (appendix E)."""

    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    rslora: bool = False
    learning_rate: float = 5e-5
    warmup_steps: int = 20
    epochs: int = 2
    batch_size: int = 16
    """Examples an optimizer step; gradients of smaller micro-batches are accumulated."""
    micro_batch_size: int = 4
    max_length: int = 1024
    """Tokens of a pair; a longer completion is cut, a pair whose prompt alone is longer is left out."""
    validation: float = 0.1
    """Share of the examples that is held back to choose the best checkpoint."""
    load_in: str = "auto"
    """``4bit`` (NF4), ``bf16``, ``fp32``; auto: 4bit on CUDA, else bf16 where the processor has it, else fp32."""
    checkpoint_seconds: float = 60.0
    """At most this much work is lost when training is killed."""
    seed: int = 1
    loss: str = "sft"
    """``sft``, ``orpo`` or ``dpo``, as `trainers.preference` has them."""
    beta: float = 0.1
    """The weight of the odds ratio in ``orpo``; in ``dpo``, how little the model may leave its base."""


def settings_of(settings: TrainSettings) -> dict[str, Any]:
    """The settings as a training's identity has them: without those of a preference loss where there is none."""
    found = dataclasses.asdict(settings)
    if settings.loss == "sft":
        del found["loss"], found["beta"]
    return found


@dataclass(frozen=True, slots=True)
class TrainJob:
    round: int
    examples: tuple[TrainExample, ...]
    gguf: Path
    """The base GGUF: its vocabulary tokenises, so that training and inference see the same ids."""
    weights: Path
    """Folder with the base model's config.json and safetensors."""
    output: Path
    """Where the PEFT folder goes; it appears whole or not at all."""
    scratch: Path
    """Checkpoints live here; a killed job continues from the newest whole one."""
    settings: TrainSettings = field(default_factory=TrainSettings)
    start: Path | None = None
    """PEFT folder whose weights the adapter begins with (the paper's one_last); None: a fresh adapter on the base."""
    needs_gpu: bool = False
    """Whether to refuse rather than to train on the processor: a GPU is here, and nobody chose otherwise."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    steps: int
    examples: int
    validation_examples: int
    tokens: int
    """Tokens that went through the model in training, all epochs, prompt included."""
    seconds: float
    first_loss: float
    last_loss: float
    best_validation_loss: float | None
    best_step: int
    load_in: str
    """The format that was used."""
    truncated: int
    left_out: int
    micro_batch_size: int = 0
    """Examples of a forward pass at the end: fewer than set where the memory did not suffice. 0: not known."""
    pairs: int = 0
    """Training examples with a rejected answer."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; without `pairs` where there are none, as in a training by likelihood alone."""
        found = dataclasses.asdict(self)
        return found if self.pairs else {name: value for name, value in found.items() if name != "pairs"}


class Trainer(Protocol):
    """Trains a LoRA adapter of the base, from scratch or from `TrainJob.start`.

    Raises `errors.Stopped`, after saving a checkpoint, when `should_stop` says so.
    """

    def train(self, job: TrainJob, emit: Emit, should_stop: Callable[[], bool]) -> TrainResult: ...


def another_training(output: Path) -> CorruptRunError:
    """The error for an output folder that holds the adapter of another training."""
    return CorruptRunError(
        f"{output} exists, but was not made from these examples and settings.", "Move it away, or start a new run."
    )


def read_scale(folder: Path, settings: TrainSettings) -> dict[str, Any]:
    """The folder's PEFT configuration, where its rank and scale are those of `settings`.

    With another scale the same tensors are another adapter. Raises `errors.ModelFileError`.
    """
    config = read_config(folder)
    stored = _scale(config["r"], float(config["lora_alpha"]), bool(config.get("use_rslora")))
    expected = _scale(settings.lora_rank, settings.lora_alpha, settings.rslora)
    if stored != expected:
        raise ModelFileError(f"The adapter in {folder} has {stored}, but this training has {expected}.", START_FIX)
    return config


def _scale(rank: int, alpha: float, stabilised: bool) -> str:
    return f"rank {rank} and {'rank-stabilised ' if stabilised else ''}alpha {alpha:g}"


SHORT_RUN = 200
"""Optimizer steps; below it, a warm-up of more than a tenth of the run is shortened."""

Indices = tuple[int, ...]
"""Which examples form a batch."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A training pair as token ids: `ids` is prompt and completion, `prompt` the length of the prompt."""

    ids: tuple[int, ...]
    prompt: int
    worse: tuple[int, ...] = ()
    """The prompt and its rejected completion; empty where there is none."""

    @property
    def rejected(self) -> TokenPair | None:
        """The rejected completion as a pair of its own."""
        return TokenPair(self.worse, self.prompt) if self.worse else None

    @property
    def length(self) -> int:
        """Tokens that go through the model."""
        return len(self.ids) + len(self.worse)

    @property
    def first(self) -> int:
        """Position of the first token with a loss. A sequence's very first token is never predicted."""
        return max(self.prompt, 1)

    @property
    def supervised(self) -> int:
        return len(self.ids) - self.first


@dataclass(frozen=True, slots=True)
class Tokenised:
    pairs: tuple[TokenPair, ...]
    truncated: int
    """Pairs with a completion that was cut."""
    left_out: int
    """Pairs with nothing to learn from: no completion, or a prompt that fills `max_length` alone."""


def join_pairs(
    tokens: Sequence[tuple[Sequence[int], Sequence[int]] | tuple[Sequence[int], Sequence[int], Sequence[int]]],
    max_length: int,
) -> Tokenised:
    """Join (prompt, completion) or (prompt, completion, rejected completion) token ids, each at most `max_length` long
    (paper, appendix E: 1024). A rejected completion without a token is left away."""
    pairs, truncated, left_out = [], 0, 0
    for prompt, completion, *rejected in tokens:
        worse = (*prompt, *rejected[0])[:max_length] if rejected and rejected[0] else ()
        pair = TokenPair((*prompt, *completion)[:max_length], min(len(prompt), max_length), worse)
        if pair.supervised < 1:
            left_out += 1
            continue
        truncated += len(prompt) + max(len(completion), *map(len, rejected), 0) > max_length
        pairs.append(pair)
    return Tokenised(tuple(pairs), truncated, left_out)


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices for (training, validation), both in order.

    Below ten examples, or with a share of 0, none is held back; otherwise at least one is, and never all.
    """
    if count < 10 or share <= 0:
        return list(range(count)), []
    held = min(max(1, round(count * share)), count - 1)
    shuffled = sorted(range(count), key=lambda index: derive_seed(seed, "validation", index))
    chosen = set(shuffled[:held])
    return [i for i in range(count) if i not in chosen], sorted(chosen)


def plan_epoch(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """One epoch's batches, each the indices into `lengths` of the examples of one optimizer step.

    Every example occurs once. Which examples share a step is random by seed and epoch; within a step they are sorted by
    length, so that micro-batches cut from it (`cut`) need little padding. The gradient does not depend on that order.
    """
    order = sorted(range(len(lengths)), key=lambda index: derive_seed(seed, "epoch", epoch, index))
    batches = cut(order, batch_size)
    return [tuple(sorted(batch, key=lambda index: (lengths[index], index))) for batch in batches]


def cut(indices: Sequence[int], size: int) -> list[Indices]:
    """`indices` in parts of at most `size`, in order."""
    return [tuple(indices[start : start + size]) for start in range(0, len(indices), size)]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    return math.ceil(examples / batch_size)


def usable_warmup(warmup: int, total: int) -> int:
    """The warm-up in steps. The paper's 20 would be most of a small run, so in a run of fewer than `SHORT_RUN` steps it
    is at most a tenth."""
    return min(warmup, total // 10) if total < SHORT_RUN else warmup


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """The rate of step `step` (from 0) of `total`: linear warm-up, then half a cosine down towards 0.

    The first step already moves (1 / warm-up of the peak), unlike schedules that begin at exactly 0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


NOT_IN_FLOAT16 = frozenset({"gemma3"})
"""GGUF architectures whose activations leave float16's range, whatever the loss is scaled by."""


def settle(load_in: str, *, cuda: bool, fast_bf16: bool, architecture: str = "") -> tuple[str, bool]:
    """The base's number format for a setting (``4bit``, ``bf16``, ``fp32``), and whether training computes in float32.

    Where bfloat16 is not fast, a GPU computes in float16 in its place (`trainers.loss_scale`), which ``bf16`` then
    means, unless the `architecture` cannot; a processor computes in float32, and holds a base that is not 4-bit in it.

    Raises `errors.ConfigError` for an unknown value.
    """
    if load_in not in ("auto", "4bit", "bf16", "fp32"):
        raise ConfigError(f"load_in cannot be {load_in!r}.", "Use auto, 4bit, bf16 or fp32.")
    if load_in == "auto":
        load_in = "4bit" if cuda else "bf16" if fast_bf16 else "fp32"
    sixteen = fast_bf16 or (cuda and architecture not in NOT_IN_FLOAT16)
    if load_in == "bf16" and not sixteen:
        load_in = "fp32"
    return load_in, load_in == "fp32" or not sixteen
