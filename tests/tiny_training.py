"""A training on a tiny random model, for tests: what it needs, and a kill in the middle of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from minisheep.formats.lora_gguf import BaseFacts
from minisheep.rules.templates import Prompt, Segment
from minisheep.run.events import Event, Note, TrainStep
from minisheep.trainers.base import TrainExample, TrainJob, TrainResult, TrainSettings

WIDTH, INNER, LAYERS, HEADS, KV = 64, 128, 2, 4, 2
SETTINGS = TrainSettings(
    batch_size=4, micro_batch_size=2, epochs=2, load_in="fp32", checkpoint_seconds=0.0, learning_rate=5e-3
)


class ByteVocabulary:
    """Stands in for llama.cpp's: every byte a token, segments that are `special` shifted out of their way."""

    @classmethod
    def from_file(cls, path: Path) -> Self:
        return cls()

    def encode(self, prompt: Prompt, *, bos: bool, after: int | None = None) -> list[int]:
        ids = [byte + 256 * segment.special for segment in prompt for byte in segment.text.encode()]
        return [512, *ids] if bos else ids

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def facts() -> BaseFacts:
    head = WIDTH // HEADS
    shapes = {
        "attn_q": (HEADS * head, WIDTH),
        "attn_k": (KV * head, WIDTH),
        "attn_v": (KV * head, WIDTH),
        "attn_output": (WIDTH, HEADS * head),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    every = {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in shapes.items()}
    return BaseFacts("llama", LAYERS, HEADS, KV, every)


def save_tiny_model(path: Path) -> Path:
    """A random llama in safetensors at `path`, the same every time."""
    import minisheep.trainers.lora_model  # noqa: F401  # takes the Hub off line

    import torch  # isort: skip
    from transformers import LlamaConfig, LlamaForCausalLM  # isort: skip

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=520,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def pretend_gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model has no GGUF: its vocabulary and header are given instead."""
    from minisheep.formats import lora_gguf
    from minisheep.trainers import peft

    monkeypatch.setattr(peft, "Vocabulary", ByteVocabulary)
    monkeypatch.setattr(lora_gguf, "read_base", lambda path: facts())


def examples(count: int = 22) -> tuple[TrainExample, ...]:
    return tuple(
        TrainExample(
            (Segment("U", True), Segment(f"say {'ab' * (i % 5)} {i}"), Segment("A", True)),
            (Segment(f"answer {i % 4}" + "!" * (i % 3)), Segment("E", True)),
        )
        for i in range(count)
    )


def job(folder: Path, weights: Path, count: int = 22, **settings: Any) -> TrainJob:
    chosen = dataclasses.replace(SETTINGS, **settings)
    return TrainJob(1, examples(count), folder / "b.gguf", weights, folder / "adapter", folder / "scratch", chosen)


class Killed(BaseException):
    """Leaves on disk what SIGKILL leaves: the checkpoints that were already renamed."""


def train(
    job: TrainJob,
    said: list[Event] | None = None,
    kill_after: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    trainer: str = "peft",
) -> TrainResult:
    from minisheep.trainers.choose_trainer import make_trainer

    heard = [] if said is None else said

    def emit(event: Event) -> None:
        heard.append(event)
        if isinstance(event, TrainStep) and event.step == kill_after:
            raise Killed

    return make_trainer(trainer).train(job, emit, should_stop)


def adapter(job: TrainJob) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors.numpy import load_file

    return load_file(job.output / "adapter_model.safetensors")


def distance(one: dict[str, np.ndarray[Any, Any]], other: dict[str, np.ndarray[Any, Any]]) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def steps(said: list[Event]) -> list[TrainStep]:
    return [event for event in said if isinstance(event, TrainStep)]


def notes(said: list[Event]) -> str:
    return "\n".join(event.text for event in said if isinstance(event, Note))
