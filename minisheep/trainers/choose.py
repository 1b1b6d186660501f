"""The trainer and the adapter converter that belong together; heavy imports happen only for the one that is chosen."""

from __future__ import annotations

from pathlib import Path

from minisheep.errors import UsageError
from minisheep.store import read_json
from minisheep.trainers.base import Trainer


def check_trainer(name: str) -> None:
    """Raises `errors.UsageError` for a trainer that this version lacks; imports nothing, so it can come first."""
    if name == "unsloth":
        raise UsageError(
            "Training through Unsloth is not in this version. Nothing was generated.",
            "Give --trainer peft: on CUDA it trains in 4-bit as well.",
        )


def make_trainer(name: str) -> Trainer:
    """The trainer called `name`, checked before by `check_trainer`."""
    if name == "fake":
        from minisheep.trainers.fake import FakeTrainer

        return FakeTrainer()
    from minisheep.trainers.peft import PeftTrainer

    return PeftTrainer()


def make_adapter_gguf(trainer: str, adapter: Path, base: Path, output: Path) -> None:
    """The adapter as the engine loads it. Raises `errors.UnsupportedModelError` for what llama.cpp cannot represent."""
    if trainer == "fake":
        from minisheep.trainers.fake import fake_adapter_gguf

        fake_adapter_gguf(output, read_json(adapter / "adapter_config.json")["examples"])
    else:
        from minisheep.trainers.lora_gguf import convert_adapter

        convert_adapter(adapter, base, output)
