"""Whether what minisheep asks for is installed, in the versions that work together; nothing is imported for it."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisheep.doctor.check_result import CheckResult, fail, ok, skipped, warn

# The commands that mend what the doctor finds, for the platform that it runs on. Pure but for `here`.
LLAMA = "llama-cpp-python==0.3.36"
"""As pinned in pyproject.toml: the layout of llama.cpp's structs changes between patch releases."""
NVCC = "/usr/local/cuda/bin/nvcc"
"""Where NVIDIA's installer puts the compiler, without putting it on PATH."""
_FORCED = "--no-cache-dir --force-reinstall --no-deps"
"""pip would keep, or take from its cache, the build that is to be replaced."""


@dataclass(frozen=True, slots=True)
class Place:
    """What decides how something is installed."""

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
    """The line that builds llama.cpp for this machine's GPU (Metal on a Mac).

    `capability` such as ``8.6`` builds for that GPU alone, even where the build cannot see it; without one the
    compiler asks the GPU that is there. `compiler` is the path of nvcc.
    """
    install = pip(place, f"{_FORCED} {LLAMA}")
    if place.system == "Darwin":
        return f'CMAKE_ARGS="-DGGML_METAL=on" {install}'
    outside = f"CUDACXX={NVCC} " if compiler == NVCC else ""
    return f'{outside}CMAKE_ARGS="{cuda_flags(capability)}" {install}'


def cuda_flags(capability: str = "") -> str:
    """CMake's flags for llama.cpp with CUDA; the multimodal half of llama.cpp, which is not used, is left out."""
    only = f" -DCMAKE_CUDA_ARCHITECTURES={capability.replace('.', '')}" if capability else ""
    return f"-DGGML_CUDA=on -DGGML_NATIVE=on -DLLAVA_BUILD=OFF{only}"


def toolkit(place: Place) -> str:
    """What to do first where CUDA's compiler is missing."""
    if place.wsl:
        return "install the CUDA toolkit for WSL (the toolkit alone: the driver is Windows') so that `nvcc` is on PATH"
    return "install the CUDA toolkit so that `nvcc` is on PATH (Debian, Ubuntu: `apt install nvidia-cuda-toolkit`)"


def mend_llama(place: Place, *, compiler: str, capability: str = "") -> str:
    """How a llama.cpp without CUDA becomes one with it; `compiler` is the path of nvcc, empty where it is missing."""
    build = build_llama(place, capability, compiler)
    return build if compiler or place.system == "Darwin" else f"First {toolkit(place)}; then: {build}"


def cuda_torch(place: Place) -> str:
    """PyTorch as its index ships it, on Linux with CUDA; pip would keep a CPU build (``+cpu``) that is there."""
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
    """What the installed minisheep asks for; empty where it runs without having been installed."""
    try:
        lines = importlib.metadata.requires("minisheep") or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    return [wanted(line) for line in lines]


def wanted(line: str) -> RequiredPackage:
    """A line of Requires-Dist, such as ``trl<1.16,>=1.10; extra == 'gpu'``."""
    from packaging.requirements import Requirement

    found = Requirement(line)
    extra = str(found.marker).partition("extra ==")[2].strip(" \"'") if found.marker else ""
    extras = f"[{','.join(sorted(found.extras))}]" if found.extras else ""
    return RequiredPackage(f"{found.name}{extras}{found.specifier}", found.name, extra)


def misfits(asked: Sequence[RequiredPackage], version: Version) -> list[tuple[RequiredPackage, str]]:
    """Those that are missing or of another version, each with what is wrong."""
    from packaging.requirements import Requirement

    found = []
    for want in asked:
        have = version(want.name)
        if have is None:
            found.append((want, f"{want.name} is missing"))
        elif not Requirement(want.text).specifier.contains(have, prereleases=True):
            found.append((want, f"{want.name} {have} is not {want.text.removeprefix(want.name)}"))
    return found


def check_packages(asked: Sequence[RequiredPackage], version: Version, place: Place) -> CheckResult:
    """The packages that every run needs."""
    own = [want for want in asked if not want.extra]
    if not own:
        return warn("packages", "minisheep runs without being installed", pip(place, "-e . in its folder"))
    wrong = misfits(own, version)
    if wrong:
        told = "; ".join(what for _, what in wrong)
        return fail("packages", told, pip(place, " ".join(f'"{want.text}"' for want, _ in wrong)))
    return ok("packages", f"all {len(own)} are installed, in versions that minisheep is made for")


def check_unsloth_set(
    asked: Sequence[RequiredPackage], version: Version, place: Place, *, has_gpu: bool
) -> CheckResult:
    """Unsloth with those versions of torch, transformers, trl and datasets that it asks for itself."""
    gpu = [want for want in asked if want.extra == "gpu"]
    fix = pip(place, " ".join(f'"{want.text}"' for want in gpu) or "unsloth")
    have = version("unsloth")
    if have is None:
        if not has_gpu:
            return skipped("unsloth versions", "Unsloth is not installed, and without a GPU it is not needed")
        return skipped("unsloth versions", "Unsloth is not installed: training uses PEFT, which works too", fix)
    wrong = [what for _, what in misfits(gpu, version)]
    wrong += [f"Unsloth asks for {want.text}: {what}" for want, what in misfits(of_unsloth(), version)]
    if wrong:
        return warn("unsloth versions", f"Unsloth {have}: {'; '.join(wrong)}", fix)
    return ok("unsloth versions", f"Unsloth {have}, with the versions that it asks for")


def of_unsloth() -> list[RequiredPackage]:
    """What the installed Unsloth asks of the packages that minisheep uses too."""
    from packaging.requirements import Requirement

    found = []
    for package in ("unsloth", "unsloth_zoo"):
        try:
            lines = importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in lines:
            required = Requirement(line)
            if required.name in SHARED and (required.marker is None or required.marker.evaluate({"extra": ""})):
                found.append(wanted(line))
    return found


SHARED = frozenset({"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes"})
"""The packages whose versions break Unsloth most easily."""
