"""What the system tells of itself without loading anything: Python, driver, GPUs, memory, disk, compilers."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minisheep.doctor.packages import NVCC
from minisheep.machine import cpu
from minisheep.machine.gpu import Gpu, Nvml, dotted
from minisheep.machine.system import free_ram, total_ram
from minisheep.models.cache import cache_root

NVIDIA = "0x10de"
"""NVIDIA's PCI vendor id."""
DISPLAY = "0x03"
"""PCI's class of displays; a GPU's own sound device has another."""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    python: tuple[int, int]
    bits: int
    system: str
    processor: str
    cores: int
    ram_free: int | None = None
    ram_total: int | None = None
    driver: str = ""
    """NVIDIA's driver version; empty where none answers."""
    driver_cuda: str = ""
    """The newest CUDA that the driver runs, such as ``13.0``."""
    gpus: tuple[Gpu, ...] = ()
    pci_gpus: int = 0
    """NVIDIA displays on the PCI bus, whether or not a driver answers."""
    hidden: str | None = None
    """CUDA_VISIBLE_DEVICES, where it is set."""
    nvcc: str = ""
    """CUDA's compiler, on PATH or where its installer puts it; empty where it is in neither."""
    disks: Mapping[str, int] = field(default_factory=dict)
    """Free bytes by folder; the folder need not exist yet."""

    @property
    def has_gpu(self) -> bool:
        return bool(self.gpus)

    @property
    def capability(self) -> str:
        """Of the first GPU, as the build wants to know it."""
        return dotted(self.gpus[0].capability) if self.gpus else ""


def look(runs: Path = Path("runs")) -> MachineFacts:
    """This machine, now. Raises nothing: what cannot be read is left out."""
    with Nvml() as nvml:
        driver, cuda, gpus = nvml.driver(), dotted(nvml.cuda()), tuple(nvml.gpus())
    return MachineFacts(
        python=sys.version_info[:2],
        bits=struct.calcsize("P") * 8,
        system=platform.system(),
        processor=cpu.name(cpu.cpuinfo()) or platform.machine(),
        cores=cpu.cores(),
        ram_free=free_ram(),
        ram_total=total_ram(),
        driver=driver,
        driver_cuda=cuda,
        gpus=gpus,
        pci_gpus=pci_gpus(),
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
        nvcc=shutil.which("nvcc") or (NVCC if os.access(NVCC, os.X_OK) else ""),
        disks=free_disks((cache_root(), runs.absolute())),
    )


def pci_gpus(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """NVIDIA displays on the PCI bus, by the system's own list; 0 where it has none."""
    found = 0
    for device in devices.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        found += vendor == NVIDIA and kind.startswith(DISPLAY)
    return found


def free_disks(folders: Sequence[Path]) -> dict[str, int]:
    """Free bytes for each folder, asked of the nearest one above it that exists; only one of those on one disk."""
    found: dict[int, tuple[str, int]] = {}
    for folder in folders:
        there = next((path for path in (folder, *folder.parents) if path.exists()), None)
        if there is None:
            continue
        try:
            found.setdefault(there.stat().st_dev, (str(folder), shutil.disk_usage(there).free))
        except OSError:
            continue
    return dict(found.values())
