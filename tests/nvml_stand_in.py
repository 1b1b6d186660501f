"""A stand-in for `pynvml` (nvidia-ml-py): a driver with GPUs that are made up, and that can fail at any call."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

GIB = 2**30


class NVMLError(Exception):
    """In the place of pynvml's."""


class Nvml(ModuleType):
    """Two GPUs, of which the second tells nothing but its memory. The functions named in `silent` raise."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.silent: set[str] = set()
        self.opened = 0

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in self.silent:
            raise NVMLError(name)
        return super().__getattribute__(name)

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=24 * GIB, free=4 * GIB, used=20 * GIB)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13_010

    def nvmlDeviceGetName(self, handle: int) -> str:
        return first(handle, "NVIDIA GeForce RTX 3090")

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return first(handle, (8, 6))

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return first(handle, SimpleNamespace(gpu=97, memory=40))

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return first(handle + sensor, 71)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return first(handle, 312_400)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        raise NVMLError("a driver older than the function")

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: int) -> list[Any]:
        return first(handle, [SimpleNamespace(pid=2**22 + 1, usedGpuMemory=3 * GIB)])

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle: int) -> list[Any]:
        return first(handle, [SimpleNamespace(pid=2**22 + 2, usedGpuMemory=None)])


def first(handle: int, answer: Any) -> Any:
    if handle:
        raise NVMLError("not supported")
    return answer


def pretend(monkeypatch: pytest.MonkeyPatch, *silent: str) -> Nvml:
    """A machine with that driver. CUDA_VISIBLE_DEVICES is not set."""
    driver = Nvml()
    driver.silent.update(silent)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return driver
