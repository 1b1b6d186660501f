"""What the machine tells, read from files and from a driver that stand in for the real ones."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from minisheep.screen import nvml
from minisheep.screen.machine import READ_SECONDS, Card, Gauge, total_ram

GIB = 2**30


class Driver:
    """In the place of libnvidia-ml: two cards, of which the second tells nothing but its memory."""

    def __init__(self) -> None:
        self.open = False

    def nvmlInit_v2(self) -> int:
        self.open = True
        return 0

    def nvmlShutdown(self) -> int:
        self.open = False
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:
        handle._obj.value = 100 + index.value
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: Any) -> int:
        memory._obj.total, memory._obj.used = 24 * GIB, 20 * GIB
        return 0

    def nvmlSystemGetDriverVersion(self, text: Any, room: ctypes.c_uint) -> int:
        text.value = b"580.95.05"
        return 0

    def nvmlSystemGetCudaDriverVersion_v2(self, number: Any) -> int:
        number._obj.value = 13_010
        return 0

    def nvmlDeviceGetName(self, handle: ctypes.c_void_p, text: Any, room: ctypes.c_uint) -> int:
        text.value = b"NVIDIA GeForce RTX 3090"
        return 0 if handle.value == 100 else 3

    def nvmlDeviceGetCudaComputeCapability(self, handle: ctypes.c_void_p, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = 8, 6
        return 0 if handle.value == 100 else 3

    def nvmlDeviceGetUtilizationRates(self, handle: ctypes.c_void_p, use: Any) -> int:
        use._obj.gpu = 97
        return 0 if handle.value == 100 else 3

    def nvmlDeviceGetTemperature(self, handle: ctypes.c_void_p, sensor: ctypes.c_uint, degrees: Any) -> int:
        degrees._obj.value = 71
        return 0 if handle.value == 100 and sensor.value == 0 else 3

    def nvmlDeviceGetPowerUsage(self, handle: ctypes.c_void_p, milliwatts: Any) -> int:
        milliwatts._obj.value = 312_400
        return 0 if handle.value == 100 else 3


def test_cards_tell_what_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    found = nvml.Nvml()
    # This driver is too old to know the power limit.
    assert [Card(**told) for told in found.read()] == [
        Card(20 * GIB, 24 * GIB, busy=97, temperature=71, watts=312.4),
        Card(20 * GIB, 24 * GIB),
    ]
    found.close()
    assert not driver.open and found.read() == []


def test_without_a_driver_there_are_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    found = nvml.Nvml()
    assert found.read() == []
    found.close()


@pytest.mark.parametrize(("limit", "total"), [("max\n", 16 * GIB), (f"{4 * GIB}\n", 4 * GIB), (None, 16 * GIB)])
def test_the_memory_of_a_container_ends_at_its_limit(limit: str | None, total: int, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal:       {16 * GIB // 1024} kB\nMemFree:  1 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert total_ram(tmp_path, tmp_path) == total


def test_a_system_that_tells_no_memory_is_no_error(tmp_path: Path) -> None:
    assert total_ram(tmp_path, tmp_path) is None


def test_the_machine_is_read_every_other_second_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now, reads = [0.0], [0]

    def read() -> int:
        reads[0] += 1
        return GIB

    monkeypatch.setattr("minisheep.screen.machine.total_ram", read)
    gauge = Gauge(lambda: now[0])
    for _ in range(33):
        gauge.read()
        now[0] += READ_SECONDS / 8
    gauge.close()
    assert reads[0] == 5


def test_versions_and_identities_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    found = nvml.Nvml()
    assert found.versions() == ("580.95.05", "13.1")
    one, other = found.identities()
    assert (one["name"], one["capability"], one["total"]) == ("NVIDIA GeForce RTX 3090", "8.6", 24 * GIB)
    assert (other["name"], other["capability"]) == ("NVIDIA card", "")
    found.close()


def test_without_a_driver_nothing_is_told_of_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert nvml.Nvml().versions() == ("", "") and nvml.Nvml().identities() == []
