"""Checks the versions of installed packages without importing them, and words the commands that install others."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisheep.doctor.check_result import CheckResult, fail, ok, skipped, warn
from minisheep.machine import cuda_setup, installing
from minisheep.machine.cuda_setup import LLAMA, Compiler, InstalledTorch, Version, installed_torch
from minisheep.machine.gpu import dotted
from minisheep.machine.installing import RequiredPackage, parse_requirement, pip_install, requires

PREBUILT = ("Linux", "x86_64")
"""The platform that llama.cpp is prebuilt for with CUDA."""

FORCED = "--no-cache-dir --force-reinstall --no-deps"
"""Otherwise pip keeps the old build, or takes it from its cache."""


@dataclass(frozen=True, slots=True)
class Place:
    """The platform, which decides how something is installed."""

    system: str = "Linux"
    """As `platform.system` calls it."""
    machine: str = "x86_64"
    wsl: bool = False
    python: str = "python3"
    torch: InstalledTorch | None = None


def here() -> Place:
    release = platform.release().lower()
    return Place(platform.system(), platform.machine(), "microsoft" in release, installing.here(), installed_torch())


def pip(place: Place, what: str) -> str:
    return pip_install(what, place.python)


def build_llama(place: Place, capability: str = "", compiler: Compiler | None = None) -> str:
    """The command that builds llama.cpp for this machine's GPU (Metal on a Mac).

    `capability` such as ``8.6`` builds for that GPU alone, even where the build cannot see it; without it the compiler
    asks the GPU. A `compiler` that is not on PATH is named.
    """
    install = pip(place, f"{FORCED} {LLAMA}")
    if place.system == "Darwin":
        return f'CMAKE_ARGS="-DGGML_METAL=on" {install}'
    outside = f"CUDACXX={shlex.quote(compiler.path)} " if compiler is not None and not compiler.on_path else ""
    return f'{outside}CMAKE_ARGS="{cuda_flags(capability)}" {install}'


def cuda_flags(capability: str = "") -> str:
    """CMake's flags for llama.cpp with CUDA and without its multimodal half, which is not used."""
    only = f" -DCMAKE_CUDA_ARCHITECTURES={capability.replace('.', '')}" if capability else ""
    return f"-DGGML_CUDA=on -DGGML_NATIVE=on -DLLAVA_BUILD=OFF{only}"


def toolkit(place: Place, capability: Version | None = None, driver: Version | None = None) -> str:
    """The first step where CUDA's compiler is missing or does not fit."""
    least = f"{dotted(cuda_setup.least_toolkit(capability))} or newer"
    if driver is not None:
        least += f", of CUDA {driver[0]} at most"
    where = "https://developer.nvidia.com/cuda-downloads"
    if place.wsl:
        return f"install CUDA's toolkit for WSL, {least} ({where}; the toolkit alone: the driver is Windows')"
    return f"install CUDA's toolkit, {least} ({where}; Ubuntu 22.04's own nvidia-cuda-toolkit is 11.5 and too old)"


def mend_llama(
    place: Place, compiler: Compiler | None = None, capability: Version | None = None, driver: Version | None = None
) -> str:
    """The command that replaces a llama.cpp without CUDA: by a prebuilt one where there is one for the `driver`'s CUDA,
    else by a build, which takes 10 to 30 minutes and a `compiler` that can do it."""
    build = build_llama(place, dotted(capability), compiler)
    if place.system == "Darwin":
        return build
    kept = cuda_setup.kept_cuda(place.torch, driver, capability)
    wheel = cuda_setup.prebuilt(driver, capability, kept) if (place.system, place.machine) == PREBUILT else []
    fault = cuda_setup.compiler_fault(compiler.version, capability, driver) if compiler is not None else "it is missing"
    if wheel:
        prebuilt = pip(place, f"{FORCED} {shlex.join(wheel)}")
        if not fault:
            return f"{prebuilt} || {build}"
        return f"{prebuilt} (or, to build it, {toolkit(place, capability, driver)})"
    if not fault:
        return build
    because = f" ({fault})" if compiler is not None else ""
    return f"First {toolkit(place, capability, driver)}{because}; then: {build}"


def cuda_torch(place: Place, driver: Version | None = None, capability: Version | None = None) -> str:
    """Reinstalls PyTorch from its index, on Linux with CUDA.

    Within the bounds of the extra `gpu`, which a bare ``torch`` would leave, and of the CUDA that driver and GPU run.
    """
    return installing.other_torch(cuda_setup.torch_for(driver, capability), place.python)


def driver(place: Place) -> str:
    if place.wsl:
        return "Install NVIDIA's driver in Windows, then run `wsl --update`; none is installed inside WSL."
    return (
        "Install NVIDIA's driver (Debian: `apt install nvidia-driver`, Ubuntu: `ubuntu-drivers install`) and restart;"
        " in a container, start it with --gpus all."
    )


Installed = Callable[[str], str | None]
"""The installed version of a distribution, or None."""


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def misfits(required: Sequence[RequiredPackage], version: Installed) -> list[tuple[RequiredPackage, str]]:
    """The packages that are missing or have another version, each with the fault in words."""
    from packaging.requirements import Requirement

    faults = []
    for package in required:
        installed = version(package.name)
        if installed is None:
            faults.append((package, f"{package.name} is missing"))
        elif not Requirement(package.text).specifier.contains(installed, prereleases=True):
            faults.append((package, f"{package.name} {installed} is not {package.text.removeprefix(package.name)}"))
    return faults


def check_packages(required: Sequence[RequiredPackage], version: Installed, place: Place) -> CheckResult:
    own = [package for package in required if not package.extra]
    if not own:
        return warn(
            "packages",
            "minisheep is not installed, so its packages cannot be checked",
            pip(place, f'-e "{installing.PROJECT}"'),
        )
    wrong = misfits(own, version)
    if wrong:
        text = "; ".join(fault for _, fault in wrong)
        return fail("packages", text, pip(place, " ".join(f'"{package.text}"' for package, _ in wrong)))
    return ok("packages", f"all {len(own)} are installed in the required versions")


def check_unsloth_set(
    required: Sequence[RequiredPackage], version: Installed, place: Place, *, has_gpu: bool
) -> CheckResult:
    """Unsloth, and the versions of torch, transformers, trl and datasets that it requires."""
    gpu = [package for package in required if package.extra == "gpu"]
    fix = pip(place, " ".join(f'"{package.text}"' for package in gpu) or "unsloth")
    installed = version("unsloth")
    if installed is None:
        if not has_gpu:
            return skipped("unsloth versions", "Unsloth is not installed, and not needed without a GPU")
        return skipped("unsloth versions", "Unsloth is not installed: training uses PEFT, which works too", fix)
    wrong = [fault for _, fault in misfits(gpu, version)]
    wrong += [f"Unsloth requires {package.text}: {fault}" for package, fault in misfits(of_unsloth(), version)]
    if wrong:
        return warn("unsloth versions", f"Unsloth {installed}: {'; '.join(wrong)}", fix)
    return ok("unsloth versions", f"Unsloth {installed}, with the versions that it requires")


def of_unsloth() -> list[RequiredPackage]:
    """The installed Unsloth's requirements on packages that minisheep uses too."""
    from packaging.requirements import Requirement

    packages = []
    for line in (*requires("unsloth"), *requires("unsloth_zoo")):
        required = Requirement(line)
        if required.name in SHARED and (required.marker is None or required.marker.evaluate({"extra": ""})):
            packages.append(parse_requirement(line))
    return packages


SHARED = frozenset({"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes"})
"""The packages whose versions break Unsloth most easily."""
