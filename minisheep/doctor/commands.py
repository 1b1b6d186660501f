"""The commands that mend what the doctor finds, for the platform that it runs on. Pure but for `here`."""

from __future__ import annotations

import platform
import shlex
import sys
from dataclasses import dataclass

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
