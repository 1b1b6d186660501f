"""Memory of the computer and of its GPUs, and the versions of installed packages."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from minisheep.machine.cgroup import CGROUP, PROC, memory
from minisheep.machine.gpu import Gpu, Nvml

READ_SECONDS = 2.0
"""How often a `Gauge` reads the machine."""


@dataclass(frozen=True, slots=True)
class MachineLoad:
    ram_used: int | None = None
    """Bytes in use by anything; None where the system gives no figure."""
    ram_total: int | None = None
    """Bytes, within the limits of the container or the batch job if there are any."""
    gpus: tuple[Gpu, ...] = ()


class Gauge:
    """Reads the machine at most once in `READ_SECONDS`. `close` releases the driver."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._nvml = Nvml()
        self._read = float("-inf")
        self._load = MachineLoad()

    def read(self) -> MachineLoad:
        now = self._clock()
        if now - self._read >= READ_SECONDS:
            self._read = now
            total, free = total_ram(), free_ram()
            used = None if total is None or free is None else max(0, total - free)
            self._load = MachineLoad(used, total, tuple(self._nvml.gpus()))
        return self._load

    def close(self) -> None:
        self._nvml.close()


def total_ram(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Bytes of RAM, within the limits of the container or the batch job if there are any."""
    total = _meminfo(proc, "MemTotal")
    return None if total is None else min([total, *(limit for limit, _ in memory(proc, cgroup))])


def free_ram(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Bytes of RAM that can be had without swapping, within the limits of the container or the batch job."""
    free = _meminfo(proc, "MemAvailable")
    return None if free is None else max(0, min([free, *(limit - used for limit, used in memory(proc, cgroup))]))


def _meminfo(proc: Path, name: str) -> int | None:
    """Bytes."""
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
        return int(lines[name].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python and of those `packages` that are installed, by their metadata: nothing is imported for it."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
