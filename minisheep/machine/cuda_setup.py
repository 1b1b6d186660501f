"""What CUDA there is to build or run llama.cpp with: compilers, prebuilt wheels, and the runtime's libraries.

Standard library alone: ``python -m minisheep.machine.cuda_setup``, which prints what pip is to install for the NVIDIA
driver, and the torch, that are here, runs before anything is installed (`make setup`).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minisheep.machine.gpu import dotted

Version = tuple[int, int]

LLAMA = "llama-cpp-python==0.3.36"
"""As pinned in pyproject.toml: the layout of llama.cpp's structs changes between patch releases."""
INDEX = "https://abetlen.github.io/llama-cpp-python/whl"
WHEELS: tuple[tuple[Version, Version], ...] = (
    ((13, 2), (7, 5)), ((13, 0), (7, 5)),
    ((12, 5), (6, 0)), ((12, 4), (6, 0)), ((12, 3), (6, 0)), ((12, 2), (6, 0)), ((12, 1), (6, 0)),
)  # fmt: skip
"""The CUDA of each prebuilt wheel and its least compute capability, newest first (README of llama-cpp-python). Not the
one for 11.8: no torch of `torch_for` brings the libraries of CUDA 11."""
TORCH = "torch>=2.6,<2.15"
"""As in pyproject.toml's extra `gpu`: what Unsloth works with. A bare torch would be newer."""
OLD_TORCH = "torch>=2.6,<2.11"
"""The last that PyPI has for CUDA 12; later ones are for CUDA 13 and want driver 580."""
PASCAL_TORCH = "torch>=2.6,<2.8"
"""The last that PyPI has for CUDA 12.6."""
CUDA_13_CAPABILITY = (7, 5)
"""The least for which CUDA 13 builds (Turing)."""
LEAST_CAPABILITY: tuple[tuple[Version, Version], ...] = (((13, 0), CUDA_13_CAPABILITY), ((12, 8), (7, 0)))
"""From which CUDA on torch has kernels for which compute capability only (PyTorch's notes on release 2.8: no Maxwell
and no Pascal from 12.8 on)."""
LEAST_TOOLKIT: tuple[tuple[Version, Version], ...] = (((10, 0), (12, 8)), ((8, 9), (11, 8)), ((0, 0), (11, 7)))
"""From which compute capability on which toolkit is needed to build llama.cpp."""
FOLDERS = Path("/usr/local")
"""NVIDIA's installers put a toolkit into ``cuda-VERSION`` here, but not on PATH."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """An nvcc."""

    path: str
    version: Version | None
    """None where it does not say."""
    on_path: bool
    """Whether a build finds it by itself."""


def find_compiler(driver: Version | None = None, folders: Path = FOLDERS) -> Compiler | None:
    """The newest nvcc of PATH and `folders` whose programs the driver runs, else the newest; None where there is none.

    The first on PATH is often a distribution's: Ubuntu 22.04 has 11.5, which cannot build llama.cpp.
    """
    first = shutil.which("nvcc")
    paths = [first] if first else []
    paths += [str(path) for path in sorted(folders.glob("cuda*/bin/nvcc")) if os.access(path, os.X_OK)]
    found: dict[str, Compiler] = {}
    for path in paths:
        found.setdefault(os.path.realpath(path), Compiler(path, _version_of(path), path == first))
    return newest(list(found.values()), driver)


def newest(found: Sequence[Compiler], driver: Version | None) -> Compiler | None:
    """The choice of `find_compiler`. Pure."""

    def rank(compiler: Compiler) -> tuple[bool, Version, bool]:
        version = compiler.version or (0, 0)
        return driver is None or version[0] <= driver[0], version, compiler.on_path

    return max(found, key=rank, default=None)


def compiler_fault(version: Version | None, capability: Version | None, driver: Version | None) -> str:
    """Why an nvcc of this version cannot build llama.cpp for a GPU, as half a sentence; empty where it can. Pure."""
    least = least_toolkit(capability)
    if version is None:
        return ""  # it may do
    if version < least:
        return f"nvcc is {dotted(version)}, and this GPU needs {dotted(least)} or newer"
    if driver is not None and version[0] > driver[0]:
        return f"nvcc is {dotted(version)}, and the driver runs CUDA up to {dotted(driver)}"
    if capability is not None and version >= (13, 0) and capability < CUDA_13_CAPABILITY:
        return f"nvcc is {dotted(version)}, and builds for compute capability {dotted(CUDA_13_CAPABILITY)} or newer"
    return ""


def least_toolkit(capability: Version | None) -> Version:
    """The oldest CUDA toolkit that builds llama.cpp for a GPU. Pure."""
    return next(toolkit for since, toolkit in LEAST_TOOLKIT if (capability or (0, 0)) >= since)


@dataclass(frozen=True, slots=True)
class InstalledTorch:
    version: Version
    build: Version | None
    """The CUDA that it was built for; None for a build for processors."""


def installed_torch() -> InstalledTorch | None:
    """The torch of this environment by its version.py, since torch itself takes seconds to import."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        return torch_in(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def torch_in(text: str) -> InstalledTorch:
    """What torch's version.py says (``__version__ = '2.11.0+cu128'``, ``cuda: Optional[str] = '12.8'``)."""
    version, build = (
        re.search(rf"^{name}\b[^=\n]*= *['\"](\d+)\.(\d+)", text, re.MULTILINE) for name in ("__version__", "cuda")
    )
    return InstalledTorch(
        (int(version[1]), int(version[2])) if version else (0, 0), (int(build[1]), int(build[2])) if build else None
    )


def kept_cuda(torch: InstalledTorch | None, driver: Version | None, capability: Version | None) -> Version | None:
    """The CUDA of an installed torch that can stay, as on machines that are lent with one: of a version within `TORCH`,
    built for what driver and GPU run. None where another torch is to be installed. Pure."""
    if torch is None or torch.build is None or driver is None:
        return None
    first, beyond = (tuple(map(int, found)) for found in re.findall(r"(\d+)\.(\d+)", TORCH))
    runs = torch.build[0] <= driver[0] and (capability is None or capability >= least_capability(torch.build))
    return torch.build if runs and first <= torch.version < beyond else None


def wheel_index(driver: Version | None, capability: Version | None = None, kept: Version | None = None) -> str:
    """The package index with llama.cpp prebuilt for the newest CUDA that driver and GPU run, of the major version of
    `kept_cuda` and not newer, since the wheel takes its libraries from torch; empty for none. Pure."""
    for cuda, least in WHEELS:
        suits = kept is None or (cuda[0] == kept[0] and cuda <= kept)
        if suits and driver is not None and cuda <= driver and (capability is None or capability >= least):
            return f"{INDEX}/cu{cuda[0]}{cuda[1]}"
    return ""


def prebuilt(driver: Version | None, capability: Version | None = None, kept: Version | None = None) -> list[str]:
    """pip's arguments that install a prebuilt llama.cpp with CUDA; empty where there is none. Pure."""
    index = wheel_index(driver, capability, kept)
    return ["--only-binary", "llama-cpp-python", "--extra-index-url", index, LLAMA] if index else []


def packages_for(
    driver: Version | None, capability: Version | None = None, torch: InstalledTorch | None = None
) -> list[str]:
    """`prebuilt`, and a torch whose CUDA the driver runs unless one is installed; empty where there is no such wheel.
    Pure.

    The torch brings the CUDA libraries that the wheel needs (`preload`), so both are of the same major version.
    """
    kept = kept_cuda(torch, driver, capability)
    llama = prebuilt(driver, capability, kept)
    return [*llama, *([] if kept else [torch_for(driver, capability)])] if llama else []


def torch_for(driver: Version | None, capability: Version | None = None) -> str:
    """The torch whose CUDA driver and GPU run; of an unknown driver, a new one is assumed. Pure."""
    if capability is not None and capability < least_capability((12, 8)):
        return PASCAL_TORCH
    old_gpu = capability is not None and capability < CUDA_13_CAPABILITY
    return OLD_TORCH if old_gpu or (driver is not None and driver < (13, 0)) else TORCH


def least_capability(build: Version) -> Version:
    """The least compute capability that a torch built for this CUDA computes on. Pure."""
    return next((capability for since, capability in LEAST_CAPABILITY if build >= since), (0, 0))


def capability_in(text: str) -> Version | None:
    """The compute capability of the GPU that a run takes (`gpu.best`), from ``memory.total, compute_cap`` of each."""
    found = re.findall(r"^(\d+), (\d+)\.(\d+)\s*$", text, re.MULTILINE)
    return max(((int(memory), (int(major), int(minor))) for memory, major, minor in found), default=(0, None))[1]


def driver_in(text: str) -> Version | None:
    """The newest CUDA of the driver, as nvidia-smi's table names it (``CUDA Version: 13.0``)."""
    match = re.search(r"CUDA(?: UMD)? Version *: *(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _version_of(path: str) -> Version | None:
    """What an nvcc says of itself (``release 12.8, V12.8.93``)."""
    said = _output([path, "--version"])
    match = re.search(r"release (\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else None


def _output(command: list[str]) -> str:
    """What a program prints; empty where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


# The runtime's libraries. A prebuilt llama.cpp is linked with libcudart and libcublas and does not bring them; torch's
# packages do, in folders where the system's loader does not look.
_MISSING = re.compile(r"(lib[\w+-]+\.so[\w.]*): cannot open shared object file")
MOST_LIBRARIES = 16


def cuda_library() -> Path | None:
    """llama.cpp's half for CUDA, None in a build for processors. Loads nothing."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("lib") / "libggml-cuda.so"
    return path if path.is_file() else None


def preload(
    library: Path | None,
    folders: Callable[[], Iterator[Path]] | None = None,
    load: Callable[[str], object] = lambda path: ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL),
) -> str:
    """Load what `library` needs from torch's packages, so that it can be loaded afterwards.

    Nothing happens where it is None or loads as it is. Returns the loader's complaint where something is still missing:
    libcuda.so.1, for instance, comes with the driver alone.
    """
    if library is None:
        return ""
    wanted = [str(library)]
    for _ in range(MOST_LIBRARIES):
        try:
            load(wanted[-1])
        except OSError as error:
            match = _MISSING.search(str(error))
            found = _within((folders or _cuda_folders)(), match[1]) if match else None
            if found is None or str(found) in wanted:
                return str(error)
            wanted.append(str(found))
        else:
            wanted.pop()
            if not wanted:
                return ""
    return f"{library.name} needs more libraries than there can be"


def _cuda_folders() -> Iterator[Path]:
    """``nvidia/cu13/lib``, ``nvidia/cublas/lib`` and the like of this environment."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield from sorted(Path(place).glob("*/lib"))


def _within(folders: Iterator[Path], name: str) -> Path | None:
    return next((path for folder in folders if (path := folder / name).is_file()), None)


if __name__ == "__main__":
    cards = _output(["nvidia-smi", "--query-gpu=memory.total,compute_cap", "--format=csv,noheader,nounits"])
    asked = packages_for(driver_in(_output(["nvidia-smi"])), capability_in(cards), installed_torch())
    sys.stdout.write(shlex.join(asked) + "\n")
