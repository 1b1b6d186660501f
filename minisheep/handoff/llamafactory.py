"""LLaMA-Factory's files: pairs whose prompt and answer are framed already, read with its template ``empty``.

That template adds nothing, not even an end, so the run's own end of text stands at the end of each answer. A prompt is
tokenised as one text, where we tokenise its pieces; with templates of special tokens the ids are the same, with
``plain`` the blank before the user's words may join their first word. Keys are those of its hparams. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from minisheep.handoff.batches import spread, whole_alpha
from minisheep.handoff.job import Job, text_of
from minisheep.trainers.base import TrainExample

CONFIG = "llamafactory.yaml"
COMMAND = f"llamafactory-cli train {CONFIG}"
TRAIN, VALIDATION = "minisheep_train", "minisheep_validation"


def files(job: Job, gpus: int, projections: Sequence[str]) -> dict[str, str]:
    """The configuration, the list of data sets and the data, by name. Raises `errors.UsageError` for what `batches`
    refuses."""
    sets = {TRAIN: job.train, **({VALIDATION: job.validation} if job.validation else {})}
    return {
        CONFIG: yaml.safe_dump(config(job, gpus, projections), sort_keys=False, allow_unicode=True),
        "dataset_info.json": json.dumps({name: dataset(name) for name in sets}, indent=2) + "\n",
        **{f"{name}.jsonl": lines(examples) for name, examples in sets.items()},
    }


def config(job: Job, gpus: int, projections: Sequence[str]) -> dict[str, Any]:
    settings, batches = job.settings, spread(job.settings.batch_size, job.settings.micro_batch_size, gpus)
    measured: dict[str, Any] = {
        "eval_dataset": VALIDATION,
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "per_device_eval_batch_size": batches.micro,
    }
    return {
        "model_name_or_path": job.base,
        **({"adapter_name_or_path": str(job.start)} if job.start else {}),
        **({"quantization_bit": 4, "quantization_method": "bnb"} if settings.load_in in ("auto", "4bit") else {}),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": settings.lora_rank,
        "lora_alpha": whole_alpha(settings.lora_alpha),
        "lora_dropout": settings.lora_dropout,
        "lora_target": ",".join(projections),
        "use_rslora": settings.rslora,
        "dataset_dir": ".",
        "dataset": TRAIN,
        **(measured if job.validation else {}),
        "template": "empty",
        "cutoff_len": settings.max_length,
        "train_on_prompt": False,
        "packing": False,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": job.warmup,
        "num_train_epochs": float(settings.epochs),
        "per_device_train_batch_size": batches.micro,
        "gradient_accumulation_steps": batches.accumulate,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": settings.load_in != "fp32",
        "save_strategy": "epoch",
        "logging_steps": 1,
        "report_to": "none",
        "seed": settings.seed,
        "output_dir": "adapter",
    }


def dataset(name: str) -> dict[str, Any]:
    """The entry of a file in ``dataset_info.json``."""
    return {
        "file_name": f"{name}.jsonl",
        "formatting": "alpaca",
        "columns": {"prompt": "prompt", "response": "response"},
    }


def lines(examples: Sequence[TrainExample]) -> str:
    pairs = ({"prompt": text_of(e.prompt), "response": text_of(e.completion)} for e in examples)
    return "".join(json.dumps(pair) + "\n" for pair in pairs)
