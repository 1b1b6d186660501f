"""Can Unsloth train here, and if not, why: a pure decision on what is installed and which GPU there is.

Hardware and versions are those of Unsloth's own requirements (METADATA of unsloth and unsloth_zoo 2026.10.7), made
narrower where our loop asks for more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from minisheep.machine.gpu import Gpu, dotted

SUPPORTED: Mapping[str, tuple[str, str]] = {
    "unsloth": ("2026.10.7", "2026.11"),
    "unsloth_zoo": ("2026.10.7", "2026.11"),
    "transformers": ("5.17", "5.17.1"),
    "trl": ("1.10", "1.15.1"),
    "torch": ("2.6", "2.15"),
    "bitsandbytes": ("0.50", "0.51"),
    "peft": ("0.21", "0.22"),
}
"""The first version, and the first that is too new, of what must work together; the extra `gpu` installs such a set."""

CAPABILITY = (8, 0)
"""Unsloth itself begins at 7.0, but trains in float16 where a GPU has no bfloat16; small gradients then become zero
unless the loss is scaled, which our loop does not do."""

FAST = ("llama", "qwen2", "qwen3")
"""GGUF architectures for which Unsloth has kernels of its own; others go through code that it compiles for each."""

INSTALL = "pip install 'minisheep[gpu]'"


@dataclass(frozen=True, slots=True)
class Cuda:
    """What there is for a training on a GPU."""

    gpu: Gpu | None = None
    """The one that would be used."""
    driver: tuple[int, int] | None = None
    """The newest CUDA that the driver can run."""
    build: tuple[int, int] | None = None
    """The CUDA that the installed torch was built for; None: for processors alone, or there is no torch."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why Unsloth cannot train here."""

    reason: str
    """Half a sentence: ``there is no NVIDIA GPU here``."""
    fix: str
    """What would help; empty where nothing does."""


def obstacle(
    cuda: Cuda, packages: Mapping[str, str], *, load_in: str = "auto", architecture: str | None = None
) -> Obstacle | None:
    """The first reason against Unsloth, None if there is none. `architecture` is a GGUF's, if it is known already.

    `packages` are installed versions by name.
    """
    gpu = cuda.gpu
    if gpu is None:
        return Obstacle("there is no NVIDIA GPU here", "")
    if "unsloth" not in packages:
        return Obstacle("it is not installed", f"Install it with {INSTALL}.")
    for package, (first, beyond) in SUPPORTED.items():
        found = packages.get(package)
        if found is None:
            return Obstacle(f"{package}, which it needs, is not installed", f"Install it with {INSTALL}.")
        if not _numbers(first) <= _numbers(found) < _numbers(beyond):
            wanted = f"{package} from {first} on and before {beyond}"
            return Obstacle(f"{package} is {found}, and what works together is {wanted}", f"Run {INSTALL}.")
    if cuda.build is None:
        return Obstacle("the installed torch was built without CUDA", f"Run {INSTALL} in a fresh environment.")
    if cuda.driver is not None and cuda.driver[0] < cuda.build[0]:
        return Obstacle(
            f"the driver runs CUDA up to {dotted(cuda.driver)}, and torch was built for {dotted(cuda.build)}",
            f"Update the NVIDIA driver, or install a torch for CUDA {cuda.driver[0]}.",
        )
    if gpu.capability is not None and gpu.capability < CAPABILITY:
        return Obstacle(
            f"{gpu.name} has compute capability {dotted(gpu.capability)}, and training in bfloat16 needs"
            f" {dotted(CAPABILITY)} (RTX 30 and newer)",
            "",
        )
    if load_in == "fp32":
        return Obstacle("--load-in fp32 is not what its kernels are for", "Leave out --load-in.")
    if architecture is not None and architecture not in FAST:
        return Obstacle(f"it has no kernels for {architecture}", "")
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """``5.17.0.post1+cu130`` as (5, 17): what stands before the first part that is no number, without final zeros."""
    found: list[int] = []
    for part in version.split("+")[0].split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)
