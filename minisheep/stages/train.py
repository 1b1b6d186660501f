"""Kept examples become a training job: the same template that inference uses, from the same place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minisheep.config import Settings
from minisheep.models.template import Template
from minisheep.records import Example, derive_seed
from minisheep.rules.prompts import user_text
from minisheep.trainers.base import TrainExample, TrainJob, TrainSettings


def train_settings(settings: Settings, round: int) -> TrainSettings:
    return TrainSettings(
        lora_rank=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        rslora=settings.rslora,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        micro_batch_size=min(settings.micro_batch_size, settings.batch_size),
        max_length=settings.max_length,
        validation=settings.validation,
        load_in=settings.load_in,
        checkpoint_seconds=settings.checkpoint_seconds,
        seed=derive_seed(settings.seed, round, "train"),
    )


def train_job(
    settings: Settings,
    template: Template,
    round: int,
    examples: Sequence[Example],
    *,
    gguf: Path,
    weights: Path,
    output: Path,
    scratch: Path,
) -> TrainJob:
    """The job of one round: the best `max_examples` of what was kept, always from the base (the paper's one_base)."""
    chosen = tuple(
        TrainExample(template.prompt(user_text(e.instruction, e.input)), template.completion(e.output))
        for e in examples[: settings.max_examples]
    )
    return TrainJob(round, chosen, gguf, weights, output, scratch, train_settings(settings, round))
