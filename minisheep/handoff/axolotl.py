"""Axolotl's files: template-free pairs (its type ``input_output``), each in the pieces in which we tokenise it.

Axolotl tokenises piece by piece and adds nothing, so the ids are those of our own training (but for vocabularies that
put a blank before each text). Keys are those of its schemas (axolotl.utils.schemas.config). Pure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from minisheep.handoff.batches import spread, whole_alpha
from minisheep.handoff.job import Job
from minisheep.trainers.base import TrainExample

CONFIG = "axolotl.yaml"
COMMAND = f"axolotl train {CONFIG}"


def files(job: Job, gpus: int, projections: Sequence[str]) -> dict[str, str]:
    """The configuration and the data, by name. Raises `errors.UsageError` for what `batches` refuses."""
    found = {
        CONFIG: yaml.safe_dump(config(job, gpus, projections), sort_keys=False, allow_unicode=True),
        "train.jsonl": lines(job.train),
    }
    return {**found, "validation.jsonl": lines(job.validation)} if job.validation else found


def config(job: Job, gpus: int, projections: Sequence[str]) -> dict[str, Any]:
    settings, batches = job.settings, spread(job.settings.batch_size, job.settings.micro_batch_size, gpus)
    four_bit = settings.load_in in ("auto", "4bit")
    measured: dict[str, Any] = {
        "test_datasets": [{**_data("validation.jsonl"), "split": "train"}],
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }
    return {
        "base_model": job.base,
        **({"lora_model_dir": str(job.start)} if job.start else {}),
        "load_in_4bit": four_bit,
        "adapter": "qlora" if four_bit else "lora",
        "lora_r": settings.lora_rank,
        "lora_alpha": whole_alpha(settings.lora_alpha),
        "lora_dropout": settings.lora_dropout,
        "lora_target_modules": list(projections),
        "peft_use_rslora": settings.rslora,
        "datasets": [_data("train.jsonl")],
        **(measured if job.validation else {"val_set_size": 0.0}),
        "sequence_len": settings.max_length,
        "sample_packing": False,
        "train_on_inputs": False,
        "learning_rate": settings.learning_rate,
        "lr_scheduler": "cosine",
        "warmup_steps": job.warmup,
        "num_epochs": settings.epochs,
        "micro_batch_size": batches.micro,
        "gradient_accumulation_steps": batches.accumulate,
        "optimizer": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": settings.load_in != "fp32",
        "gradient_checkpointing": True,
        "save_strategy": "epoch",
        "logging_steps": 1,
        "seed": settings.seed,
        "output_dir": "./adapter",
    }


def lines(examples: Sequence[TrainExample]) -> str:
    return "".join(json.dumps({"segments": segments(example)}) + "\n" for example in examples)


def segments(example: TrainExample) -> list[dict[str, Any]]:
    """The pieces of a pair; those with ``label`` are learned."""
    sides = ((example.prompt, False), (example.completion, True))
    return [{"label": learned, "text": part.text} for side, learned in sides for part in side if part.text]


def _data(name: str) -> dict[str, str]:
    return {"path": name, "ds_type": "json", "type": "input_output"}
