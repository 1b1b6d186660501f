"""Which trainer a run has, why not Unsloth, and the adapter converter that belongs to the trainer.

The choice depends on the installed packages and the GPU; it imports nothing heavy, and later the chosen trainer only.
Supported hardware and versions are Unsloth's own requirements (METADATA of unsloth and unsloth_zoo 2026.10.7), narrower
where our loop needs more.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minisheep.errors import UsageError
from minisheep.machine import system
from minisheep.machine.cuda_setup import installed_torch, least_capability, least_toolkit, torch_for
from minisheep.machine.gpu import Gpu, Nvml, dotted, find_gpu, selected
from minisheep.machine.installing import install_extra, other_torch
from minisheep.run.files import read_json
from minisheep.trainers.base import Trainer

SUPPORTED: Mapping[str, tuple[str, str]] = {
    "unsloth": ("2026.10.7", "2026.11"),
    "unsloth_zoo": ("2026.10.7", "2026.11"),
    "transformers": ("5.17", "5.17.1"),
    "trl": ("1.10", "1.15.1"),
    "torch": ("2.6", "2.15"),
    "bitsandbytes": ("0.50", "0.51"),
    "peft": ("0.21", "0.22"),
}
"""The first version, and the first that is too new, of the packages that must work together; the extra `gpu` installs
such a set."""

CAPABILITY = (7, 0)
"""Where Unsloth begins; below 8.0 it computes in float16, and our loop scales the loss (`loss_scale`)."""

FAST = ("llama", "qwen2", "qwen3")
"""GGUF architectures for which Unsloth has kernels; it compiles code for each of the others."""


@dataclass(frozen=True, slots=True)
class Cuda:
    """The GPU that training would use, and the CUDA versions around it."""

    gpu: Gpu | None = None
    driver: tuple[int, int] | None = None
    """The newest CUDA that the driver can run."""
    build: tuple[int, int] | None = None
    """The CUDA that the installed torch was built for; None: torch for processors only, or no torch."""
    triton_lacks: str = ""
    """What Triton needs to compile a kernel and is not here (`triton_lacks`)."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why Unsloth cannot train here."""

    reason: str
    """Half a sentence: ``there is no NVIDIA GPU here``."""
    fix: str
    """What to do about it; empty where nothing helps."""


def torch_obstacle(cuda: Cuda) -> Obstacle | None:
    """Why the installed torch cannot compute on the GPU that is here; None where it can, and where there is none.

    From version numbers alone, since torch takes seconds to import. Pure.
    """
    gpu, build = cuda.gpu, cuda.build
    if gpu is None:
        return None
    torch = torch_for(cuda.driver, gpu.capability)
    if build is None:
        fix = f"Install one that has it: {other_torch(torch)}."
        return Obstacle("the installed torch was built without CUDA", fix)
    if cuda.driver is not None and cuda.driver[0] < build[0]:
        return Obstacle(
            f"the driver runs CUDA up to {dotted(cuda.driver)}, and torch was built for {dotted(build)}",
            f"Update the NVIDIA driver (580 or newer runs CUDA 13), or install a torch for CUDA {cuda.driver[0]}:"
            f" {install_extra('gpu', torch)}.",
        )
    capability = gpu.capability
    if capability is None:
        return None
    if capability < (least := least_capability(build)):
        return Obstacle(
            f"its compute capability is {dotted(capability)}, and torch for CUDA {dotted(build)} begins at"
            f" {dotted(least)}",
            f"Install an older one: {other_torch(torch)}.",
        )
    if build < (needed := least_toolkit(capability)):
        return Obstacle(
            f"this GPU needs CUDA {dotted(needed)}, and torch was built for {dotted(build)}",
            f"Run {install_extra('gpu')} in a fresh environment.",
        )
    return None


def check_training_on_gpu(wanted: str, cuda: Cuda) -> str:
    """A warning where the user chose to train on the processor beside a GPU; empty where the GPU trains, or none is.

    `wanted` is the setting `trainer`. Raises `errors.UsageError` where training would fall back to the processor though
    nobody said so: that is days in place of hours, and would show only after everything was generated. Pure.
    """
    against = torch_obstacle(cuda)
    if cuda.gpu is None or against is None or wanted == "fake":
        return ""
    told = f"{cuda.gpu.name} is here, but {against.reason}: training would run on the processor, many times as long"
    if wanted != "peft":
        fix = f"{against.fix} Or set --trainer peft, which then trains on the processor."
        raise UsageError(f"{told}. Nothing was generated.", fix)
    return f"{told}, as --trainer peft allows. {against.fix}"


def needs_gpu(wanted: str) -> bool:
    """Whether a training with the setting `trainer` may not fall back to the processor on this machine."""
    return wanted in ("auto", "unsloth") and find_gpu() is not None


def obstacle(
    cuda: Cuda, packages: Mapping[str, str], *, load_in: str = "auto", architecture: str | None = None
) -> Obstacle | None:
    """The first reason against Unsloth, if any. `packages` are installed versions by name; `architecture` is the
    GGUF's, if known already. Pure."""
    gpu = cuda.gpu
    if gpu is None:
        return Obstacle("there is no NVIDIA GPU here", "")
    if "unsloth" not in packages:
        return Obstacle("it is not installed", f"Install it with {install_extra('gpu')}.")
    for package, (first, beyond) in SUPPORTED.items():
        version = packages.get(package)
        if version is None:
            return Obstacle(f"{package}, which it needs, is not installed", f"Install it with {install_extra('gpu')}.")
        if not _numbers(first) <= _numbers(version) < _numbers(beyond):
            reason = f"{package} is {version}, but must be {first} or newer and older than {beyond}"
            return Obstacle(reason, f"Run {install_extra('gpu')}.")
    if (against := torch_obstacle(cuda)) is not None:
        return against
    if gpu.capability is not None and gpu.capability < CAPABILITY:
        return Obstacle(
            f"{gpu.name} has compute capability {dotted(gpu.capability)}, and Unsloth needs {dotted(CAPABILITY)}", ""
        )
    if cuda.triton_lacks:
        return Obstacle(
            f"Triton, which compiles its kernels, lacks {cuda.triton_lacks}",
            "Install both: apt install build-essential python3-dev (for the Python that runs this).",
        )
    if load_in == "fp32":
        return Obstacle("it has no kernels for --load-in fp32", "Leave out --load-in.")
    if architecture is not None and architecture not in FAST:
        return Obstacle(f"it has no kernels for {architecture}", "")
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """``5.17.0.post1+cu130`` as (5, 17): the parts before the first that is no number, without final zeros."""
    numbers: list[int] = []
    for part in version.split("+")[0].split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


@dataclass(frozen=True, slots=True)
class TrainerChoice:
    trainer: str
    """``peft``, ``unsloth`` or ``fake``."""
    message: str
    """The choice and its reason in one line; empty where the user made it."""
    warning: bool = False


def settle(wanted: str, against: Obstacle | None, cuda: Cuda) -> TrainerChoice:
    """The trainer for the setting `trainer`, given the reason `against` Unsloth, if any. Pure.

    Raises `errors.UsageError` where the user set Unsloth and it cannot train here.
    """
    if wanted == "auto":
        if against is None:
            return TrainerChoice(
                "unsloth", f"Training goes through Unsloth, on {cuda.gpu.name if cuda.gpu else 'the GPU'}."
            )
        on_gpu = cuda.gpu is not None and torch_obstacle(cuda) is None
        form = ", in 4-bit (NF4) by bitsandbytes" if on_gpu else ""
        return TrainerChoice("peft", f"Training goes through PEFT{form}, not Unsloth: {against.reason}.")
    if wanted == "unsloth" and against is not None:
        fix = f"{against.fix} Or set --trainer auto." if against.fix else "Set --trainer auto."
        raise UsageError(f"Unsloth cannot train here: {against.reason}. Nothing was generated.", fix)
    return TrainerChoice(wanted, "")


def choose_trainer(wanted: str, load_in: str, architecture: str | None = None) -> TrainerChoice:
    """`settle` for this machine and environment; a GGUF's `architecture` may not be known yet. Raises
    `errors.UsageError`."""
    if wanted not in ("auto", "unsloth"):
        return TrainerChoice(wanted, "")
    cuda = find_cuda()
    against = obstacle(cuda, system.versions(SUPPORTED), load_in=load_in, architecture=architecture)
    return settle(wanted, against, cuda)


def failed_with() -> str:
    """The versions on which it depends whether Unsloth works: after a change of one it is tried again."""
    found = system.versions(("unsloth", "unsloth_zoo", "torch", "triton"))
    return ", ".join(f"{name} {version}" for name, version in found.items())


def after_failure(choice: TrainerChoice, failed: str) -> TrainerChoice:
    """`choice`, or PEFT where Unsloth `failed` on this machine before with the same versions; the text stays a warning
    whenever the run goes on."""
    if choice.trainer != "unsloth" or not choice.message or not failed.endswith(f"({failed_with()})"):
        return choice
    return TrainerChoice("peft", f"Training goes through PEFT, in 4-bit (NF4), since {failed}", warning=True)


def find_cuda() -> Cuda:
    """From the driver and the installed torch."""
    torch = installed_torch()
    with Nvml() as nvml:
        return Cuda(selected(nvml.gpus()), nvml.cuda(), torch.build if torch else None, triton_lacks())


def triton_lacks() -> str:
    """What is missing to compile a kernel's launcher: a C compiler (as Triton looks for one), or Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("clang") or shutil.which("gcc")
    if not compiler:
        return "a C compiler"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return "" if header.is_file() else "Python.h"


def make_trainer(name: str) -> Trainer:
    if name == "fake":
        from minisheep.trainers.fake_trainer import FakeTrainer

        return FakeTrainer()
    if name == "unsloth":
        from minisheep.trainers.unsloth import UnslothTrainer

        return UnslothTrainer()
    from minisheep.trainers.peft import PeftTrainer

    return PeftTrainer()


def make_adapter_sum(trainer: str, adapters: Sequence[Path], weights: Sequence[float], output: Path) -> None:
    """The weighted sum of adapters as one. Raises as `formats.adapter_sum.write_sum` does."""
    if trainer == "fake":
        from minisheep.trainers.fake_trainer import fake_sum

        fake_sum(adapters, weights, output)
    else:
        from minisheep.formats.adapter_sum import write_sum

        write_sum(adapters, weights, output)


def make_adapter_gguf(trainer: str, adapter: Path, base: Path, output: Path) -> None:
    """The adapter as the engine loads it. Raises `errors.UnsupportedModelError` for what llama.cpp cannot represent."""
    if trainer == "fake":
        from minisheep.trainers.fake_trainer import fake_adapter_gguf

        fake_adapter_gguf(output, read_json(adapter / "adapter_config.json")["examples"])
    else:
        from minisheep.formats.lora_gguf import convert_adapter

        convert_adapter(adapter, base, output)
