"""A trainer that trains nothing, for tests, screens and examples: it has a loss curve, checkpoints and an output.

Every file of its output says that it is fake, and only the fake engine accepts it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minisheep.errors import Stopped
from minisheep.formats.lora_gguf import TENSORS, read_config
from minisheep.rules.identity import digest
from minisheep.run.events import Emit, TrainStep
from minisheep.run.files import publish, write_atomic, write_json
from minisheep.trainers import base

LABEL = "FAKE"
CHECKPOINT = "fake-checkpoint.json"


def fake_fingerprint(job: base.TrainJob) -> str:
    """A digest of the texts, and of the adapter `job.start` if there is one, so that other data gives another adapter.

    Raises `errors.ModelFileError`.
    """
    texts = [
        [[s.text for s in part] for part in (e.prompt, e.completion, *([e.rejected] if e.rejected else []))]
        for e in job.examples
    ]
    preference = {} if job.settings.loss == "sft" else {"loss": job.settings.loss, "beta": job.settings.beta}
    examples = digest("fake-examples", {"texts": texts, **preference})
    if job.start is None:
        return examples
    start = base.read_scale(job.start, job.settings)
    return digest("fake-start", {"examples": examples, "start": start.get("examples")})


def fake_adapter_gguf(path: Path, digest: str) -> None:
    """Write an adapter for the fake engine: a line that llama.cpp refuses. Raises `errors.DiskError`."""
    write_atomic(path, f"{LABEL} adapter {digest}\n".encode())


def fake_sum(adapters: Sequence[Path], weights: Sequence[float], output: Path) -> None:
    """The sum of fake adapters: a fake one that depends on each and on its weight. Raises `errors.DiskError`."""
    configs = [read_config(folder) for folder in adapters]
    parts = [[config["examples"], weight] for config, weight in zip(configs, weights, strict=True)]
    rank = sum(config["r"] for config in configs)
    scale = {"examples": digest("fake-sum", {"parts": parts}), "r": rank, "lora_alpha": rank, "use_rslora": False}
    with publish(output) as folder:
        write_json(folder / "adapter_config.json", configs[0] | scale)
        write_atomic(folder / TENSORS, f"{LABEL}\n".encode())


class FakeTrainer:
    """Plays a training of the right number of steps; the loss falls the same way every time."""

    def __init__(self, delay: float = 0.0) -> None:
        """`delay` is in seconds a step, so that a person can watch, and a test can interrupt."""
        self.delay = delay

    def train(self, job: base.TrainJob, emit: Emit, should_stop: Callable[[], bool]) -> base.TrainResult:
        """See `trainers.base.Trainer`. A checkpoint is saved at every step."""
        settings = job.settings
        training, held = base.split(len(job.examples), settings.validation, settings.seed)
        per_epoch = base.steps_per_epoch(len(training), settings.batch_size)
        total = per_epoch * settings.epochs
        warmup = base.usable_warmup(settings.warmup_steps, total)
        fingerprint = fake_fingerprint(job)
        if job.output.exists() and read_config(job.output).get("examples") != fingerprint:
            raise base.another_training(job.output)
        words = sum(_words(job.examples[index]) for index in training)
        done = _read_step(job.scratch / CHECKPOINT, fingerprint, total)
        for step in range(done, total):
            if should_stop():
                raise Stopped(
                    f"Training stopped after step {step} of {total}; all finished steps are saved.",
                    "Run the same command again to continue from there.",
                )
            time.sleep(self.delay)
            job.scratch.mkdir(parents=True, exist_ok=True)
            write_json(job.scratch / CHECKPOINT, {"fingerprint": fingerprint, "step": step + 1})
            epoch_ends = (step + 1) % per_epoch == 0
            emit(
                TrainStep(
                    round=job.round,
                    step=step + 1,
                    total=total,
                    loss=fake_loss(step),
                    learning_rate=base.learning_rate(step, total, warmup, settings.learning_rate),
                    tokens_per_second=words / per_epoch / self.delay if self.delay else 0.0,
                    validation_loss=fake_loss(step) + 0.1 if held and epoch_ends else None,
                )
            )
        self._write(job, fingerprint)
        (job.scratch / CHECKPOINT).unlink(missing_ok=True)
        return base.TrainResult(
            steps=total,
            examples=len(training),
            validation_examples=len(held),
            tokens=words * settings.epochs,
            seconds=self.delay * total,
            first_loss=fake_loss(0),
            last_loss=fake_loss(max(total - 1, 0)),
            best_validation_loss=fake_loss(total - 1) + 0.1 if held else None,
            best_step=total,
            load_in="fake",
            truncated=0,
            left_out=0,
            pairs=sum(job.examples[index].rejected is not None for index in training),
        )

    def _write(self, job: base.TrainJob, fingerprint: str) -> None:
        if job.output.exists():
            return
        config: dict[str, Any] = {
            "fake": True,
            "examples": fingerprint,
            "peft_type": "LORA",
            "r": job.settings.lora_rank,
            "lora_alpha": job.settings.lora_alpha,
            "use_rslora": job.settings.rslora,
        }
        with publish(job.output) as folder:
            write_json(folder / "adapter_config.json", config)
            write_atomic(folder / TENSORS, f"{LABEL}\n".encode())


def fake_loss(step: int) -> float:
    """Nats per token after `step` steps: from 2.5 down towards 1.2."""
    return 1.2 + 1.3 * math.exp(-step / 10)


def _words(example: base.TrainExample) -> int:
    texts = (*example.prompt, *example.completion, *(example.rejected or ()))
    return sum(len(segment.text.split()) for segment in texts)


def _read_step(path: Path, fingerprint: str, total: int) -> int:
    """Steps that are done; 0 where the checkpoint is missing, damaged or of other data."""
    try:
        data = json.loads(path.read_bytes())
        step = int(data["step"]) if data["fingerprint"] == fingerprint else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return step if 0 <= step <= total else 0
