"""Kept examples become a training job, in the template that inference uses too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minisheep.config import Settings
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import user_text
from minisheep.rules.templates import Template
from minisheep.run.records import Example
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
    start: Path | None = None,
    needs_gpu: bool = False,
) -> TrainJob:
    """The job of one round on the first `max_examples` of `examples`, which stand best first."""
    chosen = tuple(
        TrainExample(template.prompt(user_text(e.instruction, e.input)), template.completion(e.output))
        for e in examples[: settings.max_examples]
    )
    return TrainJob(
        round, chosen, gguf, weights, output, scratch, train_settings(settings, round), start, needs_gpu=needs_gpu
    )


def rounds_trained_on(strategy: str, round: int) -> range:
    """The rounds whose kept data a round trains on: its own, or all so far (the paper's total_base)."""
    return range(1, round + 1) if strategy == "total-base" else range(round, round + 1)


def starts_from(strategy: str, round: int) -> int:
    """The round whose adapter the training begins with: 0 for a fresh one, else the last (the paper's one_last)."""
    return round - 1 if strategy == "one-last" else 0


def together(rounds: Sequence[Sequence[Example]]) -> list[Example]:
    """The examples of several rounds, each best first, as one list: the best of each, newest first, then the next.

    Scores of different rounds come from different judges, so ranks are compared and not scores.
    """
    newest_first = [list(examples) for examples in reversed(rounds)]
    ranks = range(max(map(len, newest_first), default=0))
    return [examples[rank] for rank in ranks for examples in newest_first if rank < len(examples)]
