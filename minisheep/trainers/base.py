"""What a trainer is: one job in, events out, a PEFT folder and its loss curve as the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from minisheep.errors import CorruptRunError
from minisheep.events import Emit
from minisheep.rules.templates import Prompt


@dataclass(frozen=True, slots=True)
class TrainExample:
    """One pair as segments. The loss counts on `completion` only, which ends with the template's end token."""

    prompt: Prompt
    completion: Prompt


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
    """Share of the examples that is held back to choose the best checkpoint by."""
    load_in: str = "auto"
    """``4bit`` (NF4), ``bf16``, ``fp32``; auto: 4bit on CUDA, else bf16 where the processor has it, else fp32."""
    checkpoint_seconds: float = 60.0
    """At most this much work is lost when training is killed."""
    seed: int = 1


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
    """Checkpoints live here; a killed job goes on from the newest whole one."""
    settings: TrainSettings = field(default_factory=TrainSettings)
    start: Path | None = None
    """PEFT folder whose weights the adapter begins with (the paper's one_last); None: a fresh adapter on the base."""


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
    """What was really used."""
    truncated: int
    left_out: int
    micro_batch_size: int = 0
    """Examples of a forward pass at the end: fewer than were set where the memory did not suffice. 0: not known."""


class Trainer(Protocol):
    """Trains a LoRA adapter of the base, from scratch or from `TrainJob.start`.

    Raises `errors.Stopped`, after saving a checkpoint, when `should_stop` says so.
    """

    def train(self, job: TrainJob, emit: Emit, should_stop: Callable[[], bool]) -> TrainResult: ...


def another_training(output: Path) -> CorruptRunError:
    """The error for an adapter that was made by another training than the one whose output it would be."""
    return CorruptRunError(
        f"{output} is there already, but was not made from these examples and settings.",
        "Move it away, or start a new run.",
    )
