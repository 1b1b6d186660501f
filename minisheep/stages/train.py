"""Kept examples become a training job, in the template that inference uses too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minisheep.config import Settings
from minisheep.data.seed_tasks import SeedTask
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import user_text
from minisheep.rules.templates import Prompt, Segment, Template
from minisheep.run.records import Example, PreferencePair
from minisheep.trainers.base import TrainExample, TrainJob, TrainSettings


def train_settings(settings: Settings, round: int, loss: str = "sft") -> TrainSettings:
    """The hyperparameters of a round; a preference `loss` trains without dropout (`trainers.preference`)."""
    preference: dict[str, Any] = {"loss": loss, "beta": settings.preference_beta, "lora_dropout": 0.0}
    plain = TrainSettings(
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
    return plain if loss == "sft" else dataclasses.replace(plain, **preference)


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
    pairs: Mapping[str, PreferencePair] | None = None,
    seeds: Sequence[SeedTask] = (),
    needs_gpu: bool = False,
) -> TrainJob:
    """The job of one round on the first `max_examples` of `examples`, which stand best first, and on some of `seeds`.

    `pairs` are by the id of their example. DPO learns from examples with one alone. Without any the round trains by
    likelihood, as `TrainSettings.loss` then says.
    """
    worse = pairs or {}
    if settings.loss == "dpo" and any(e.id in worse for e in examples):
        examples = [e for e in examples if e.id in worse]
    examples = examples[: settings.max_examples]
    loss = settings.loss if any(e.id in worse for e in examples) else "sft"
    chosen = [
        TrainExample(
            template.prompt(user_text(e.instruction, e.input)),
            template.completion(e.output),
            rejected_completion(template, worse[e.id]) if e.id in worse else None,
        )
        for e in examples
    ]
    chosen += [
        TrainExample(template.prompt(user_text(s.instruction, s.input)), template.completion(s.output))
        for s in mixed_in(settings, round, seeds, len(chosen))
    ]
    return TrainJob(
        round, tuple(chosen), gguf, weights, output, scratch, train_settings(settings, round, loss), start,
        needs_gpu=needs_gpu,
    )  # fmt: skip


def rejected_completion(template: Template, pair: PreferencePair) -> Prompt:
    """The worse answer; with the template's end only if the model ended it."""
    text = pair.rejected[0]["content"]
    return template.completion(text) if pair.rejected_ended else (Segment(text),)


def mixed_in(settings: Settings, round: int, seeds: Sequence[SeedTask], own: int) -> list[SeedTask]:
    """The seed tasks that a round trains on beside `own` examples, none of them held out: `mix_seeds` of all examples,
    or fewer where there are no more. Another draw in each round."""
    free = [seed for seed in seeds if not seed.held_out]
    free.sort(key=lambda seed: derive_seed(settings.seed, round, "mix seeds", seed.id))
    return free[: _wanted_seeds(settings, own)]


def _wanted_seeds(settings: Settings, own: int) -> int:
    return round(own * settings.mix_seeds / (1 - settings.mix_seeds))


def training_notes(settings: Settings, round: int, job: TrainJob, kept: int) -> Iterator[str]:
    """What a person must know of how a round's training differs from the settings or from SFT on what was kept."""
    if job.settings.loss != settings.loss:
        yield (
            f"Round {round} has no pair of answers for --loss {settings.loss}, so it trains by likelihood (sft) on its"
            " kept answers."
        )
    elif settings.loss == "dpo" and len(job.examples) < min(kept, settings.max_examples):
        yield f"DPO learns from {len(job.examples)} pairs; kept answers without one are left out."
    if settings.mix_seeds:
        own = min(kept, settings.max_examples)
        mixed = len(job.examples) - own
        short = _wanted_seeds(settings, own) > mixed
        yield f"{mixed} of {len(job.examples)} training examples are seed tasks, written by people" + (
            f": all that are not held out, fewer than --mix-seeds {settings.mix_seeds:g} asks for." if short else "."
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
