"""Facts about this machine that need no heavy library: Python, driver, GPUs, memory, disk, compilers. Only reads."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minisheep.machine import cpu
from minisheep.machine.cuda_setup import Compiler, find_compiler
from minisheep.machine.gpu import VISIBLE, Gpu, Nvml, selected
from minisheep.machine.system import free_ram, total_ram
from minisheep.models.cache import cache_root
from minisheep.run.files import nearest

NVIDIA = "0x10de"
"""NVIDIA's PCI vendor id."""
DISPLAY = "0x03"
"""PCI's class of displays; a GPU's sound device has another."""


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
    driver_cuda: tuple[int, int] | None = None
    """The newest CUDA that the driver supports."""
    gpus: tuple[Gpu, ...] = ()
    pci_gpus: int = 0
    """NVIDIA displays on the PCI bus, with or without a driver."""
    hidden: str | None = None
    """CUDA_VISIBLE_DEVICES, where it is set."""
    nvcc: Compiler | None = None
    """CUDA's compiler: the newest of PATH and NVIDIA's folders that the driver can run."""
    disks: Mapping[str, int] = field(default_factory=dict)
    """Free bytes by folder, which need not exist yet."""

    @property
    def has_gpu(self) -> bool:
        return bool(self.gpus)

    @property
    def capability(self) -> tuple[int, int] | None:
        """Compute capability of the GPU that a run uses."""
        used = selected(self.gpus, {} if self.hidden is None else {VISIBLE: self.hidden})
        return None if used is None else used.capability


def look(runs: Path = Path("runs")) -> MachineFacts:
    """This machine now. Raises nothing: facts that cannot be read are left out."""
    with Nvml() as nvml:
        driver, cuda, gpus = nvml.driver(), nvml.cuda(), tuple(nvml.gpus())
    return MachineFacts(
        python=sys.version_info[:2], bits=struct.calcsize("P") * 8, system=platform.system(),
        processor=cpu.name(cpu.cpuinfo()) or platform.machine(), cores=cpu.cores(), ram_free=free_ram(),
        ram_total=total_ram(), driver=driver, driver_cuda=cuda, gpus=gpus, pci_gpus=pci_gpus(),
        hidden=os.environ.get(VISIBLE), nvcc=find_compiler(cuda), disks=free_disks((cache_root(), runs.absolute())),
    )  # fmt: skip


def pci_gpus(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """The number of NVIDIA displays on the PCI bus."""
    count = 0
    for device in devices.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        count += vendor == NVIDIA and kind.startswith(DISPLAY)
    return count


def free_disks(folders: Sequence[Path]) -> dict[str, int]:
    """Free bytes of each folder's disk, by the nearest existing parent; only the first folder on each disk."""
    disks: dict[int, tuple[str, int]] = {}
    for folder in folders:
        existing = nearest(folder)
        try:
            disks.setdefault(existing.stat().st_dev, (str(folder), shutil.disk_usage(existing).free))
        except OSError:
            continue
    return dict(disks.values())
