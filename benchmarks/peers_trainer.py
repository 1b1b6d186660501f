"""The usual way to train a LoRA: transformers' `Trainer`, plain padding, shuffled, full logits.

Same model, dtype, adapter, optimiser, step and micro-batch as minisheep's trainer. Only child processes
import this module, since it loads torch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from minisheep.formats.lora_gguf import PROJECTIONS
from minisheep.plan.calibration import Turn
from minisheep.trainers.base import TokenPair, TrainJob
from minisheep.trainers.lora_model import Precision, load_base
from minisheep.trainers.train_loop import CLIP

IGNORED = -100


def train_padded(job: TrainJob, pairs: Sequence[TokenPair], precision: Precision, threads: int) -> Turn:
    """Train on `pairs`; tokens (padding not counted) and seconds from the end of the first step to that of the last."""
    settings = job.settings
    model: Any = load_base(job.weights, precision)
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
            target_modules=list(PROJECTIONS), bias="none", task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    counted = _Count()
    with tempfile.TemporaryDirectory(dir=job.output.parent) as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=settings.micro_batch_size,
            gradient_accumulation_steps=max(1, settings.batch_size // settings.micro_batch_size),
            num_train_epochs=settings.epochs, learning_rate=settings.learning_rate, max_grad_norm=CLIP,
            lr_scheduler_type="cosine", optim="adamw_torch_fused", weight_decay=0.0, save_strategy="no",
            logging_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
            dataloader_pin_memory=False, seed=settings.seed % 2**31, use_cpu=precision.device.type == "cpu",
        )  # fmt: skip
        trainer = _Trainer(
            model=adapted, args=arguments, train_dataset=list(pairs), data_collator=collate, callbacks=[counted]
        )  # fmt: skip
        trainer.counted = counted
        torch.set_num_threads(threads)
        trainer.train()
    return counted.turn()


def collate(pairs: Sequence[TokenPair]) -> dict[str, torch.Tensor]:
    """Pairs as one batch, padded on the right to the longest; the loss covers completions only."""
    width = max(len(pair.ids) for pair in pairs)
    ids = torch.zeros(len(pairs), width, dtype=torch.long)
    mask = torch.zeros(len(pairs), width, dtype=torch.long)
    labels = torch.full((len(pairs), width), IGNORED, dtype=torch.long)
    for row, pair in enumerate(pairs):
        length = len(pair.ids)
        ids[row, :length] = torch.tensor(pair.ids)
        mask[row, :length] = 1
        labels[row, pair.first : length] = ids[row, pair.first : length]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class _Count(transformers.TrainerCallback):  # type: ignore[misc]
    """Records when each optimizer step ended and how many real tokens it had."""

    def __init__(self) -> None:
        self.pending = 0
        self.steps: list[tuple[float, int]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps.append((time.perf_counter(), self.pending))
        self.pending = 0

    def turn(self) -> Turn:
        return Turn(sum(tokens for _, tokens in self.steps[1:]), self.steps[-1][0] - self.steps[0][0])


class _Trainer(transformers.Trainer):  # type: ignore[misc]
    counted: _Count

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.counted.pending += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *args, **kwargs)
