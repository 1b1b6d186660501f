"""Which trainer a run has, and the adapter converter that belongs to it; only the one chosen is imported."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from minisheep import installed
from minisheep.errors import UsageError
from minisheep.machine.files import read_json
from minisheep.machine.gpu import Nvml, selected
from minisheep.trainers.base import Trainer
from minisheep.trainers.suited import SUPPORTED, Cuda, Obstacle, obstacle


@dataclass(frozen=True, slots=True)
class Choice:
    trainer: str
    """``peft``, ``unsloth`` or ``fake``."""
    told: str
    """The choice and its reason in one line; empty where the user made it."""


def settle(wanted: str, against: Obstacle | None, cuda: Cuda) -> Choice:
    """What the setting `trainer` becomes where `against` speaks against Unsloth. Pure.

    Raises `errors.UsageError` where the user asked for Unsloth and it cannot be had.
    """
    if wanted == "auto":
        if against is None:
            return Choice("unsloth", f"Training goes through Unsloth, on {cuda.gpu.name if cuda.gpu else 'the GPU'}.")
        form = ", in 4-bit (NF4) by bitsandbytes" if cuda.gpu is not None else ""
        return Choice("peft", f"Training goes through PEFT{form}, not Unsloth: {against.reason}.")
    if wanted == "unsloth" and against is not None:
        fix = f"{against.fix} Or give --trainer auto.".strip() if against.fix else "Give --trainer auto."
        raise UsageError(f"Unsloth cannot train here: {against.reason}. Nothing was generated.", fix)
    return Choice(wanted, "")


def choose(wanted: str, load_in: str, architecture: str | None = None) -> Choice:
    """`settle` for this machine and this environment; a GGUF's `architecture` may not be known yet.

    Imports nothing heavy, so it can come first. Raises `errors.UsageError`.
    """
    if wanted not in ("auto", "unsloth"):
        return Choice(wanted, "")
    cuda = find_cuda()
    against = obstacle(cuda, installed.versions(SUPPORTED), load_in=load_in, architecture=architecture)
    return settle(wanted, against, cuda)


def find_cuda() -> Cuda:
    """What the driver and the installed torch say now."""
    with Nvml() as nvml:
        return Cuda(selected(nvml.gpus()), nvml.cuda(), torch_build())


def torch_build() -> tuple[int, int] | None:
    """The CUDA of the installed torch, read from its version.py: torch itself takes seconds to import."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        return build_in(Path(found.origin).with_name("version.py").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def build_in(text: str) -> tuple[int, int] | None:
    """The CUDA that torch's version.py names (``cuda: Optional[str] = '13.0'``)."""
    match = re.search(r"^cuda\b[^=\n]*= *['\"](\d+)\.(\d+)", text, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else None


def make_trainer(name: str) -> Trainer:
    """The trainer called `name`, one of `Choice.trainer`."""
    if name == "fake":
        from minisheep.trainers.fake import FakeTrainer

        return FakeTrainer()
    if name == "unsloth":
        from minisheep.trainers.unsloth_trainer import UnslothTrainer

        return UnslothTrainer()
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
