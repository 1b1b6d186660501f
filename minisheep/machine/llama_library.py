"""The one place where llama.cpp is loaded, and what this build of it can do with a GPU.

A build for CUDA finds CUDA's runtime where torch's packages keep it (`cuda_setup.preload`); a bare ``import llama_cpp``
would fail there, so nothing else in minisheep imports it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from minisheep.errors import MinisheepError
from minisheep.machine import cuda_setup
from minisheep.machine.gpu import Gpu


def load() -> Any:
    """The module `llama_cpp`. Only workers call this, and what reads a vocabulary.

    Raises `errors.MinisheepError` where its library cannot be loaded.
    """
    missing = cuda_setup.preload(cuda_setup.cuda_library())
    try:
        return importlib.import_module("llama_cpp")
    except (OSError, RuntimeError, ImportError) as error:
        reason = missing or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MinisheepError(
            f"llama.cpp cannot be loaded: {reason.rstrip('.')}.",
            "`minisheep doctor` has the command that installs one that fits this machine.",
        ) from error


@dataclass(frozen=True, slots=True)
class Offload:
    """Whether llama.cpp can use a GPU."""

    works: bool
    built: bool = False
    """Whether it was built for CUDA; such a build says no, too, where it finds no driver that it can use."""
    reason: str = ""
    """Its own words about what it did not find."""

    @property
    def fault(self) -> str:
        """Why not, as half a sentence."""
        if self.built:
            return f"this llama.cpp, built for CUDA, finds no GPU ({self.reason or 'it does not say why'})"
        return "this llama.cpp was built for processors only"


def offload_fault(gpu: Gpu | None, offload: Offload) -> str:
    """Why a run would leave this machine's GPU idle while it writes; empty where it will not. Pure."""
    if offload.works or gpu is None:
        return ""
    return f"{gpu.name} is here, but {offload.fault}: writing and judging would take many times as long without it."


OFFLOAD_FIX = (
    "`minisheep doctor` has the command that fixes it; --gpu-layers 0 writes and judges on the processor all the same."
)
