"""The commands that install what a GPU needs. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from minisheep.doctor import packages
from minisheep.doctor.machine_facts import MachineFacts
from minisheep.machine import cuda_setup
from minisheep.machine.gpu import dotted
from minisheep.machine.installing import RequiredPackage


@dataclass(frozen=True, slots=True)
class Step:
    """One installation: a command and what it adds to the environment."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 3600.0
    """Its time limit; llama.cpp with CUDA takes many minutes on few cores."""


def prebuilt(machine: MachineFacts, python: str) -> Step | None:
    """llama.cpp with CUDA as a wheel: a minute in place of a build; None where none is for this driver and GPU."""
    kept = cuda_setup.kept_cuda(cuda_setup.installed_torch(), machine.driver_cuda, machine.capability)
    wheel = cuda_setup.prebuilt(machine.driver_cuda, machine.capability, kept)
    command = [python, "-m", "pip", "install", *packages.FORCED.split(), *wheel]
    return Step("llama.cpp with CUDA, prebuilt", command, seconds=900.0) if wheel else None


def llama(machine: MachineFacts, python: str, before: Mapping[str, str]) -> Step:
    """llama.cpp with CUDA, from its sources. `before` is the environment."""
    flags = f"{before.get('CMAKE_ARGS', '')} {packages.cuda_flags(dotted(machine.capability))}".strip()
    environment = {"CMAKE_ARGS": flags}
    if machine.nvcc is not None and not machine.nvcc.on_path:
        environment["CUDACXX"] = machine.nvcc.path
    command = [python, "-m", "pip", "install", *packages.FORCED.split(), cuda_setup.LLAMA]
    return Step("llama.cpp with CUDA", command, environment)


def unsloth(required: Sequence[RequiredPackage], python: str) -> Step:
    """The packages of the extra ``gpu``, in the versions that it names."""
    requested = [package.text for package in required if package.extra == "gpu"]
    return Step("Unsloth", [python, "-m", "pip", "install", *requested])


def pip_settings(wheels: str) -> dict[str, str]:
    """Variables that make every child's pip use this folder of wheels and no network; none without a folder."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels} if wheels else {}


def command_line(step: Step) -> str:
    """The step as a user would type it."""
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in step.environment.items())
    return f"{variables} {shlex.join(step.command)}".strip()
