"""NVIDIA's management library (libnvidia-ml, which comes with the driver), as much of it as the screen, the doctor and
the choice of a trainer ask."""

from __future__ import annotations

import ctypes
from typing import Any

SUCCESS = 0
GPU_TEMPERATURE = 0
"""NVML_TEMPERATURE_GPU."""
_TEXT = 96
"""NVML_DEVICE_NAME_V2_BUFFER_SIZE, the longest of its texts."""


class _Memory(ctypes.Structure):
    """nvmlMemory_t: bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilization(ctypes.Structure):
    """nvmlUtilization_t: percent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t (v3): bytes; all ones where the driver does not tell."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


_MOST_PROCESSES = 256
_NOT_TOLD = 2**64 - 1


class Nvml:
    """The cards that the driver knows; none where there is no driver."""

    def __init__(self) -> None:
        self._library: Any = None
        self._handles: list[ctypes.c_void_p] = []
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
            if library.nvmlInit_v2() != SUCCESS:
                return
        except (OSError, AttributeError):
            return
        self._library = library
        count = ctypes.c_uint(0)
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == SUCCESS:
                self._handles.append(handle)

    def read(self) -> list[dict[str, Any]]:
        """What each card tells, by the names of `machine.Card`; a card that tells not even its memory is left out."""
        return [told for handle in self._handles if (told := self._card(handle))]

    def versions(self) -> tuple[str, str]:
        """Those of the driver and of the newest CUDA that it runs (``580.95``, ``13.0``); empty where not told."""
        if self._library is None:
            return "", ""
        text, number = ctypes.create_string_buffer(_TEXT), ctypes.c_int()
        try:
            driver = self._library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(_TEXT)) == SUCCESS
            cuda = self._library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(number)) == SUCCESS
        except AttributeError:  # a driver older than the function
            return text.value.decode("utf-8", "replace"), ""
        told = f"{number.value // 1000}.{number.value % 1000 // 10}" if cuda else ""
        return text.value.decode("utf-8", "replace") if driver else "", told

    def identities(self) -> list[dict[str, Any]]:
        """Each card that tells its memory: `name`, compute `capability` (``8.6``, or empty), `free` and `total` bytes,
        and `holders` (bytes by PID).

        CUDA_VISIBLE_DEVICES hides none of them.
        """
        return [told for handle in self._handles if (told := self._identity(handle))]

    def _identity(self, handle: ctypes.c_void_p) -> dict[str, Any]:
        memory, text = _Memory(), ctypes.create_string_buffer(_TEXT)
        if not self._told("nvmlDeviceGetMemoryInfo", handle, memory):
            return {}
        if self._library.nvmlDeviceGetName(handle, text, ctypes.c_uint(_TEXT)) != SUCCESS:
            text.value = b"NVIDIA card"
        major, minor = ctypes.c_int(), ctypes.c_int()
        told = self._told("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), minor)
        capability = f"{major.value}.{minor.value}" if told else ""
        name = text.value.decode("utf-8", "replace")
        return {
            "name": name,
            "capability": capability,
            "free": memory.free,
            "total": memory.total,
            "holders": self._holders(handle),
        }

    def _holders(self, handle: ctypes.c_void_p) -> dict[int, int]:
        """Bytes of the card that each process holds, 0 where the driver does not tell; graphics as well as compute."""
        found: dict[int, int] = {}
        for function in ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3"):
            processes = (_Process * _MOST_PROCESSES)()
            count = ctypes.c_uint(_MOST_PROCESSES)
            if self._told(function, handle, ctypes.byref(count), processes):
                for process in processes[: count.value]:
                    found[process.pid] = 0 if process.used == _NOT_TOLD else process.used
        return found

    def close(self) -> None:
        if self._library is not None:
            self._library.nvmlShutdown()
            self._library, self._handles = None, []

    def _card(self, handle: ctypes.c_void_p) -> dict[str, Any]:
        memory = _Memory()
        if not self._told("nvmlDeviceGetMemoryInfo", handle, memory):
            return {}
        card: dict[str, Any] = {"used": memory.used, "total": memory.total}
        use, degrees, milliwatts, limit = _Utilization(), ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
        if self._told("nvmlDeviceGetUtilizationRates", handle, use):
            card["busy"] = use.gpu
        if self._told("nvmlDeviceGetTemperature", handle, ctypes.c_uint(GPU_TEMPERATURE), degrees):
            card["temperature"] = degrees.value
        if self._told("nvmlDeviceGetPowerUsage", handle, milliwatts):
            card["watts"] = milliwatts.value / 1000
        if self._told("nvmlDeviceGetEnforcedPowerLimit", handle, limit):
            card["limit"] = limit.value / 1000
        return card

    def _told(self, function: str, handle: ctypes.c_void_p, *arguments: Any) -> bool:
        """Call a function whose last argument is where its answer goes; whether it answered."""
        *given, answer = arguments
        try:
            return bool(getattr(self._library, function)(handle, *given, ctypes.byref(answer)) == SUCCESS)
        except AttributeError:  # a driver older than the function
            return False
