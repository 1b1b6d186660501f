"""Python, driver, GPU, memory and disk: what the system tells, judged. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from minisheep.doctor import commands
from minisheep.doctor.commands import Place
from minisheep.doctor.machine import Machine
from minisheep.doctor.result import Result, fail, ok, skipped, warn
from minisheep.machine.gpu import Gpu, dotted, in_words

GIB = 2**30
LEAST_PYTHON = (3, 11)
UNSLOTH_CAPABILITY = (7, 0)
"""What Unsloth and current CUDA builds of PyTorch ask for at least (Volta)."""
BFLOAT16_CAPABILITY = (8, 0)
"""From here on (Ampere) tensor cores multiply bfloat16, as `plan.cards` and `trainers.precision` count."""
LEAST_VRAM, GOOD_VRAM = 1 * GIB, 4 * GIB
"""Free bytes: below the first even the demo does not fit beside CUDA's own context, below the second no 3B model."""
LEAST_RAM, GOOD_RAM = 2 * GIB, 4 * GIB
LEAST_DISK, GOOD_DISK = 1 * GIB, 20 * GIB
"""A 7B model has about 5 GB of GGUF and 15 GB of training weights."""
NO_GPU = "no NVIDIA GPU: runs use the processor"


def check(machine: Machine, place: Place) -> Iterator[Result]:
    yield python(machine)
    yield driver(machine, place)
    yield capability(machine)
    yield vram(machine)
    yield ram(machine)
    yield disk(machine)


def python(machine: Machine) -> Result:
    told = f"Python {'.'.join(map(str, machine.python))}, {machine.bits} bits, {machine.system}, {machine.processor}"
    told += f", {machine.cores} core{'' if machine.cores == 1 else 's'}"
    if machine.python < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return fail("python", f"{told}: too old", f"Install Python {least} or newer and minisheep in it.")
    if machine.bits < 64:
        return fail("python", f"{told}: PyTorch has no 32-bit builds", "Install a 64-bit Python and minisheep in it.")
    if machine.system != "Linux":
        return warn("python", f"{told}: only Linux is tested", "On Windows use WSL2: `wsl --install`.")
    return ok("python", told)


def driver(machine: Machine, place: Place) -> Result:
    if machine.has_gpu:
        cuda = f", CUDA up to {machine.driver_cuda}" if machine.driver_cuda else ""
        return ok("driver", f"NVIDIA {machine.driver or 'of a version that it does not tell'}{cuda}")
    if machine.driver:
        return warn("driver", f"NVIDIA {machine.driver} answers and shows no GPU", commands.driver(place))
    if machine.pci_gpus:
        return warn(
            "driver",
            "an NVIDIA GPU is in this machine, and no driver answers: runs use the processor",
            commands.driver(place),
        )
    return ok("driver", NO_GPU)


def capability(machine: Machine) -> Result:
    if not machine.has_gpu:
        return skipped("compute capability", NO_GPU)
    told = ", ".join(f"{gpu.name}: {dotted(gpu.capability) or 'not told'}" for gpu in machine.gpus)
    if machine.hidden is not None and machine.hidden.strip() in ("", "-1"):
        return fail(
            "compute capability",
            f"{told}, but CUDA_VISIBLE_DEVICES={machine.hidden!r} hides every GPU",
            "unset CUDA_VISIBLE_DEVICES",
        )
    known = [gpu.capability for gpu in machine.gpus if gpu.capability is not None]
    best = max(known, default=BFLOAT16_CAPABILITY)
    if best < UNSLOTH_CAPABILITY:
        return warn(
            "compute capability",
            f"{told}: below {dotted(UNSLOTH_CAPABILITY)}, which Unsloth and new builds of PyTorch ask for",
            "Infer on the GPU and train on the processor, or use a GPU from 2018 or later.",
        )
    if best < BFLOAT16_CAPABILITY:
        return warn(
            "compute capability",
            f"{told}: no bfloat16 in hardware, so training computes in float32",
            "Nothing to mend; `minisheep plan` counts with it.",
        )
    return ok("compute capability", told)


def vram(machine: Machine) -> Result:
    if not machine.has_gpu:
        return skipped("free VRAM", NO_GPU)
    gpu = max(machine.gpus, key=lambda gpu: gpu.free)
    told = f"{_gib(gpu.free)} of {_gib(gpu.total)} free on {gpu.name}"
    return _amount("free VRAM", told, gpu.free, LEAST_VRAM, GOOD_VRAM, _free_gpu(gpu))


def _free_gpu(gpu: Gpu) -> str:
    if gpu.total < GOOD_VRAM:
        return f'See what fits: minisheep plan --gpu "{gpu.name}".'
    if held := in_words(gpu.holders):
        return f"End what holds the rest: {held}."
    return "`nvidia-smi` lists who holds the rest: end those programs."


def ram(machine: Machine) -> Result:
    if machine.ram_free is None:
        return skipped("free RAM", "this system does not tell")
    total = "" if machine.ram_total is None else f" of {_gib(machine.ram_total)}"
    told = f"{_gib(machine.ram_free)}{total} free"
    return _amount(
        "free RAM", told, machine.ram_free, LEAST_RAM, GOOD_RAM, "Close programs; `minisheep plan` says more."
    )


def disk(machine: Machine) -> Result:
    if not machine.disks:
        return skipped("free disk", "this system does not tell")
    told = ", ".join(f"{_gib(free)} for {folder}" for folder, free in machine.disks.items())
    fix = "Free some space, or set MINISHEEP_CACHE to a folder on a larger disk and give --run one there."
    return _amount("free disk", told, min(machine.disks.values()), LEAST_DISK, GOOD_DISK, fix)


def _amount(name: str, told: str, free: int, least: int, good: int, fix: str) -> Result:
    if free < least:
        return fail(name, f"{told}: less than the smallest model needs ({_gib(least)})", fix, bytes=free)
    if free < good:
        return warn(name, f"{told}: enough for small models only", fix, bytes=free)
    return ok(name, told, bytes=free)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
