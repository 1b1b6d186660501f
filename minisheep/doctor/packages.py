"""Checks the versions of installed packages without importing them, and words the commands that install others."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisheep.doctor.check_result import CheckResult, fail, ok, skipped, warn

LLAMA = "llama-cpp-python==0.3.36"
"""As pinned in pyproject.toml: the layout of llama.cpp's structs changes between patch releases."""
NVCC = "/usr/local/cuda/bin/nvcc"
"""NVIDIA's installer puts the compiler here, but not on PATH."""
_FORCED = "--no-cache-dir --force-reinstall --no-deps"
"""Otherwise pip keeps the old build, or takes it from its cache."""


@dataclass(frozen=True, slots=True)
class Place:
    """The platform, which decides how something is installed."""

    system: str = "Linux"
    """As `platform.system` calls it."""
    machine: str = "x86_64"
    wsl: bool = False
    python: str = "python3"


def here() -> Place:
    release = platform.release().lower()
    return Place(platform.system(), platform.machine(), "microsoft" in release, sys.executable)


def pip(place: Place, what: str) -> str:
    return f"{shlex.quote(place.python)} -m pip install {what}"


def build_llama(place: Place, capability: str = "", compiler: str = "") -> str:
    """The command that builds llama.cpp for this machine's GPU (Metal on a Mac).

    `capability` such as ``8.6`` builds for that GPU alone, even where the build cannot see it; without it the compiler
    asks the GPU. `compiler` is the path of nvcc.
    """
    install = pip(place, f"{_FORCED} {LLAMA}")
    if place.system == "Darwin":
        return f'CMAKE_ARGS="-DGGML_METAL=on" {install}'
    outside = f"CUDACXX={NVCC} " if compiler == NVCC else ""
    return f'{outside}CMAKE_ARGS="{cuda_flags(capability)}" {install}'


def cuda_flags(capability: str = "") -> str:
    """CMake's flags for llama.cpp with CUDA and without its multimodal half, which is not used."""
    only = f" -DCMAKE_CUDA_ARCHITECTURES={capability.replace('.', '')}" if capability else ""
    return f"-DGGML_CUDA=on -DGGML_NATIVE=on -DLLAVA_BUILD=OFF{only}"


def toolkit(place: Place) -> str:
    """The first step where CUDA's compiler is missing."""
    if place.wsl:
        return "install the CUDA toolkit for WSL (the toolkit alone: the driver is Windows') so that `nvcc` is on PATH"
    return "install the CUDA toolkit so that `nvcc` is on PATH (Debian, Ubuntu: `apt install nvidia-cuda-toolkit`)"


def mend_llama(place: Place, *, compiler: str, capability: str = "") -> str:
    """The command that replaces a llama.cpp without CUDA; `compiler` is the path of nvcc, empty where it is missing."""
    build = build_llama(place, capability, compiler)
    return build if compiler or place.system == "Darwin" else f"First {toolkit(place)}; then: {build}"


def cuda_torch(place: Place) -> str:
    """Reinstalls PyTorch from its index, on Linux with CUDA; pip alone would keep an installed CPU build (``+cpu``)."""
    return f"{shlex.quote(place.python)} -m pip uninstall --yes torch && {pip(place, 'torch')}"


def driver(place: Place) -> str:
    if place.wsl:
        return "Install NVIDIA's driver in Windows, then run `wsl --update`; none is installed inside WSL."
    return (
        "Install NVIDIA's driver (Debian: `apt install nvidia-driver`, Ubuntu: `ubuntu-drivers install`) and restart;"
        " in a container, start it with --gpus all."
    )


Version = Callable[[str], str | None]
"""The installed version of a distribution, or None."""


@dataclass(frozen=True, slots=True)
class RequiredPackage:
    """One requirement of minisheep: of itself, or of one of its extras."""

    text: str
    """As pip takes it, without markers: ``trl<1.16,>=1.10``."""
    name: str
    extra: str = ""


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> list[RequiredPackage]:
    """What the installed minisheep requires; empty where it is not installed."""
    return [parse_requirement(line) for line in _requires("minisheep")]


def _requires(package: str) -> list[str]:
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def parse_requirement(line: str) -> RequiredPackage:
    """A line of Requires-Dist, such as ``trl<1.16,>=1.10; extra == 'gpu'``."""
    from packaging.requirements import Requirement

    parsed = Requirement(line)
    extra = str(parsed.marker).partition("extra ==")[2].strip(" \"'") if parsed.marker else ""
    extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
    return RequiredPackage(f"{parsed.name}{extras}{parsed.specifier}", parsed.name, extra)


def misfits(required: Sequence[RequiredPackage], version: Version) -> list[tuple[RequiredPackage, str]]:
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


def check_packages(required: Sequence[RequiredPackage], version: Version, place: Place) -> CheckResult:
    """The packages that every run needs."""
    own = [package for package in required if not package.extra]
    if not own:
        return warn(
            "packages",
            "minisheep is not installed, so its packages cannot be checked",
            pip(place, "-e . in its folder"),
        )
    wrong = misfits(own, version)
    if wrong:
        text = "; ".join(fault for _, fault in wrong)
        return fail("packages", text, pip(place, " ".join(f'"{package.text}"' for package, _ in wrong)))
    return ok("packages", f"all {len(own)} are installed in the required versions")


def check_unsloth_set(
    required: Sequence[RequiredPackage], version: Version, place: Place, *, has_gpu: bool
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
    for line in (*_requires("unsloth"), *_requires("unsloth_zoo")):
        required = Requirement(line)
        if required.name in SHARED and (required.marker is None or required.marker.evaluate({"extra": ""})):
            packages.append(parse_requirement(line))
    return packages


SHARED = frozenset({"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes"})
"""The packages whose versions break Unsloth most easily."""
